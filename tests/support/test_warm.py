"""A zygote that is forked from the template is what a new interpreter would be."""

import fcntl
import json
import os
import re
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiocluster import beginning
from aiocluster.launch.interpreter import InterpreterSpec
from aiocluster.launch.subreaper import become_subreaper
from tests.support.warm import Template
from tests.support.warm import template as template

REPOSITORY = Path(__file__).parents[2]


def unpickled_zygote(fd: int) -> None:
    """Write all that a process is born with, and end with 7."""
    facts = {
        "arguments": [sys.argv, sys.orig_argv, repr(sys.flags), sys.path, sys.executable],
        "environment": dict(os.environ),
        "main": sorted(vars(sys.modules["__main__"])),
        "beginning": [beginning.FOLDER, beginning.FIRST_OF_PATH, os.getpid() == beginning.PID],
        "descriptors": dict(_descriptors()),
        "signals": [str(signal.getsignal(number)) for number in signal.valid_signals()],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "group": [os.getpgrp() == os.getpid(), os.getsid(0), os.getppid()],
        "limits": [resource.getrlimit(one) for one in range(16)],
        "place": [os.umask(0), sorted(os.sched_getaffinity(0)), os.sched_getscheduler(0)],
        "threads": threading.active_count(),
    }
    os.write(fd, json.dumps(facts).encode())
    sys.stdout.write("printed\n")
    sys.exit(7)


def _descriptors() -> Iterator[tuple[int, str]]:
    for name in os.listdir("/proc/self/fd"):
        if os.path.exists(link := f"/proc/self/fd/{name}"):  # but for the folder itself
            yield int(name), re.sub(r"\d+", "N", os.readlink(link))


async def facts_of_one_started(*, own_group: bool) -> dict[str, Any]:
    """Start one; return what it says of itself."""
    told, low = os.pipe()
    # The same number each time, far above those that it has beside it.
    its = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 500)
    os.close(low)
    code = f"import sys; sys.path.append({str(REPOSITORY)!r});"
    code += f" from tests.support.test_warm import unpickled_zygote; unpickled_zygote({its})"
    interpreter = InterpreterSpec([sys.executable, "-c", code], [its], own_group=own_group)
    started = await interpreter.start_zygote()
    interpreter.close()
    with open(told, "rb") as pipe:  # noqa: ASYNC230 (it ends at once)
        facts: dict[str, Any] = json.load(pipe)
    _, status = os.waitpid(started.pid, 0)  # noqa: ASYNC222 (it ends at once)
    started.sock.close()
    assert started.tail is not None
    started.tail.close()
    return {**facts, "exit code": os.waitstatus_to_exitcode(status), "said": started.tail.text}


@pytest.mark.parametrize("own_group", [True, False])
async def test_it_is_what_a_new_interpreter_is(
    own_group: bool,
    template: Template,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In everything that a process is born with, and in how it ends."""
    monkeypatch.setenv("SHOP", "open")
    monkeypatch.chdir(tmp_path)
    become_subreaper()
    another = os.dup(0)
    os.set_inheritable(another, True)

    new = await facts_of_one_started(own_group=own_group)
    printed = capfd.readouterr()
    monkeypatch.setattr(os, "posix_spawn", None)  # nothing else is started
    with template.in_place_of_new_ones():
        forked = await facts_of_one_started(own_group=own_group)
    os.close(another)

    assert forked == new
    assert forked["exit code"] == 7
    assert capfd.readouterr() == printed
    assert printed.out == "printed\n"

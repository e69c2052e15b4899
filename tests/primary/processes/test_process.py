"""A worker's process. They are real, and short."""

import asyncio
import os
import signal

import pytest

from aiocluster.primary.processes.exit_status import ExitStatus
from aiocluster.primary.processes.process import WorkerProcess
from tests.support.connections import open_fds
from tests.support.processes import is_reaped, reap, start_process
from tests.support.waiting import soon


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", ExitStatus(0, None)),
        ("exit 3", ExitStatus(3, None)),
        ("kill -KILL $$", ExitStatus(None, signal.SIGKILL)),
        ("kill -SEGV $$", ExitStatus(None, signal.SIGSEGV)),
    ],
)
async def test_a_child_of_ours_tells_its_status_itself(script: str, status: ExitStatus) -> None:
    """When the zygote is gone its workers are our children: we take the status, and reap."""
    before = open_fds()
    pid = start_process(script)
    process = WorkerProcess(pid, os.pidfd_open(pid))

    assert await soon(process.wait()) == status

    assert is_reaped(pid)
    assert open_fds() <= before


@pytest.mark.parametrize("told", ["before it is seen dead", "after"])
async def test_the_zygote_tells_the_status(told: str) -> None:
    """Its word is taken, whichever comes first: the word or the death."""
    pid = start_process("exit 9")
    process = WorkerProcess(pid, os.pidfd_open(pid))
    died = asyncio.Event()
    process.on_death(died.set)
    if told == "after":
        await soon(died.wait())
    process.tell_status(5 << 8)
    process.tell_status(6 << 8)

    assert await soon(process.wait()) == ExitStatus(5, None)
    reap(pid)


async def test_a_status_nobody_can_tell_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reaped it did not say: the wait ends all the same."""
    monkeypatch.setattr("aiocluster.primary.processes.process._STATUS_TIMEOUT", 0.01)
    pid = start_process("exit 0")
    pidfd = os.pidfd_open(pid)
    reap(pid)
    process = WorkerProcess(pid, pidfd)

    assert await soon(process.wait()) == ExitStatus(None, None)


async def test_a_death_is_told_also_to_who_asks_after_it() -> None:
    """It may die in the turn of the loop in which it is handed out."""
    pid = start_process("exit 0")
    process = WorkerProcess(pid, os.pidfd_open(pid))
    await soon(process.wait())

    died = asyncio.Event()
    process.on_death(died.set)

    await soon(died.wait())


async def test_a_death_is_told_to_all_who_asked() -> None:
    """At once, before anybody knows how it ended."""
    pid = start_process("exit 0")
    process = WorkerProcess(pid, os.pidfd_open(pid))
    told: list[str] = []
    process.on_death(lambda: told.append("first"))
    process.on_death(lambda: told.append("second"))
    await soon(process.wait())

    assert told == ["first", "second"]


async def test_a_signal_reaches_the_process_and_nobody_once_it_is_dead() -> None:
    """A pid that was given to a stranger is never signalled."""
    pid = start_process("exec sleep 1000")
    process = WorkerProcess(pid, os.pidfd_open(pid))

    process.send_signal(signal.SIGTERM)

    assert await soon(process.wait()) == ExitStatus(None, signal.SIGTERM)
    process.send_signal(signal.SIGTERM)


async def test_a_signal_to_one_that_died_unseen_is_harmless() -> None:
    """Between a death and our hearing of it nothing raises."""
    pid = start_process("exit 0")
    pidfd = os.pidfd_open(pid)
    reap(pid)
    process = WorkerProcess(pid, pidfd)

    process.send_signal(signal.SIGTERM)
    process.tell_status(0)

    await soon(process.wait())

"""Whom the kernel lets run first. It changes a process for good, so each test has its own."""

import os
import subprocess
import sys

SHOW = "import os; print(os.sched_getscheduler(0), flush=True)"
PREFER = f"""
import os, sys
from aiocluster.launch.scheduling import spawn_options, workers_preferred
%s
child = [sys.executable, "-c", {SHOW!r}]
with workers_preferred():
    {SHOW}
    os.waitpid(os.posix_spawn(child[0], child, os.environ, **spawn_options), 0)
{SHOW}
"""


def policies(before: str) -> list[int]:
    """The policy of a process that prefers workers, of one it starts, and its own afterwards."""
    command = [sys.executable, "-c", PREFER % before]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [int(line) for line in done.stdout.split()]


def test_the_primary_gives_way_and_what_it_starts_does_not() -> None:
    """A replacement zygote is as any other process, and so are we when the cluster has ended."""
    assert policies("") == [os.SCHED_BATCH, os.SCHED_OTHER, os.SCHED_OTHER]


def test_what_an_operator_chose_is_kept() -> None:
    """`chrt`, or a unit file, knows better."""
    chosen = "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))"

    assert policies(chosen) == [os.SCHED_IDLE] * 3


def test_where_it_is_forbidden_nothing_happens() -> None:
    """A sandbox may not allow it."""
    forbid = """
def forbidden(*_): raise PermissionError
os.sched_setscheduler = forbidden
"""
    assert policies(forbid) == [os.SCHED_OTHER] * 3


def test_what_comes_in_our_place_is_as_we_were() -> None:
    """And we give way again when it did not come."""
    source = f"""
import os
from aiocluster.launch.scheduling import workers_not_preferred, workers_preferred
with workers_not_preferred():
    {SHOW}
with workers_preferred():
    with workers_not_preferred():
        {SHOW}
    {SHOW}
"""
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True)
    found = [int(line) for line in done.stdout.split()]
    assert found == [os.SCHED_OTHER, os.SCHED_OTHER, os.SCHED_BATCH]

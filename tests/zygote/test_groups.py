"""What dead workers leave in their process groups, and its end: with real processes of a test's."""

import os
import signal
from collections.abc import Iterator

import pytest

from aiocluster.zygote.groups import _TERM_TIMEOUT, Groups


class Stage:
    """Groups, and what time it is for them."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.groups = Groups(lambda: self.time)
        self.started: list[int] = []

    def start(self, script: str, group: int = 0) -> int:
        """Start a shell in this group, or in one of its own; return once it has said a line."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", f"{script}"],
            os.environ,
            setpgroup=group,
            file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)],
        )
        os.close(writer)
        assert os.read(reader, 1) == b"x"
        os.close(reader)
        self.started.append(pid)
        return pid

    def dead_leader(self) -> int:
        leader = self.start("printf x")
        os.waitid(os.P_PID, leader, os.WEXITED | os.WNOWAIT)
        return leader

    def died_of(self, pid: int) -> int:
        self.started.remove(pid)
        return -os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def runs(self, pid: int) -> bool:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    for pid in stage.started:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# Each is one process, which a signal that is not ignored ends.
MEEK = "printf x; exec sleep 1000"
STUBBORN = "trap '' TERM; printf x; exec sleep 1000"


def test_members_end_by_term_even_if_they_are_stopped(stage: Stage) -> None:
    """At once; nothing is left to be killed."""
    leader = stage.dead_leader()
    meek, stopped = stage.start(MEEK, leader), stage.start(MEEK, leader)
    os.kill(stopped, signal.SIGSTOP)

    stage.groups.end(leader)

    assert [stage.died_of(pid) for pid in (meek, stopped)] == [signal.SIGTERM] * 2
    stage.time += _TERM_TIMEOUT
    stage.groups.kill_due()
    assert stage.groups.timeout is None


def test_a_member_that_does_not_hear_term_is_killed_in_time(stage: Stage) -> None:
    """Not before; and no other group is touched."""
    leader, stranger = stage.dead_leader(), stage.start(MEEK)
    stubborn = stage.start(STUBBORN, leader)
    assert stage.groups.timeout is None
    stage.groups.end(leader)
    assert stage.died_of(leader) == 0
    assert stage.groups.timeout == _TERM_TIMEOUT
    stage.groups.kill_due()
    assert stage.runs(stubborn)
    stage.time += 2 * _TERM_TIMEOUT
    assert stage.groups.timeout == 0.0

    stage.groups.kill_due()

    assert stage.died_of(stubborn) == signal.SIGKILL
    assert stage.runs(stranger)
    assert stage.groups.timeout is None


def test_a_worker_that_died_before_it_led_a_group_is_no_harm(stage: Stage) -> None:
    """There is no group of that number."""
    stage.groups.end(stage.start("printf x", os.getpgrp()))

    assert stage.groups.timeout is None

"""How the ends of children are waited for, where neither thread nor descriptor is to be had."""

import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from aiocluster.ipc.child_ends import child_ends_held, is_reaped_within, wait_for_child
from tests.support.processes import is_reaped, start_process

PATIENCE = 60.0


@contextmanager
def no_descriptor() -> Iterator[None]:
    """Let this process open nothing more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_child_that_ends_is_reaped() -> None:
    """At the limit of descriptors, too; who asks for one that is not a child is told so."""
    pid = start_process("exec sleep 1000")
    os.kill(pid, signal.SIGTERM)
    with no_descriptor():
        is_in_time = is_reaped_within(pid, PATIENCE)

    assert is_in_time
    with pytest.raises(ChildProcessError):
        is_reaped_within(pid, PATIENCE)


def test_one_that_lives_is_not_waited_for_longer() -> None:
    """The caller then has other means."""
    pid = start_process("exec sleep 1000")
    try:
        assert not is_reaped_within(pid, 0.01)
        assert not is_reaped_within(pid, 0.0)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert is_reaped(pid)


def test_an_end_before_the_wait_is_not_missed_and_the_mask_is_restored() -> None:
    """The signal waits while it is held, though nobody has a handler for it."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with child_ends_held():
        signal.pthread_kill(threading.get_ident(), signal.SIGCHLD)
        wait_for_child(PATIENCE)
        assert signal.SIGCHLD not in signal.sigpending()

    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask

"""Waits for the ends of child processes, without a descriptor or a thread.

A stop must work even if the system has neither left, so it uses no pidfd: the kernel's signal
says that some child has ended.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Seconds between two checks of the children: another thread may have received the signal.
_LOOK_INTERVAL = 0.05


@contextmanager
def child_ends_held() -> Iterator[None]:
    """Block SIGCHLD inside, so that `wait_for_child` misses no end of a child."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait_for_child(seconds: float) -> None:
    """Wait until a child may have ended, or `seconds` are over."""
    if seconds > 0:
        signal.sigtimedwait({signal.SIGCHLD}, min(seconds, _LOOK_INTERVAL))


def is_reaped_within(pid: int, seconds: float) -> bool:
    """Wait for the end of this child; return False if it has not ended in time."""
    deadline = time.monotonic() + seconds
    with child_ends_held():
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if (left := deadline - time.monotonic()) <= 0:
                return False
            wait_for_child(left)
    return True

"""Waits for the ends of child processes with no descriptor and no thread.

A stop must work where neither is to be had, so it has no pidfds: the kernel's signal says that
some child has ended.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Seconds between two looks at the children: another thread may have been given the signal.
_LOOK_INTERVAL = 0.05


@contextmanager
def child_ends_held() -> Iterator[None]:
    """Let the signal of an end wait inside for `wait_for_child`, so that none is missed."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait_for_child(seconds: float) -> None:
    """Return when a child may have ended, or `seconds` are over."""
    if seconds > 0:
        signal.sigtimedwait({signal.SIGCHLD}, min(seconds, _LOOK_INTERVAL))


def is_reaped_within(pid: int, seconds: float) -> bool:
    """Wait for the end of this child; False when it has not ended in time."""
    deadline = time.monotonic() + seconds
    with child_ends_held():
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if (left := deadline - time.monotonic()) <= 0:
                return False
            wait_for_child(left)
    return True

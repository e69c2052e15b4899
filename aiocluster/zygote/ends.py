"""The end of an import: its exit hooks run, and its child processes are ended.

The primary waits some seconds for the end of a zygote, then kills it. So each step here has a
timeout, and all together take less.
"""

import os
import signal
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from types import FrameType

from aiocluster.ipc.child_ends import child_ends_held, wait_for_child
from aiocluster.zygote.holdings import children, running_children

# Seconds for all exit hooks together; after that each remaining hook gets the shorter time.
_HOOKS_TIMEOUT = 1.5
_EACH_HOOK_LATER = 0.2

# Seconds that children have after TERM, and the kernel after KILL.
_TERM_TIMEOUT = 1.0
_KILL_TIMEOUT = 0.5


class HookTimeout(BaseException):
    """The error that interrupts an exit hook which takes too long."""


def end_import(hooks: Callable[[], None]) -> None:
    """Run the exit `hooks` of the import, then end its child processes."""
    _run(hooks)
    end_children()


def _run(hooks: Callable[[], None]) -> None:
    """Run the hooks; interrupt a hook that does not end, and print its traceback."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise HookTimeout("it took too long, at the end of what was imported")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, _HOOKS_TIMEOUT, _EACH_HOOK_LATER)
    try:
        hooks()
    except BaseException:
        traceback.print_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def end_children(pids: Collection[int] | None = None) -> None:
    """End these children, or all, and the orphans that they leave to this process.

    A child with a session of its own is a daemon on purpose, and stays.
    """
    for number, timeout in ((signal.SIGTERM, _TERM_TIMEOUT), (signal.SIGKILL, _KILL_TIMEOUT)):
        deadline = time.monotonic() + timeout
        signalled: set[int] = set()
        with child_ends_held():
            while left := _to_be_ended(pids):
                for pid in left - signalled:
                    with suppress(OSError):  # a thread of the import has reaped it
                        os.kill(pid, number)
                signalled |= left
                if (seconds := deadline - time.monotonic()) <= 0:
                    break
                wait_for_child(seconds)


def _to_be_ended(pids: Collection[int] | None) -> set[int]:
    """Return the children that still run; reap the dead ones."""
    session = os.getsid(0)
    found: set[int] = set()
    for pid in running_children():
        with suppress(ProcessLookupError):
            if os.getsid(pid) == session and (pids is None or pid in pids):
                found.add(pid)
    for pid in {*children()} - found:
        if pids is None or pid in pids:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
    return found

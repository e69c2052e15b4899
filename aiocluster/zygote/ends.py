"""The end of what an import started: its exit hooks run, and its child processes are ended.

The primary waits some seconds for the end of a zygote, then kills it. So every step here has an
end of its own, and all together take less.
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

# Seconds for all exit hooks together; those that are still to come then get this much each.
_HOOKS_TIMEOUT = 1.5
_EACH_HOOK_LATER = 0.2

# Seconds that children have after TERM, and the kernel after KILL.
_TERM_TIMEOUT = 1.0
_KILL_TIMEOUT = 0.5


class HookTimeout(BaseException):
    """An exit hook took too long: raised into it, whatever it does."""


def end_import(hooks: Callable[[], None]) -> None:
    """End what the import started: run its exit `hooks`, then end its child processes."""
    _run(hooks)
    end_children()


def _run(hooks: Callable[[], None]) -> None:
    """Run them; one that does not end is interrupted, and named."""

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
    """End these children, or all; what they leave behind to this process ends as well.

    One that has made itself a session of its own is a daemon on purpose, and stays.
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
    """Return those that still run; the dead are reaped."""
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

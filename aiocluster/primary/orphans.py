"""Processes whose parent has died, and which the kernel gives to us.

The primary is the subreaper of all it started, so that workers outlive their zygote as its
children, and, as process 1 of a container, of everything. Somebody must take their exit
statuses or they stay zombies for ever.
"""

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36

# Seconds between two looks. A zombie that is still there at the next look is nobody's: who
# waits for a child of his own takes its status within milliseconds.
_INTERVAL = 1.0


def become_subreaper() -> None:
    """Make the kernel give us the orphans among our descendants."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


async def reap_strays(is_stray: Callable[[int], bool]) -> None:
    """Reap, until cancelled, dead children for which `is_stray(pid)`."""
    suspects: set[int] = set()
    while True:
        await asyncio.sleep(_INTERVAL)
        zombies = {pid for pid in _zombie_children() if is_stray(pid)}
        for pid in zombies & suspects:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 (WNOHANG: it does not wait)
        suspects = zombies - suspects


def _zombie_children() -> set[int]:
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return set()
    except ChildProcessError:
        return set()
    children = {
        int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in _pids(path)
    }
    return {pid for pid in children if _is_zombie(pid)}


def _pids(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:  # the thread has ended
        return []


def _is_zombie(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False

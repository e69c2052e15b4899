"""Processes whose parent has died, and which the kernel gives to us.

The zygote is the subreaper of its workers, so what they leave behind is its child, and it
reaps whatever ends. The primary is the subreaper of the zygote, so that workers outlive it
as the primary's children, and, as process 1 of a container, of everything. Somebody must take
the exit statuses, or they stay zombies for ever.

Not every zombie is such an orphan: a program may have children of its own, whose status it
has not asked for yet. So only those are taken that are certainly or probably nobody's.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from aiocluster.primary.tasks import start_task

# Seconds between two looks.
_INTERVAL = 1.0

# Seconds that a dead child is left to whoever may ask for its status: hardly any where its
# process group tells that it is ours; where it may be the user's, as long as nobody minds.
_OWN_PATIENCE = 1.0
_STRANGERS_PATIENCE = 5.0


class KnownProcesses(Protocol):
    """The part of Generations that tells whose a child is."""

    @property
    def zygote_pids(self) -> set[int]: ...
    def knows(self, pid: int) -> bool: ...


class Reaper:
    """Reaps the orphans that only we can reap.

    With `own_group` each zygote has a process group of its own, by which they are known.
    `is_heir`: another program was here before, whose orphans are ours as well.
    """

    def __init__(self, known: KnownProcesses, *, own_group: bool, is_upgrade: bool) -> None:
        self._known = known
        self._own_group = own_group
        self._is_heir = is_upgrade
        self._reaping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Reap from now on those that have been dead for a while."""
        patience = _OWN_PATIENCE if self._own_group else _STRANGERS_PATIENCE
        self._reaping = start_task(reap_strays(self.is_stray, patience), "reaping orphans")

    def close(self) -> None:
        """Reap no more as time goes by. Idempotent."""
        if self._reaping is not None:
            self._reaping.cancel()

    def reap_rest(self) -> None:
        """Reap those that nobody else will, now that no more can come."""
        if self._own_group:
            for pid in filter(self.is_stray, zombie_children()):
                reap(pid)

    def is_stray(self, pid: int) -> bool:
        """Is this zombie child one that only we can reap?"""
        zygotes = self._known.zygote_pids
        if self._known.knows(pid):
            return False
        if not self._own_group:
            # An orphan is the zygote's, as long as that lives. What is left is the user's own,
            # unless we are process 1, which gets everybody's, or it was the last program's.
            return os.getpid() == 1 or len(zygotes) > 1 or self._is_heir
        try:
            group, is_ours = os.getpgid(pid), os.getsid(pid) == os.getsid(0)
        except ProcessLookupError:  # somebody else has reaped it
            return False
        # Or it was a worker's: nobody of the program's joins a group but its own, or the program's.
        return group in zygotes or (is_ours and group not in (pid, os.getpgrp()))


async def reap_strays(is_stray: Callable[[int], bool], patience: float) -> None:
    """Reap, until cancelled, children for which `is_stray(pid)`, dead for `patience` seconds."""
    loop = asyncio.get_running_loop()
    since: dict[int, float] = {}
    while True:
        await asyncio.sleep(_INTERVAL)
        now = loop.time()
        zombies = {pid for pid in zombie_children() if is_stray(pid)}
        since = {pid: since.get(pid, now) for pid in zombies}
        for pid, seen in since.items():
            if now - seen >= patience:
                reap(pid)


def reap(pid: int) -> None:
    """Take the status of a dead child; nothing happens if somebody else has."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def zombie_children() -> set[int]:
    """Return our children that are dead and not reaped."""
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

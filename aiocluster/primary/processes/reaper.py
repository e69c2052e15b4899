"""Orphans: processes that lost their parent, and that the kernel makes children of the primary.

The zygote is the subreaper of its workers: it gets and reaps the children that they leave behind.
The primary is the subreaper of the zygote, so workers that outlive their zygote become the
primary's children. As process 1 of a container, the primary gets every orphan. It must reap them,
or they stay zombies for ever.

Not every zombie is an orphan: the user's program may have children of its own, with a status that
it has not asked for yet. So only zombies that are certainly or probably orphans are reaped.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from aiocluster.primary.tasks import start_task

# Seconds between two searches for orphans.
_INTERVAL = 1.0

# Seconds that a dead child is left for other code to ask for its status: few if its process group
# shows that it is an orphan; more if it may be a child of the user's program.
_OWN_PATIENCE = 1.0
_STRANGERS_PATIENCE = 5.0


class KnownProcesses(Protocol):
    """The part of Generations that the Reaper needs to recognise children."""

    @property
    def zygote_pids(self) -> set[int]: ...
    def knows(self, pid: int) -> bool: ...


class Reaper:
    """A reaper of the orphans that only the primary can reap.

    If `own_group`, each zygote has a process group of its own, which identifies its orphans.
    If `is_upgrade`, the previous program of this process may have left orphans too.
    """

    def __init__(self, known: KnownProcesses, *, own_group: bool, is_upgrade: bool) -> None:
        self._known = known
        self._own_group = own_group
        self._is_upgrade = is_upgrade
        self._reaping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Reap, from now on, orphans that have been dead for a while."""
        patience = _OWN_PATIENCE if self._own_group else _STRANGERS_PATIENCE
        self._reaping = start_task(reap_strays(self.is_stray, patience), "reaping orphans")

    def close(self) -> None:
        """Stop the regular reaping. Idempotent."""
        if self._reaping is not None:
            self._reaping.cancel()

    def reap_rest(self) -> None:
        """Reap the remaining orphans at the end, when no more can come."""
        if self._own_group:
            for pid in filter(self.is_stray, zombie_children()):
                reap(pid)

    def is_stray(self, pid: int) -> bool:
        """Return True if only the primary can reap this zombie child."""
        zygotes = self._known.zygote_pids
        if self._known.knows(pid):
            return False
        if not self._own_group:
            # While the zygote lives, it gets all orphans, and other zombies are children of the
            # user's program: unless this is process 1, or the previous program left them.
            return os.getpid() == 1 or len(zygotes) > 1 or self._is_upgrade
        try:
            group, is_ours = os.getpgid(pid), os.getsid(pid) == os.getsid(0)
        except ProcessLookupError:  # other code has reaped it
            return False
        # The second case is a worker's child: a child of the user's program leads a process group
        # of its own or is in the program's.
        return group in zygotes or (is_ours and group not in (pid, os.getpgrp()))


async def reap_strays(is_stray: Callable[[int], bool], patience: float) -> None:
    """Reap, until cancelled, children with `is_stray(pid)` that are dead for `patience` seconds."""
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
    """Take the status of a dead child; do nothing if other code has taken it."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def zombie_children() -> set[int]:
    """Return the children of this process that are dead and not reaped."""
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

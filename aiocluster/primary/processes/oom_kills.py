"""Deaths by the kernel's out-of-memory killer, from the count of kills in the cgroup.

The status of a worker that died of signal 9 does not show the signal's sender. The count rises
before the signal is sent. If it rose by n, up to n deaths soon after are put down to the killer.
"""

from collections.abc import Callable

from aiocluster.config.cgroups import Cgroup, own_cgroups

# Seconds between two reads of the count while no worker dies.
_LOOK_INTERVAL = 1.0

# Seconds after a rise in which a death may belong to it: several processes may be killed at once,
# and a large one dies slowly.
_LATELY = 5.0

# By version of cgroups: the file with a line like `oom_kill 3`.
_FILES = {1: "memory.oom_control", 2: "memory.events"}


class OomKills:
    """The count of OOM kills in one cgroup, and when it last rose."""

    def __init__(self, read: Callable[[], int | None] | None = None) -> None:
        self._read = read or _counter()
        self._count = self._read()
        self._unclaimed = 0  # recent kills that no death was put down to
        self._looked_at = self._rose_at = float("-inf")

    def look(self, now: float) -> None:
        """Read the count, so that a later death is not put down to earlier kills."""
        if now - self._looked_at >= _LOOK_INTERVAL:
            self._note(now)

    def claim(self, now: float) -> bool | None:
        """Return True if a process found dead at `now` was OOM-killed; None without a count."""
        self._note(now)
        if self._count is None:
            return None
        if not self._unclaimed:
            return False
        self._unclaimed -= 1
        return True

    def _note(self, now: float) -> None:
        before, self._count = self._count, self._read()
        if now - self._rose_at > _LATELY:
            self._unclaimed = 0
        if before is not None and self._count is not None and self._count > before:
            self._unclaimed += self._count - before
            self._rose_at = now
        self._looked_at = now


def _counter() -> Callable[[], int | None]:
    """Return a function that reads the count of this process's cgroup."""
    for cgroup in own_cgroups("memory"):
        if count_in(cgroup) is not None:
            return lambda: count_in(cgroup)
    return lambda: None


def count_in(cgroup: Cgroup) -> int | None:
    """Return how many processes of this cgroup were OOM-killed; None if there is no count."""
    for line in cgroup.says(_FILES[cgroup.version]).splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill" and count.isdecimal():
            return int(count)
    return None

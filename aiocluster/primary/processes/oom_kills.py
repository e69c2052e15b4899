"""Whether the kernel's out-of-memory killer was at work: the cgroup counts whom it killed.

A worker that dies of signal 9 does not say who sent it. The count rises before the signal is
sent, so as many deaths soon after it rose are put down to it as it rose by.
"""

from collections.abc import Callable

from aiocluster.config.cgroups import Cgroup, own_cgroups

# Seconds between two looks at the count while nobody dies.
_LOOK_INTERVAL = 1.0

# Seconds after which a death has nothing to do with what was counted: several are killed at
# once, and a large process takes its time to die.
_LATELY = 5.0

# By version of cgroups: the file in which a line `oom_kill 3` is.
_FILES = {1: "memory.oom_control", 2: "memory.events"}


class OomKills:
    """The count of one cgroup, and when it rose last."""

    def __init__(self, read: Callable[[], int | None] | None = None) -> None:
        self._read = read or _counter()
        self._count = self._read()
        self._unclaimed = 0  # those counted lately that no death was put down to
        self._looked_at = self._rose_at = float("-inf")

    def look(self, now: float) -> None:
        """Note what is counted now, so that it is not put down to a death that comes later."""
        if now - self._looked_at >= _LOOK_INTERVAL:
            self._note(now)

    def claim(self, now: float) -> bool | None:
        """Was a process that is seen to be dead at `now` one of them? None when nobody counts."""
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
    """Return what reads the count of the cgroup that this process is in."""
    for cgroup in own_cgroups("memory"):
        if count_in(cgroup) is not None:
            return lambda: count_in(cgroup)
    return lambda: None


def count_in(cgroup: Cgroup) -> int | None:
    """Return how many processes of this cgroup were killed; None when it does not say."""
    for line in cgroup.says(_FILES[cgroup.version]).splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill" and count.isdecimal():
            return int(count)
    return None

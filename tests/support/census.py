"""Everything that a cluster might leave behind, counted.

before = await quiet(cluster, 2, strangers)
...
await nothing_grew(before, cluster, 2, strangers)

The primary of a Cluster is the test's own process, so that its objects can be counted.
"""

import asyncio
import gc
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from aiocluster import Cluster
from tests.support.program import PATIENCE, is_running

# Whose objects are counted.
_PACKAGE = "aiocluster."

# How often, and after how many seconds, it is looked again whether something is still there.
_LOOKS = 50
_PAUSE = 0.1


@dataclass(frozen=True)
class Census:
    """What there is at one moment, by kind."""

    counts: Counter[str]

    @classmethod
    def now(cls, zygote: psutil.Process) -> Self:
        """Count the primary's and the zygote's descriptors, the loop's callbacks, our objects."""
        gc.collect()
        counts = Counter(
            {
                "descriptors of the primary": fds_of(os.getpid()),
                "descriptors of the zygote": fds_of(zygote.pid),
                "tasks": len(asyncio.all_tasks()),
                "timers": _timers(),
                "readers and writers": _watched_fds(),
            }
        )
        return cls(counts + _objects())

    def more_than(self, before: "Census") -> dict[str, int]:
        """Return of what there is more now, and by how much."""
        return dict(self.counts - before.counts)


async def quiet(cluster: Cluster, workers: int, strangers: set[int]) -> Census:
    """Wait until this many workers and one zygote are all there is; count."""
    zygote = await settled(cluster, workers, strangers)
    async with asyncio.timeout(PATIENCE):
        # The watchdog meets new workers when it looks at them, and tells nobody.
        watched = "aiocluster.primary.supervision.watchdog._WatchedWorker"
        while Census.now(zygote).counts[watched] != workers:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return Census.now(zygote)


async def settled(cluster: Cluster, workers: int, strangers: set[int]) -> psutil.Process:
    """Wait until this many ready workers and one zygote are all there is; return the zygote."""
    async with asyncio.timeout(PATIENCE):
        while not _is_whole(cluster, workers, family := _family(strangers)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    pids = {worker.pid for worker in cluster.workers.values()}
    (zygote,) = (process for process in family if process.pid not in pids)
    return zygote


async def nothing_grew(
    before: Census, cluster: Cluster, workers: int, strangers: set[int]
) -> Census:
    """Wait until there is no more of anything than before; fail with what there is more of."""
    for _ in range(_LOOKS):
        now = await quiet(cluster, workers, strangers)
        if not (grown := now.more_than(before)):
            return now
        await asyncio.sleep(_PAUSE)
    raise AssertionError(f"left behind: {grown}")


def fds_of(pid: int) -> int:
    """How many descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def pidfds_of(pid: int) -> int:
    """How many of them stand for processes."""
    folder = Path(f"/proc/{pid}/fd")
    return [_target(folder / name) for name in os.listdir(folder)].count("anon_inode:[pidfd]")


def mebibytes(pid: int) -> float:
    """The resident set of a process."""
    return psutil.Process(pid).memory_info().rss / 2**20


def children() -> list[psutil.Process]:
    """Return all descendants of this process, zombies too."""
    return psutil.Process().children(recursive=True)


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # closed since it was listed
        return ""


def _family(strangers: set[int]) -> list[psutil.Process]:
    return [process for process in children() if process.pid not in strangers]


def _is_whole(cluster: Cluster, workers: int, family: list[psutil.Process]) -> bool:
    ready = [worker for worker in cluster.workers.values() if worker.phase.value == "ready"]
    if not len(ready) == len(cluster.workers) == workers or len(family) != workers + 1:
        return False
    return all(is_running(process) for process in family)


def _timers() -> int:
    loop = asyncio.get_running_loop()
    return sum(not timer.cancelled() for timer in loop._scheduled)  # type: ignore[attr-defined]


def _watched_fds() -> int:
    return len(asyncio.get_running_loop()._selector.get_map())  # type: ignore[attr-defined]


def _objects() -> Counter[str]:
    """Count what lives of each of our classes, and of those that wait for something."""
    names = (_name(type(each)) for each in gc.get_objects())
    return Counter(name for name in names if name)


def _name(kind: type) -> str:
    # Cython's classes have something else there.
    if str(kind.__module__).startswith(_PACKAGE):
        return f"{kind.__module__}.{kind.__qualname__}"
    return kind.__name__ if kind in (asyncio.Future, asyncio.Event, asyncio.Lock) else ""

"""Finds the workers that are due to be replaced: they have grown too large, or too old.

At a soft limit a worker is replaced in its turn, and serves until the new worker is ready. When
its turn comes, the primary measures again, since a peak may be over by then. At the hard limit a
worker is killed. The primary reads its memory, since a worker in a blocked loop reports nothing.
"""

import asyncio
import contextlib
import logging
import mmap
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

from aiocluster.config.settings import Settings
from aiocluster.metrics.process import pss_of
from aiocluster.metrics.snapshot import Report
from aiocluster.primary.workers.handle import WorkerHandle
from aiocluster.timeouts import Countdown

log = logging.getLogger("aiocluster.supervisor")

# Seconds between two measurements of all workers' memory.
_LOOK_INTERVAL = 0.5

# Seconds. If a worker is too large sooner after its start, the cause is not a leak.
_YOUNG = 10.0

# Seconds between two looks at the clock for max_age: each worker has a timer for all its life.
_AGE_TICK = 10.0

# Seconds after which a too large worker is measured again, at most.
_LONGEST_WAIT = 300.0

Measure = Callable[[int], int | None]


class RecycleMonitor:
    """A monitor of the workers' size and age. It calls `recycle(worker, reason)` if one is due."""

    def __init__(
        self,
        settings: Settings,
        recycle: Callable[[WorkerHandle, str], None],
        measure: Measure | None = None,
    ) -> None:
        self._settings = settings
        self._recycle = recycle
        self._rss = measure or rss_bytes
        self._measure = measure or (rss_bytes if settings.memory_measure == "rss" else pss_bytes)
        self._loop = asyncio.get_running_loop()
        self._too_large: weakref.WeakSet[WorkerHandle] = weakref.WeakSet()
        self._once_fit: weakref.WeakSet[WorkerHandle] = weakref.WeakSet()
        self._outgrown: dict[int, int] = {}  # by slot: too large young workers in a row

    def on_ready(self, worker: WorkerHandle) -> None:
        """Start the timer for max_age: the worker serves from now on."""
        if self._settings.max_age:
            left = worker.ready_at + self._settings.max_age - self._loop.time()
            # A worker does not age while the whole program is paused.
            due = Countdown(left, lambda: self._recycle(worker, "max_age"), tick=_AGE_TICK)
            worker.exited.add_done_callback(lambda _: due.cancel())

    def on_report(self, worker: WorkerHandle, report: Report) -> None:
        """Note the size that the worker reports."""
        by_rss = self._settings.memory_measure == "rss"
        size = report.rss_bytes if by_rss else report.pss_bytes
        if not self._settings.max_memory:
            return
        if size <= self._settings.max_memory:
            self._once_fit.add(worker)
        elif worker.was_ready and not worker.is_leaving and worker not in self._too_large:
            self._too_large.add(worker)
            log.warning("%s has %d bytes, more than max_memory", worker, size)
            self._replace_in(self._wait_for(worker), worker)

    def is_still_due(self, worker: WorkerHandle, reason: str) -> bool:
        """Return True if the worker is still due. One that has shrunk may be due again later."""
        if reason != "memory_limit":  # age and requests never fall
            return True
        # Some kernels do not give the PSS: the worker, too, reported its RSS then.
        size = self._measure(worker.pid) or self._rss(worker.pid)
        if size is None or size > self._settings.max_memory:
            return size is not None
        log.info("%s has %d bytes again, not more than max_memory: it stays", worker, size)
        self._too_large.discard(worker)
        self._outgrown.pop(worker.slot, None)
        return False

    def _wait_for(self, worker: WorkerHandle) -> float:
        """Return the seconds until the worker is replaced: size from the start on is no leak."""
        if self._loop.time() - worker.ready_at >= _YOUNG:
            self._outgrown.pop(worker.slot, None)
            return 0.0
        count = self._outgrown.get(worker.slot, 0)
        self._outgrown[worker.slot] = count + 1
        if worker not in self._once_fit:  # the next worker would start as large
            count += 1
        return min(_YOUNG * 2.0 ** min(count - 1, 20), _LONGEST_WAIT) if count else 0.0

    def _replace_in(self, seconds: float, worker: WorkerHandle) -> None:
        if not seconds:
            self._recycle(worker, "memory_limit")
            return
        log.warning(
            "slot %d: a worker outgrows max_memory as soon as it serves: is the limit too low"
            " for this app? The worker is looked at again in %g s",
            worker.slot,
            seconds,
        )
        due = Countdown(seconds, lambda: self._recycle(worker, "memory_limit"))
        worker.exited.add_done_callback(lambda _: due.cancel())

    async def watch(self, workers: Callable[[], Iterable[WorkerHandle]]) -> None:
        """Kill workers past the hard limit, for ever; return if there is no such limit."""
        while self._settings.max_memory_hard:
            await asyncio.sleep(_LOOK_INTERVAL)
            for worker in [*workers()]:
                self._look_at(worker)

    def _look_at(self, worker: WorkerHandle) -> None:
        limit = self._settings.max_memory_hard
        # RSS is cheaper to read than PSS, and never smaller.
        if worker.is_dead or worker.ending.killed or (self._rss(worker.pid) or 0) <= limit:
            return
        if (size := self._measure(worker.pid)) is not None and size > limit:
            log.error("%s has %d bytes, more than max_memory_hard (%d)", worker, size, limit)
            worker.kill_for("memory_limit")


def rss_bytes(pid: int) -> int | None:
    """Return the resident set of a process in bytes; None if the process is gone."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * mmap.PAGESIZE
    return None


def pss_bytes(pid: int) -> int | None:
    """Return the proportional set of a process in bytes; None if the kernel does not give it."""
    return pss_of(Path(f"/proc/{pid}/smaps_rollup"))

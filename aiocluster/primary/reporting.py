"""Snapshots of the metrics, for subscribers here and in the workers."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping

import msgspec

from aiocluster.config.roles import ONLY_ROLE
from aiocluster.ipc.channel import Channel
from aiocluster.ipc.estate import SubscriptionState
from aiocluster.ipc.messages import SnapshotFor, Subscribe, Unsubscribe
from aiocluster.ipc.scoreboard import Scoreboard
from aiocluster.metrics.feed import paced
from aiocluster.metrics.ledger import WorkerFacts
from aiocluster.metrics.ledgers import Ledgers, LedgersState
from aiocluster.metrics.snapshot import Dispatch, Report, Snapshot
from aiocluster.primary.handle import WorkerHandle
from aiocluster.primary.tasks import start_task

log = logging.getLogger("aiocluster.metrics")

# A snapshot costs the primary up to a millisecond, so a worker may not ask for more than
# this many seconds allow.
_SHORTEST_INTERVAL = 0.05


class Reporter:
    """Puts together what workers report and what the scoreboard says."""

    def __init__(
        self,
        scoreboard: Scoreboard,
        workers: Callable[[], Iterable[WorkerHandle]],
        roles: Iterable[str] = (ONLY_ROLE,),
        dispatch: Callable[[], Mapping[str, Dispatch]] = dict,
    ) -> None:
        self.scoreboard = scoreboard
        self._workers = workers
        self._dispatch = dispatch
        self._loop = asyncio.get_running_loop()
        self._ledgers = Ledgers(self._loop.time(), roles)
        self._closed = asyncio.Event()
        self._feeds: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._intervals: dict[tuple[int, int], float] = {}  # of each feed

    def state(self) -> LedgersState:
        """What the next program must know of the past."""
        return self._ledgers.state()

    def adopt(self, state: LedgersState) -> None:
        """Go on with what another program remembers."""
        self._ledgers.adopt(state)

    @property
    def subscriptions(self) -> list[SubscriptionState]:
        """Those of the workers."""
        return [
            SubscriptionState(worker_id=worker, subscription_id=number, interval=interval)
            for (worker, number), interval in self._intervals.items()
        ]

    def report(self, worker: WorkerHandle, report: Report) -> None:
        """A worker reported."""
        self._ledgers.report(worker.id, worker.role, report, self._loop.time())

    def retire(self, worker: WorkerHandle) -> None:
        """A worker is gone: keep what it had done, feed it no more."""
        self._ledgers.retire(worker.id, worker.role, self.scoreboard.counters(worker.row))
        for key in [key for key in self._feeds if key[0] == worker.id]:
            self._feeds.pop(key).cancel()
            del self._intervals[key]

    def subscribe(self, interval: float) -> AsyncGenerator[Snapshot, None]:
        """Iterate over snapshots, one every `interval` seconds. See Cluster.subscribe."""
        return paced(interval, self._taker(), sleep=self._sleep)

    def serve(self, worker_id: int, channel: Channel, request: Subscribe | Unsubscribe) -> None:
        """A worker wants snapshots, or no more."""
        key = (worker_id, request.subscription_id)
        if (feed := self._feeds.pop(key, None)) is not None:
            feed.cancel()
            del self._intervals[key]
        if isinstance(request, Subscribe):
            interval = max(request.interval, _SHORTEST_INTERVAL)
            self._intervals[key] = interval
            self._feeds[key] = start_task(
                self._feed(request.subscription_id, interval, channel), "feeding a worker"
            )

    def close(self) -> None:
        """Feed nobody any more: every iteration ends. Idempotent."""
        self._closed.set()
        for feed in self._feeds.values():
            feed.cancel()
        self._feeds.clear()
        self._intervals.clear()

    async def _feed(self, subscription_id: int, interval: float, channel: Channel) -> None:
        unsent = 0
        async for snapshot in self.subscribe(interval):
            if channel.congested:
                unsent += 1 + snapshot.missed
                continue
            snapshot = msgspec.structs.replace(snapshot, missed=snapshot.missed + unsent)
            unsent = 0
            channel.post(SnapshotFor(subscription_id, msgspec.to_builtins(snapshot)))

    async def _sleep(self, seconds: float) -> bool:
        """Return True, and early, when there will be no more snapshots."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        return self._closed.is_set()

    def _taker(self) -> Callable[[int], Snapshot]:
        """Return what takes one subscription's snapshots: each knows the one before."""
        previous: Snapshot | None = self._snapshot(None, 0)

        def take(missed: int) -> Snapshot:
            nonlocal previous
            previous = self._snapshot(previous, missed)
            return previous

        return take

    def _snapshot(self, previous: Snapshot | None, missed: int) -> Snapshot:
        return self._ledgers.snapshot(
            [self._facts(worker) for worker in self._workers()],
            now=self._loop.time(),
            wall=time.time(),
            dispatch=self._dispatch(),
            previous=previous,
            missed=missed,
        )

    def _facts(self, worker: WorkerHandle) -> WorkerFacts:
        return WorkerFacts(
            worker_id=worker.id,
            slot=worker.slot,
            role=worker.role,
            generation=worker.generation,
            pid=worker.pid,
            phase=worker.phase.value,
            started_at=worker.born,
            restarts=worker.restarts,
            counters=self.scoreboard.counters(worker.row),
        )

"""Snapshots of the metrics, for subscribers in the primary and in the workers."""

import asyncio
import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Any

import msgspec

from aiocluster.config.roles import ONLY_ROLE
from aiocluster.errors import ProtocolError
from aiocluster.ipc.channel import Channel
from aiocluster.ipc.handover import SubscriptionState
from aiocluster.ipc.messages import MAX_SUBSCRIPTIONS, SnapshotFor, Subscribe, Unsubscribe
from aiocluster.ipc.scoreboard import Scoreboard
from aiocluster.ipc.turns import turns_of_loop
from aiocluster.metrics.aggregator import WorkerFacts
from aiocluster.metrics.feed import SnapshotBox, check_interval, paced
from aiocluster.metrics.role_aggregators import RoleAggregators, RoleAggregatorsState
from aiocluster.metrics.snapshot import Counters, Dispatch, Report, Snapshot
from aiocluster.primary.tasks import start_task
from aiocluster.primary.workers.handle import WorkerHandle
from aiocluster.primary.workers.scoreboard_check import has_grown

log = logging.getLogger("aiocluster.metrics")

# A snapshot is current until it has been unread for this share of its interval.
_FRESH = 0.01

# Seconds. A snapshot costs the primary up to a millisecond, so a worker gets none more often.
_SHORTEST_INTERVAL = 0.05


# Plain returns a snapshot as plain data, made at the first call; TakeSnapshot gets both forms.
Plain = Callable[[], dict[str, Any]]
TakeSnapshot = Callable[[Snapshot, Plain], None]


class _IntervalFeed:
    """The snapshots of one interval: each is made once, for all subscriptions to it."""

    def __init__(self) -> None:
        self.takers: dict[object, TakeSnapshot] = {}
        self.task: asyncio.Task[None] | None = None
        self.newest: tuple[Snapshot, float] | None = None  # and the time when it was made

    async def go_on(
        self, ticks: AsyncGenerator[int, None], make: Callable[[int, float], Snapshot]
    ) -> None:
        """Make a snapshot at each tick; give it to all subscriptions, as it is and as plain data.

        The work is split into turns, as many workers may want snapshots often. A tick that comes
        meanwhile is missed.
        """
        loop, turns = asyncio.get_running_loop(), turns_of_loop()
        async for missed in ticks:
            snapshot = await turns.do(functools.partial(make, missed))
            self.newest = snapshot, loop.time()
            plain = functools.cache(functools.partial(msgspec.to_builtins, snapshot))
            left = deque(self.takers.values())
            while left:
                await turns.do(functools.partial(_give, left, snapshot, plain))


def _give(left: deque[TakeSnapshot], snapshot: Snapshot, plain: Plain, end: float) -> None:
    """Give a snapshot to the subscriptions that are `left`, until `end`."""
    while left:
        left.popleft()(snapshot, plain)
        if time.perf_counter() >= end:
            break


class _Feed:
    """One subscription of a worker. While its channel is congested, snapshots are only counted."""

    def __init__(self, subscription_id: int, channel: Channel) -> None:
        self._subscription_id = subscription_id
        self._channel = channel
        self._unsent = 0

    def put(self, snapshot: Snapshot, plain: Plain) -> None:
        missed = snapshot.missed + self._unsent
        if self._channel.congested:
            self._unsent = missed + 1
            return
        self._unsent = 0
        self._channel.post(SnapshotFor(self._subscription_id, {**plain(), "missed": missed}))


class Reporter:
    """The source of all snapshots: it combines the workers' reports and the scoreboard."""

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
        self._aggregators = RoleAggregators(self._loop.time(), roles)
        self._closed = asyncio.Event()
        self._beats: dict[float, _IntervalFeed] = {}  # by interval
        self._feeds: dict[tuple[int, int], float] = {}  # the intervals of workers' subscriptions
        self._mailboxes: set[SnapshotBox] = set()  # of subscribers in the primary
        self._counted: dict[int, Counters] = {}  # by worker: its counters at the last look

    def state(self) -> RoleAggregatorsState:
        """Return what the next program must know of the past."""
        return self._aggregators.state()

    def adopt(self, state: RoleAggregatorsState) -> None:
        """Restore what the previous program knew of the past."""
        self._aggregators.adopt(state)

    @property
    def subscriptions(self) -> list[SubscriptionState]:
        """Return the subscriptions of the workers."""
        return [
            SubscriptionState(worker_id=worker, subscription_id=number, interval=interval)
            for (worker, number), interval in self._feeds.items()
        ]

    def report(self, worker: WorkerHandle, report: Report) -> None:
        """Add a worker's report."""
        self._aggregators.report(worker.id, worker.role, report, self._loop.time())

    def retire(self, worker: WorkerHandle) -> None:
        """Keep the totals of a worker that has exited, and end its subscriptions."""
        self._aggregators.retire(worker.id, worker.role, self._counters(worker))
        del self._counted[worker.id]
        for key in [key for key in self._feeds if key[0] == worker.id]:
            self._leave(self._feeds.pop(key), key)

    def subscribe(self, interval: float) -> AsyncGenerator[Snapshot, None]:
        """Iterate over snapshots, one every `interval` seconds. See Cluster.subscribe."""
        check_interval(interval)
        return self._subscribed(float(interval))

    def serve(self, worker_id: int, channel: Channel, request: Subscribe | Unsubscribe) -> None:
        """Begin or end a subscription of a worker."""
        key = (worker_id, request.subscription_id)
        if (before := self._feeds.pop(key, None)) is not None:
            self._leave(before, key)
        if isinstance(request, Subscribe):
            if sum(worker == worker_id for worker, _ in self._feeds) >= MAX_SUBSCRIPTIONS:
                raise ProtocolError(f"more than {MAX_SUBSCRIPTIONS} subscriptions at one time")
            interval = max(request.interval, _SHORTEST_INTERVAL)
            self._feeds[key] = interval
            self._join(interval, key, _Feed(request.subscription_id, channel).put)

    def close(self) -> None:
        """End every subscription and iteration. Idempotent."""
        self._closed.set()
        for beat in self._beats.values():
            if beat.task is not None:
                beat.task.cancel()
        self._beats.clear()
        self._feeds.clear()
        for mailbox in self._mailboxes:
            mailbox.close()

    async def _subscribed(self, interval: float) -> AsyncGenerator[Snapshot, None]:
        mailbox = SnapshotBox(lambda unread: self._renewed(unread, interval))
        if self._closed.is_set():
            return
        self._mailboxes.add(mailbox)
        self._join(interval, mailbox, lambda snapshot, _: mailbox.put(snapshot))
        try:
            while (snapshot := await mailbox.next()) is not None:
                yield snapshot
        finally:
            self._mailboxes.discard(mailbox)
            self._leave(interval, mailbox)

    def _join(self, interval: float, key: object, take: TakeSnapshot) -> None:
        if (beat := self._beats.get(interval)) is None:
            beat = self._beats[interval] = _IntervalFeed()
            ticks = paced(interval, lambda missed: missed, sleep=self._sleep)
            beat.task = start_task(beat.go_on(ticks, self._taker()), "feeding subscribers")
            # After an error of it, which the log has, the next subscription begins anew.
            beat.task.add_done_callback(lambda task: self._forget_failed(interval, beat, task))
        beat.takers[key] = take

    def _forget_failed(
        self, interval: float, feed: _IntervalFeed, task: "asyncio.Task[None]"
    ) -> None:
        has_failed = not task.cancelled() and task.exception() is not None
        if has_failed and self._beats.get(interval) is feed:
            del self._beats[interval]

    def _renewed(self, unread: Snapshot, interval: float) -> Snapshot:
        """Return a current snapshot for a late subscriber. Late subscribers share it."""
        beat = self._beats.get(interval)
        if beat is None or beat.newest is None:  # the reporter makes no more
            return unread
        newest, made_at = beat.newest
        if (now := self._loop.time()) - made_at > interval * _FRESH:
            newest = self._snapshot(None, 0)
            beat.newest = newest, now
        return newest

    def _leave(self, interval: float, key: object) -> None:
        """End a subscription; the last one of an interval ends the snapshots. Idempotent."""
        if (beat := self._beats.get(interval)) is None:
            return
        beat.takers.pop(key, None)
        if not beat.takers and beat.task is not None:
            beat.task.cancel()
            del self._beats[interval]

    async def _sleep(self, seconds: float) -> bool:
        """Sleep; return True, and early, if the reporter is closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        return self._closed.is_set()

    def _taker(self) -> Callable[[int, float], Snapshot]:
        """Return the function that takes one interval's snapshots, each from the one before."""
        previous: Snapshot | None = self._snapshot(None, 0)

        def take(missed: int, _end: float) -> Snapshot:
            nonlocal previous
            previous = self._snapshot(previous, missed)
            return previous

        return take

    def _snapshot(self, previous: Snapshot | None, missed: int) -> Snapshot:
        return self._aggregators.snapshot(
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
            counters=self._counters(worker),
        )

    def _counters(self, worker: WorkerHandle) -> Counters:
        """Return the counters of the worker's row; the last true ones if the row is spoilt."""
        before = self._counted.get(worker.id, Counters())
        counters = self.scoreboard.counters(worker.row)
        self._counted[worker.id] = counters if has_grown(before, counters) else before
        return self._counted[worker.id]

"""Snapshots, for subscribers in the primary and in workers."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import cast

import msgspec
import pytest

from aiocluster.errors import ConfigError, ProtocolError
from aiocluster.ipc.channel import Channel
from aiocluster.ipc.messages import (
    MAX_SUBSCRIPTIONS,
    Message,
    SnapshotFor,
    Subscribe,
    Unsubscribe,
)
from aiocluster.ipc.scoreboard import CONNECTIONS_TAKEN, REQUESTS_BEGUN, REQUESTS_DONE
from aiocluster.ipc.turns import Turns
from aiocluster.metrics.snapshot import Report, Snapshot
from aiocluster.primary.workers.handle import WorkerHandle
from aiocluster.primary.workers.snapshots import Reporter
from tests.support.waiting import soon, turns
from tests.support.workers import FakeOwner, FakeWorker, let_go, play_worker


class FakeChannel:
    """A channel whose far end reads, or does not."""

    def __init__(self) -> None:
        self.congested = False
        self.posted: asyncio.Queue[SnapshotFor] = asyncio.Queue()

    def post(self, message: Message) -> None:
        assert isinstance(message, SnapshotFor)
        self.posted.put_nowait(message)

    async def next(self) -> tuple[int, Snapshot]:
        message = await soon(self.posted.get())
        return message.subscription_id, msgspec.convert(message.snapshot, Snapshot)


class Stage:
    """A reporter over one worker."""

    def __init__(self, owner: FakeOwner, handle: WorkerHandle, worker: FakeWorker) -> None:
        self.handle, self.worker = handle, worker
        self.alive = [handle]
        self.reporter = Reporter(owner.scoreboard, lambda: self.alive)

    def serve(self, channel: FakeChannel, request: Subscribe | Unsubscribe) -> None:
        self.reporter.serve(1, cast(Channel, channel), request)

    def feeds(self) -> int:
        return len(self.reporter._feeds)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    owner = FakeOwner()
    handle, worker = await play_worker(owner)
    stage = Stage(owner, handle, worker)
    yield stage
    stage.reporter.close()
    let_go(handle, worker)
    await turns()


async def test_a_snapshot_joins_the_scoreboard_and_the_reports(stage: Stage) -> None:
    """Counters come from shared memory, the rest from what the worker said last."""
    stage.worker.row[CONNECTIONS_TAKEN] = 4
    stage.worker.row[REQUESTS_BEGUN] = 10
    stage.worker.row[REQUESTS_DONE] = 7
    stage.reporter.report(stage.handle, Report(rss_bytes=1000, lag_max=0.5))

    snapshot = await soon(anext(stage.reporter.subscribe(0.001)))

    worker = snapshot.workers[1]
    assert (worker.worker_id, worker.slot, worker.phase) == (1, 0, "starting")
    assert worker.pid == stage.worker.process.pid
    assert (worker.connections_open, worker.requests_in_flight) == (4, 3)
    assert (worker.rss_bytes, worker.loop_lag_max) == (1000, 0.5)
    assert snapshot.total.requests_total == 10


async def test_a_row_that_is_spoilt_counts_as_it_was_before(stage: Stage) -> None:
    """No total jumps to what nobody has done, or back; nor when the worker is gone."""
    stage.worker.row[CONNECTIONS_TAKEN] = 4
    snapshots = stage.reporter.subscribe(0.001)
    await soon(anext(snapshots))
    for spoilt in (2**64 - 1, 0):
        stage.worker.row[CONNECTIONS_TAKEN] = stage.worker.row[REQUESTS_BEGUN] = spoilt
        snapshot = await soon(anext(snapshots))
        assert snapshot.total.connections_total == 4
        assert snapshot.total.requests_total == 0

    stage.alive.clear()
    stage.reporter.retire(stage.handle)
    assert (await soon(anext(snapshots))).total.connections_total == 4


async def test_a_retired_worker_leaves_what_it_had_done(stage: Stage) -> None:
    """Its counts stay in the total; it is no worker any more."""
    stage.worker.row[REQUESTS_BEGUN] = 10
    stage.reporter.retire(stage.handle)
    stage.alive.clear()

    snapshot = await soon(anext(stage.reporter.subscribe(0.001)))

    assert snapshot.workers == {}
    assert snapshot.total.requests_total == 10


async def test_each_subscription_has_its_own_interval(stage: Stage) -> None:
    """A rate is since this subscriber's previous snapshot, not somebody else's."""
    first, second = stage.reporter.subscribe(0.02), stage.reporter.subscribe(0.02)
    await soon(anext(first))
    stage.worker.row[REQUESTS_DONE] = stage.worker.row[REQUESTS_BEGUN] = 10
    await soon(anext(second))

    assert (await soon(anext(first))).total.requests_per_second > 0.0
    assert (await soon(anext(second))).total.requests_per_second == 0.0


async def test_one_snapshot_is_made_for_all_who_want_them_equally_often(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of workers and of the program: however many they are, and as long as there are any."""
    made: asyncio.Queue[int] = asyncio.Queue()
    snapshot = stage.reporter._snapshot

    def count(previous: Snapshot | None, missed: int) -> Snapshot:
        made.put_nowait(missed)
        return snapshot(previous, missed)

    async def sleep(_: float) -> bool:
        await may_go_on.wait()
        may_go_on.clear()
        return False

    may_go_on = asyncio.Event()
    monkeypatch.setattr(stage.reporter, "_snapshot", count)
    monkeypatch.setattr(stage.reporter, "_sleep", sleep)
    channels = [FakeChannel() for _ in range(20)]
    for number, channel in enumerate(channels):
        stage.reporter.serve(number, cast(Channel, channel), Subscribe(1, 0.05))
    here = [stage.reporter.subscribe(0.05) for _ in range(20)]
    hearing = [asyncio.ensure_future(anext(iterator)) for iterator in here]
    await turns()
    may_go_on.set()
    heard = [await soon(one) for one in hearing]
    sent = [await channel.next() for channel in channels]
    # One more is what the first one's rates are since.
    assert made.qsize() == 2
    assert len({one.time for one in heard} | {one.time for _, one in sent}) == 1

    for iterator in here:
        await iterator.aclose()
    for number, channel in enumerate(channels):
        stage.reporter.serve(number, cast(Channel, channel), Unsubscribe(1))
    assert stage.reporter._beats == {}


async def test_a_slow_subscriber_has_the_rates_since_its_own_previous_one(stage: Stage) -> None:
    """Others that share its snapshots have seen one between."""
    slow, quick = stage.reporter.subscribe(0.001), stage.reporter.subscribe(0.001)
    first = await soon(anext(slow))
    stage.worker.row[REQUESTS_DONE] = stage.worker.row[REQUESTS_BEGUN] = 10
    for _ in range(3):
        await soon(anext(quick))
    second = await soon(anext(slow))

    assert second.missed > 0
    assert second.interval == pytest.approx(second.total.uptime - first.total.uptime)
    assert second.total.requests_per_second == pytest.approx(10 / second.interval)
    assert second.workers[1].requests_per_second == pytest.approx(10 / second.interval)


async def test_an_interval_that_is_none_is_refused_at_once(stage: Stage) -> None:
    """When it is asked for, not when the first snapshot is."""
    with pytest.raises(ConfigError, match="interval"):
        stage.reporter.subscribe(0.0)


async def test_a_worker_gets_what_it_subscribed_to(stage: Stage) -> None:
    """Over its own channel, as plain data, under its own number."""
    stage.worker.row[REQUESTS_BEGUN] = 3
    stage.reporter.serve(1, stage.handle.channel, Subscribe(42, 0.05))

    message = await stage.worker.hear()

    assert isinstance(message, SnapshotFor)
    assert message.subscription_id == 42
    assert msgspec.convert(message.snapshot, Snapshot).total.requests_total == 3


async def test_a_worker_may_not_ask_for_more_than_we_can_bear(stage: Stage) -> None:
    """A snapshot costs the primary: an interval has a least."""
    channel = FakeChannel()
    stage.serve(channel, Subscribe(1, 1e-9))
    _, first = await channel.next()
    _, second = await channel.next()

    # One that came late does not put off the next, so only both together are bounded.
    assert first.interval + second.interval >= 0.09


async def test_a_worker_may_not_ask_for_snapshots_without_end(stage: Stage) -> None:
    """Each subscription has snapshots made: one too many is refused, the others stay."""
    channel = FakeChannel()
    for number in range(MAX_SUBSCRIPTIONS):
        stage.serve(channel, Subscribe(number, 1.0 + number))
    stage.serve(channel, Subscribe(0, 0.05))  # in place of another
    stage.reporter.serve(2, cast(Channel, channel), Subscribe(1, 1.0))  # another worker's

    with pytest.raises(ProtocolError, match="more than 16 subscriptions"):
        stage.serve(channel, Subscribe(MAX_SUBSCRIPTIONS, 1.0))

    assert stage.feeds() == MAX_SUBSCRIPTIONS + 1


async def test_snapshots_are_made_in_turns(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are due at once, a turn of the loop has as many as there is time for."""
    late = Turns(lambda: -1.0)  # its end is always over
    monkeypatch.setattr("aiocluster.primary.workers.snapshots.turns_of_loop", lambda: late)
    channel = FakeChannel()
    for number in range(1, 4):
        stage.reporter.serve(number, cast(Channel, channel), Subscribe(number, 0.05))
    counts = [0]
    async with asyncio.timeout(60.0):
        while counts[-1] < 3:
            await turns(1)
            counts.append(channel.posted.qsize())

    assert {after - before for before, after in pairwise(counts)} == {0, 1}


async def test_unsubscribe_ends_a_feed(stage: Stage) -> None:
    """Nothing more is made for nobody; to end what is not there is harmless."""
    channel = FakeChannel()
    stage.serve(channel, Subscribe(1, 0.05))
    stage.serve(channel, Unsubscribe(1))
    stage.serve(channel, Unsubscribe(2))

    assert stage.feeds() == 0


async def test_subscribing_again_replaces_the_feed(stage: Stage) -> None:
    """One number, one feed."""
    channel = FakeChannel()
    stage.serve(channel, Subscribe(1, 1000.0))
    stage.serve(channel, Subscribe(1, 0.05))

    await channel.next()

    assert stage.feeds() == 1


async def test_a_worker_that_does_not_read_is_told_what_it_missed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be sent is not queued, but counted."""
    monkeypatch.setattr("aiocluster.primary.workers.snapshots._SHORTEST_INTERVAL", 0.001)
    taken = asyncio.Event()
    snapshot = stage.reporter._snapshot

    def count(previous: Snapshot | None, missed: int) -> Snapshot:
        counts.append(missed)
        if len(counts) >= 5:  # the first is for none; three are given, and another is made
            taken.set()
        return snapshot(previous, missed)

    counts: list[int] = []
    monkeypatch.setattr(stage.reporter, "_snapshot", count)
    channel = FakeChannel()
    channel.congested = True
    stage.serve(channel, Subscribe(1, 0.001))
    await soon(taken.wait())
    assert channel.posted.empty()

    channel.congested = False

    assert (await channel.next())[1].missed >= 3


async def test_a_retired_worker_is_fed_no_more(stage: Stage) -> None:
    """Its feeds end with it, and nobody else's."""
    stage.serve(FakeChannel(), Subscribe(1, 0.05))
    stage.serve(FakeChannel(), Subscribe(2, 0.05))
    stage.reporter.serve(2, cast(Channel, FakeChannel()), Subscribe(1, 0.05))

    stage.reporter.retire(stage.handle)

    assert stage.feeds() == 1


async def test_close_ends_all_feeds_and_may_come_twice(stage: Stage) -> None:
    """Nothing runs on when the cluster has stopped."""
    stage.serve(FakeChannel(), Subscribe(1, 0.05))

    stage.reporter.close()
    stage.reporter.close()

    assert stage.feeds() == 0

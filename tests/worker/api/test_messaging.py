"""The user's side of a worker's channel; the test plays the primary over a real one."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

import msgspec
import pytest

from aiocluster.errors import ChannelClosed, ConfigError, MessageError
from aiocluster.ipc.channel import Channel, open_channel
from aiocluster.ipc.messages import (
    MAX_SUBSCRIPTIONS,
    DrainRequest,
    Message,
    SnapshotFor,
    Subscribe,
    ToWorker,
    Unsubscribe,
    UserMessage,
)
from aiocluster.metrics.aggregator import Aggregator, WorkerFacts
from aiocluster.metrics.snapshot import Counters, Snapshot
from aiocluster.worker.api.messaging import Messaging
from tests.support.waiting import soon, turns
from tests.support.workers import FarEnd

_FACTS = WorkerFacts(
    worker_id=1,
    slot=0,
    role="web",
    generation=1,
    pid=2,
    phase="ready",
    started_at=0.0,
    restarts=0,
    counters=Counters(),
)


def snapshot(time: float, missed: int = 0) -> Snapshot:
    return Aggregator(0.0).snapshot([_FACTS], now=time, wall=time, previous=None, missed=missed)


class Stage:
    """A mail, its channel, and the primary."""

    def __init__(self) -> None:
        self.primary = FarEnd()
        self.channel = Channel(ToWorker, self._on_message, lambda error: self.messaging.close())
        self.messaging = Messaging(self.channel)

    async def open(self) -> None:
        ours, theirs = socket.socketpair()
        await self.primary.open(theirs)
        await open_channel(ours, self.channel)

    def say_snapshot(self, subscription_id: int, said: Snapshot) -> None:
        self.messaging.put_snapshot(SnapshotFor(subscription_id, msgspec.to_builtins(said)))

    def _on_message(self, message: Message, size: int) -> None:
        assert isinstance(message, UserMessage)
        self.messaging.put_message(message.payload, size)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    await stage.open()
    yield stage
    stage.primary.channel.abort()
    stage.channel.abort()
    await turns()


async def test_what_is_sent_reaches_the_primary_in_order(stage: Stage) -> None:
    """Each message once."""
    for number in range(3):
        await stage.messaging.send(number)

    assert [await stage.primary.hear() for _ in range(3)] == [UserMessage(n) for n in range(3)]


async def test_what_cannot_be_sent_is_the_senders_fault(stage: Stage) -> None:
    """The part is named."""
    with pytest.raises(MessageError, match=r"message\[1\]"):
        await stage.messaging.send([1, object()])


async def test_sending_to_a_primary_that_is_gone_says_so(stage: Stage) -> None:
    """A message to nobody is not silently dropped."""
    stage.channel.close()

    with pytest.raises(ChannelClosed):
        await stage.messaging.send("hello?")


async def test_what_came_before_the_first_reader_is_kept(stage: Stage) -> None:
    """An app that starts to read late misses nothing."""
    for number in range(3):
        await stage.primary.channel.send(number)
    await turns(20)

    messages = stage.messaging.messages()

    assert [await soon(anext(messages)) for _ in range(3)] == [0, 1, 2]


async def test_of_two_readers_each_message_reaches_one(stage: Stage) -> None:
    """Readers share the work; nothing is heard twice or lost."""
    heard: list[Any] = []

    async def read() -> None:
        heard.extend([message async for message in stage.messaging.messages()])

    readers = [asyncio.create_task(read()) for _ in range(2)]
    await turns()
    for number in range(10):
        await stage.primary.channel.send(number)
    stage.primary.channel.close()
    await soon(asyncio.gather(*readers))

    assert sorted(heard) == [*range(10)]


async def test_messages_end_after_the_last_when_the_primary_is_gone(stage: Stage) -> None:
    """What lies unread is still read."""
    await stage.primary.channel.send("last")
    stage.primary.channel.close()
    await turns(20)

    assert [message async for message in stage.messaging.messages()] == ["last"]
    assert [message async for message in stage.messaging.messages()] == []


async def test_only_what_was_read_is_paid_for(stage: Stage) -> None:
    """While the app does not read, the primary's `send` waits."""
    sending = asyncio.ensure_future(_send_three(stage.primary.channel))
    await turns(100)
    assert not sending.done()
    messages = stage.messaging.messages()

    await soon(anext(messages))
    await soon(sending)

    assert await soon(anext(messages)) == await soon(anext(messages)) == b"x" * 400_000


async def _send_three(channel: Channel) -> None:
    for _ in range(3):
        await channel.send(b"x" * 400_000)


async def test_asking_to_drain_is_a_message(stage: Stage) -> None:
    """The primary decides what comes of it."""
    stage.messaging.ask_to_drain("drain")

    assert await stage.primary.hear() == DrainRequest("drain")


async def test_a_subscription_begins_and_ends_with_its_reader(stage: Stage) -> None:
    """The primary makes no snapshot that nobody reads."""
    snapshots = cast(AsyncGenerator[Snapshot, None], stage.messaging.snapshots(0.5))
    first = asyncio.ensure_future(anext(snapshots))
    assert await stage.primary.hear() == Subscribe(1, 0.5)
    stage.say_snapshot(1, snapshot(10.0))
    assert (await soon(first)).time == 10.0

    await snapshots.aclose()

    assert await stage.primary.hear() == Unsubscribe(1)
    stage.say_snapshot(1, snapshot(11.0))  # it crossed our Unsubscribe


async def test_a_slow_reader_gets_the_newest_and_what_it_missed(stage: Stage) -> None:
    """Those the primary could not send are counted with those that were not read."""
    snapshots = stage.messaging.snapshots(0.5)
    first = asyncio.ensure_future(anext(snapshots))
    await stage.primary.hear()
    stage.say_snapshot(1, snapshot(1.0))
    await soon(first)

    for time in (2.0, 3.0):
        stage.say_snapshot(1, snapshot(time))
    stage.say_snapshot(1, snapshot(4.0, missed=5))
    newest = await soon(anext(snapshots))

    assert (newest.time, newest.missed) == (4.0, 7)


async def test_readers_who_want_them_equally_often_share_a_subscription(stage: Stage) -> None:
    """It is one for the primary, from the first reader to the last; each misses its own."""
    slow, quick = (
        cast(AsyncGenerator[Snapshot, None], stage.messaging.snapshots(0.5)) for _ in range(2)
    )
    reading = [asyncio.ensure_future(anext(one)) for one in (slow, quick)]
    assert await stage.primary.hear() == Subscribe(1, 0.5)
    stage.say_snapshot(1, snapshot(1.0))
    assert [(await soon(one)).time for one in reading] == [1.0, 1.0]
    for time in (2.0, 3.0):
        stage.say_snapshot(1, snapshot(time))
        assert (await soon(anext(quick))).missed == 0
    newest = await soon(anext(slow))
    assert (newest.time, newest.interval, newest.missed) == (3.0, 2.0, 1)

    await quick.aclose()
    stage.say_snapshot(1, snapshot(4.0))
    assert (await soon(anext(slow))).time == 4.0
    await slow.aclose()
    assert await stage.primary.hear() == Unsubscribe(1)


async def test_a_worker_may_not_use_intervals_without_end(stage: Stage) -> None:
    """The one too many is refused; when another has ended it is as good as any."""
    intervals = [1.0 + number for number in range(MAX_SUBSCRIPTIONS)]
    reading = [asyncio.ensure_future(anext(stage.messaging.snapshots(one))) for one in intervals]
    for number, interval in enumerate(intervals, start=1):
        assert await stage.primary.hear() == Subscribe(number, interval)
    with pytest.raises(ConfigError, match=r"0\.5 s would be one interval too many"):
        await anext(stage.messaging.snapshots(0.5))

    reading.pop().cancel()
    assert await stage.primary.hear() == Unsubscribe(MAX_SUBSCRIPTIONS)
    reading.append(asyncio.ensure_future(anext(stage.messaging.snapshots(0.5))))
    assert await stage.primary.hear() == Subscribe(MAX_SUBSCRIPTIONS + 1, 0.5)
    for one in reading:
        one.cancel()
    await asyncio.wait(reading)


async def test_two_subscriptions_do_not_mix(stage: Stage) -> None:
    """Each has its own number and its own snapshots."""
    one = asyncio.ensure_future(anext(stage.messaging.snapshots(0.5)))
    assert await stage.primary.hear() == Subscribe(1, 0.5)
    two = asyncio.ensure_future(anext(stage.messaging.snapshots(2)))
    assert await stage.primary.hear() == Subscribe(2, 2.0)

    stage.say_snapshot(2, snapshot(20.0))
    stage.say_snapshot(1, snapshot(10.0))

    assert ((await soon(one)).time, (await soon(two)).time) == (10.0, 20.0)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_snapshots_end_when_the_primary_is_gone(stage: Stage, when: str) -> None:
    """Whether it goes before the first is asked for or after."""
    snapshots = stage.messaging.snapshots(0.5)
    reading = asyncio.ensure_future(_read_all(snapshots))
    if when == "after":
        await turns()

    stage.primary.channel.close()

    assert await soon(reading) == []
    assert await soon(_read_all(stage.messaging.snapshots(0.5))) == []


async def _read_all(snapshots: AsyncIterator[Snapshot]) -> list[Snapshot]:
    return [snapshot async for snapshot in snapshots]


@pytest.mark.parametrize("interval", [0, -1, float("inf"), float("nan"), "1", None])
async def test_an_interval_that_is_none_is_refused_at_once(stage: Stage, interval: Any) -> None:
    """When it is asked for, with the value that was wrong."""
    with pytest.raises(ConfigError, match=f"not {interval!r}"):
        stage.messaging.snapshots(interval)


async def test_close_may_come_twice(stage: Stage) -> None:
    """Cleanup paths meet."""
    stage.messaging.close()
    stage.messaging.close()

    assert [message async for message in stage.messaging.messages()] == []

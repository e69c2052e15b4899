import asyncio
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from aiocluster.errors import ConfigError
from aiocluster.metrics.feed import LatestValue, SnapshotBox, paced
from aiocluster.metrics.snapshot import Snapshot
from tests.support.snapshots import snapshot_of


class Clock:
    """Made-up time: sleeping is what makes it pass."""

    def __init__(self, at: float = 1000.0) -> None:
        self.time = at
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


async def test_the_first_comes_after_one_interval() -> None:
    """A rate needs an interval to be about."""
    clock = Clock()
    feed = paced(2.0, lambda missed: (clock.time, missed), now=clock.now, sleep=clock.sleep)

    assert [await anext(feed), await anext(feed)] == [(1002.0, 0), (1004.0, 0)]
    assert clock.slept == [2.0, 2.0]


async def test_a_consumer_that_works_between_two_ticks_misses_none() -> None:
    """The time a consumer needs is not added to the interval: the beat does not drift."""
    clock = Clock()
    feed = paced(2.0, lambda missed: (clock.time, missed), now=clock.now, sleep=clock.sleep)

    await anext(feed)
    clock.time += 1.5

    assert await anext(feed) == (1004.0, 0)


async def test_a_slow_consumer_gets_the_newest_and_is_told_what_it_missed() -> None:
    """Nothing is queued: what comes is built when it is asked for."""
    clock = Clock()
    feed = paced(2.0, lambda missed: (clock.time, missed), now=clock.now, sleep=clock.sleep)

    await anext(feed)  # at 1002
    clock.time += 7.0  # past 1004, 1006 and 1008

    assert await anext(feed) == (1009.0, 2)
    assert await anext(feed) == (1010.0, 0)


async def test_nothing_is_built_before_it_is_asked_for() -> None:
    """A subscription that nobody iterates over costs nothing."""
    clock = Clock()
    built: list[int] = []
    feed = paced(1.0, built.append, now=clock.now, sleep=clock.sleep)

    assert built == []
    await anext(feed)
    assert built == [0]


async def test_a_timer_that_fires_early_misses_nothing() -> None:
    """Timers are coarse; a tick a little too soon is neither missed nor given twice."""
    clock = Clock()

    async def too_short(seconds: float) -> None:
        clock.time += seconds - 0.001

    feed = paced(1.0, lambda missed: missed, now=clock.now, sleep=too_short)

    assert [await anext(feed) for _ in range(3)] == [0, 0, 0]
    assert clock.time == pytest.approx(1003.0, abs=0.01)


@given(
    st.integers(1, 8).map(lambda eighths: eighths / 8),
    st.lists(st.integers(0, 100).map(lambda eighths: eighths / 8), max_size=30),
)
def test_each_tick_is_delivered_or_counted_as_missed(interval: float, works: list[float]) -> None:
    """Whatever the consumer does between, snapshots and misses add up to the ticks that passed."""

    async def consume() -> int:
        feed = paced(interval, lambda missed: missed + 1, now=clock.now, sleep=clock.sleep)
        ticks = await anext(feed)
        for work in works:
            clock.time += work
            ticks += await anext(feed)
        return ticks

    clock = Clock(at=0.0)
    assert asyncio.run(consume()) == clock.time // interval


@pytest.mark.parametrize("bad", [0, 0.0, -1.0, math.nan, math.inf, -math.inf, "1", None, True])
def test_a_bad_interval_is_refused_at_the_call(bad: Any) -> None:
    """The caller is told at once, by name and value, and not at the first iteration."""
    with pytest.raises(ConfigError, match=f"interval must be .*, not {bad!r}"):
        paced(bad, lambda missed: missed)


async def test_a_feed_runs_on_the_real_clock_by_default() -> None:
    """A caller need not bring a clock."""
    assert await anext(paced(0.001, lambda missed: "built")) == "built"


async def test_the_box_gives_what_was_put_in() -> None:
    """One put, one take, nothing missed."""
    box = LatestValue[str]()
    box.put("a")

    assert await box.take() == ("a", 0)


async def test_a_newer_item_replaces_an_unread_one() -> None:
    """A slow taker gets the newest, and the number of those it will never see; once."""
    box = LatestValue[str]()
    for item in "abc":
        box.put(item)

    assert await box.take() == ("c", 2)
    box.put("d")
    assert await box.take() == ("d", 0)


async def test_a_taker_waits_for_the_next_item() -> None:
    """An empty box is waited on, also after it was once full."""
    box = LatestValue[str]()
    box.put("a")
    await box.take()
    async with asyncio.TaskGroup() as tasks:
        taking = tasks.create_task(box.take())
        await asyncio.sleep(0)
        assert not taking.done()
        box.put("b")

    assert taking.result() == ("b", 0)


async def test_none_is_an_item_like_any_other() -> None:
    """An item that is None is not taken for an empty or a closed box."""
    box = LatestValue[None]()
    box.put(None)

    assert await box.take() == (None, 0)


async def test_a_taker_that_gives_up_loses_nothing() -> None:
    """A cancelled take leaves what came for the next."""
    box = LatestValue[str]()
    taking = asyncio.create_task(box.take())
    await asyncio.sleep(0)
    box.put("a")
    taking.cancel()
    await asyncio.wait([taking])

    assert await box.take() == ("a", 0)


async def test_closing_ends_a_waiting_taker() -> None:
    """Who waits on a box that nobody will fill is told so."""
    box = LatestValue[str]()
    async with asyncio.TaskGroup() as tasks:
        taking = tasks.create_task(box.take())
        await asyncio.sleep(0)
        box.close()
        box.close()

    assert taking.result() is None
    assert await box.take() is None


async def test_what_was_unread_when_the_box_closed_can_still_be_taken() -> None:
    """The last snapshot is not lost; what comes after the end is."""
    box = LatestValue[str]()
    box.put("a")
    box.close()
    box.put("b")

    assert await box.take() == ("a", 0)
    assert await box.take() is None


# ---- who share snapshots


def snapshot(uptime: float, missed: int = 0) -> Snapshot:
    empty = snapshot_of([])
    total = replace(empty.total, uptime=uptime, requests_total=int(10 * uptime))
    return replace(empty, time=uptime, total=total, missed=missed)


async def test_who_is_in_time_gets_the_very_same() -> None:
    """It costs nothing more."""
    box = SnapshotBox(renew=lambda _: snapshot(99.0))
    for uptime in (1.0, 2.0):
        reading = asyncio.ensure_future(box.next())
        await asyncio.sleep(0)
        box.put(one := snapshot(uptime))
        assert await reading is one


async def test_who_missed_some_has_the_rates_since_what_it_took() -> None:
    """Of what was replaced in the box, and of what never came."""
    box = SnapshotBox()
    box.put(snapshot(0.5))
    box.put(snapshot(1.0))
    first = await box.next()
    assert first is not None
    assert (first.time, first.missed) == (1.0, 1)
    box.put(snapshot(2.0))
    box.put(snapshot(4.0, missed=2))
    late = await box.next()

    assert late is not None
    assert (late.time, late.interval, late.missed) == (4.0, 3.0, 3)
    assert late.total.requests_per_second == 10.0


async def test_one_of_the_same_moment_is_not_given_twice() -> None:
    """A rate would be lost: the next one's is since what was taken, not since that."""
    box = SnapshotBox()
    for _ in range(2):
        box.put(snapshot(1.0))
        reading = asyncio.ensure_future(box.next())
        await asyncio.sleep(0)
    assert not reading.done()
    box.put(snapshot(2.0))
    later = await reading

    assert later is not None
    assert (later.time, later.interval, later.missed) == (2.0, 1.0, 0)
    assert later.total.requests_per_second == 10.0


async def test_who_comes_late_gets_one_of_now() -> None:
    """Since what it took; a closed box still gives what lies in it."""
    box = SnapshotBox(renew=lambda _: snapshot(3.0))
    reading = asyncio.ensure_future(box.next())
    await asyncio.sleep(0)
    box.put(snapshot(1.0))
    await reading
    box.put(snapshot(2.0))
    box.close()
    late = await box.next()

    assert late is not None
    assert (late.time, late.interval, late.missed) == (3.0, 2.0, 0)
    assert await box.next() is None

"""Countdowns, on a clock that the test moves; the loop of `patience` is a real one."""

import asyncio
import heapq
from collections.abc import Callable
from typing import Any, cast

import pytest

from aiocluster.timeouts import Countdown, running_timeout
from tests.support.waiting import soon


class MadeUpLoop:
    """Keeps time as it is told, and runs what is due in the order in which it is."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._due: list[tuple[float, int, MadeUpTimer, Callable[[], Any]]] = []

    def time(self) -> float:
        """See asyncio's loop."""
        return self.now

    def call_at(self, when: float, callback: Callable[[], Any]) -> "MadeUpTimer":
        """See asyncio's loop."""
        timer = MadeUpTimer()
        heapq.heappush(self._due, (when, len(self._due), timer, callback))
        return timer

    def run(self, seconds: float) -> None:
        """Go on, and be there at each time that something is due."""
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            self.now = max(self.now, self._due[0][0])
            self._run_next()
        self.now = until

    def pause(self, seconds: float) -> None:
        """Be away, and find all that was due meanwhile."""
        self.now += seconds
        self.run(0.0)

    def _run_next(self) -> None:
        *_, timer, callback = heapq.heappop(self._due)
        if not timer.cancelled:
            callback()


class MadeUpTimer:
    cancelled = False

    def cancel(self) -> None:
        """See asyncio's timer handle."""
        self.cancelled = True


class Counted:
    """A countdown of the test's, and when it ended."""

    def __init__(self, seconds: float) -> None:
        self.loop = MadeUpLoop()
        self.ends: list[float] = []
        loop = cast(asyncio.AbstractEventLoop, self.loop)
        began = self.loop.now
        self.countdown = Countdown(
            seconds, lambda: self.ends.append(round(self.loop.now - began, 3)), loop
        )


@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.5, 1.2, 30.0])
def test_it_ends_after_its_seconds_and_once(seconds: float) -> None:
    """As any timer does."""
    counted = Counted(seconds)
    counted.loop.run(100.0)
    assert counted.ends == [seconds]


@pytest.mark.parametrize("before", [0.0, 0.2, 3.9, 28.9])
def test_a_pause_counts_little(before: float) -> None:
    """Whenever it comes, nearly all of the time that was left is left after it."""
    counted = Counted(30.0)
    counted.loop.run(before)
    counted.loop.pause(3600.0)
    assert counted.ends == []
    counted.loop.run(100.0)
    assert 3629.0 <= counted.ends[0] <= 3630.0


@pytest.mark.parametrize("before", [29.1, 29.6, 29.99])
def test_it_does_not_end_with_a_pause(before: float) -> None:
    """Even if it was nearly over: what was sent meanwhile can still be read."""
    counted = Counted(30.0)
    counted.loop.run(before)
    counted.loop.pause(3600.0)
    assert counted.ends == []
    counted.loop.run(100.0)
    assert before + 3600.0 < counted.ends[0] <= before + 3601.0


def test_it_ends_where_every_tick_is_late() -> None:
    """A machine that is that busy all the time is not paused."""
    counted = Counted(2.0)
    for _ in range(5):
        counted.loop.pause(10.0)
    assert counted.ends


def test_every_pause_is_forgiven() -> None:
    """Not only the first."""
    counted = Counted(10.0)
    for _ in range(4):
        counted.loop.run(1.0)
        counted.loop.pause(60.0)
    assert counted.ends == []


def test_ticks_of_a_busy_machine_count() -> None:
    """Who is late by a little each time is not paused: the end still comes."""
    counted = Counted(10.0)
    for _ in range(12):
        counted.loop.pause(0.95)
    assert counted.ends


def test_a_short_one_counts_a_pause_as_one_tick() -> None:
    """Where it looks often, and forgives whatever is late."""
    loop, ends = MadeUpLoop(), list[float]()
    countdown = Countdown(
        0.1,
        lambda: ends.append(loop.now),
        cast(asyncio.AbstractEventLoop, loop),
        tick=0.02,
        late=0.0,
    )
    loop.pause(1.0)
    assert countdown.left() == pytest.approx(0.08)
    for _ in range(4):
        assert ends == []
        loop.pause(0.3)
    assert len(ends) == 1


def test_what_is_left_is_told() -> None:
    """Also between two looks at the clock, and never less than nothing."""
    counted = Counted(2.0)
    counted.loop.run(1.3)
    assert counted.countdown.left() == pytest.approx(0.7)
    counted.loop.now += 500.0
    assert counted.countdown.left() == 0.0  # a tick that was nearly due, and what it may be late
    counted.loop.run(100.0)
    assert counted.countdown.left() == 0.0


def test_a_cancelled_one_never_ends() -> None:
    """Cancelled at once, or later, or twice."""
    counted = Counted(2.0)
    counted.loop.run(1.3)
    counted.countdown.cancel()
    counted.countdown.cancel()
    counted.loop.run(100.0)
    assert counted.ends == []


async def test_patience_ends() -> None:
    """What is inside is cancelled, and the error says why."""
    with pytest.raises(TimeoutError):
        async with running_timeout(0.01):
            await asyncio.Event().wait()


async def test_patience_with_no_seconds_ends_at_once() -> None:
    """There is no time to wait for."""
    with pytest.raises(TimeoutError):
        async with running_timeout(-1.0):
            await asyncio.Event().wait()


async def test_what_is_quick_enough_is_left_alone() -> None:
    """Nothing of it outlives the block."""
    async with running_timeout(60.0):
        await soon(asyncio.sleep(0))


async def test_a_cancellation_from_outside_is_no_timeout() -> None:
    """It goes through as it is."""

    async def waiting() -> None:
        async with running_timeout(60.0):
            await asyncio.Event().wait()

    task = asyncio.create_task(waiting())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

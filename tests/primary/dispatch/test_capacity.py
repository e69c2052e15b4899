"""How many more connections a worker may be given; the test writes its row."""

import asyncio
import resource
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aiocluster.config.settings import settings_from
from aiocluster.ipc.scoreboard import FD_LIMIT, OTHER_FDS, ROOM_WANTED, Scoreboard, open_row
from aiocluster.primary.dispatch.capacity import Limits, WorkerCapacity
from tests.support.waiting import turns, turns_until


class Side:
    """A room, and the figures of its worker."""

    def __init__(self, **limits: Any) -> None:
        self.open = self.requests = self.told = 0
        self.fd_limits: list[bool] = []
        self.on_room: Callable[[], None] = lambda: None
        self.scoreboard = Scoreboard()
        row = self.scoreboard.claim()
        self.row = open_row(self.scoreboard.fd, row)
        known = {"behind_after": 0.05, "max_fds": 100_000}
        self.room = WorkerCapacity(
            (self.scoreboard, row), Limits(**known | limits), self, self._on_room
        )
        self.room.on_fd_limit = self.fd_limits.append

    def given(self) -> int:
        """See Figures."""
        return self.open

    def busy(self) -> int:
        """See Figures."""
        return self.requests

    def _on_room(self) -> None:
        self.told += 1
        self.on_room()

    def look(self) -> tuple[int, bool]:
        """Return the budget, and whether there is none."""
        self.room.renew()
        return self.room.budget, self.room.is_out

    @property
    def is_asked(self) -> bool:
        """Is the worker to tell of each connection that ends?"""
        return self.row[ROOM_WANTED] == 1


@pytest.fixture
async def make_side() -> AsyncIterator[Callable[..., Side]]:
    sides: list[Side] = []

    def make(**limits: Any) -> Side:
        sides.append(Side(**limits))
        return sides[-1]

    yield make
    for side in sides:
        side.room.close()
        side.scoreboard.close()


MakeSide = Callable[..., Side]


@pytest.mark.parametrize(("limit", "is_open"), [(0, 0), (1, 1), (9, 9), (9, 12)])
async def test_at_its_limit_of_connections_there_is_none(
    make_side: MakeSide, limit: int, is_open: int
) -> None:
    """None at all may be a limit; more than there may be is what an upgrade can leave."""
    side = make_side(max_connections=limit)
    side.open = is_open

    assert side.look() == (0, True)
    assert side.is_asked


async def test_what_is_left_is_the_budget(make_side: MakeSide) -> None:
    """All of it where it is little, half of it where it is much."""
    assert make_side(max_connections=9).look() == (9, False)
    assert make_side(max_connections=1000).look() == (500, False)


async def test_the_nearest_limit_counts(make_side: MakeSide) -> None:
    """Connections, requests, or descriptors."""
    side = make_side(max_connections=50, max_requests=40, max_fds=400)
    assert side.look() == (40, False)
    side.requests = 5
    assert side.look() == (35, False)
    side.open = 30
    assert side.look() == (20, False)
    side.row[OTHER_FDS] = 310
    assert side.look() == (10, False)


async def test_the_limit_of_descriptors_is_the_workers_own(make_side: MakeSide) -> None:
    """It may differ from ours, and change while the worker lives."""
    side = make_side(max_fds=400)
    side.open = 20
    side.row[FD_LIMIT] = 40
    assert side.look() == (15, False)
    side.row[FD_LIMIT] = 16
    assert side.look() == (0, True)
    side.row[FD_LIMIT] = 80
    assert side.look() == (50, False)


async def test_requests_may_be_all_there_may_be(make_side: MakeSide) -> None:
    """However many connections there are."""
    side = make_side(max_requests=2)
    side.open, side.requests = 1, 2

    assert side.look() == (0, True)


async def test_it_tells_once_there_is_room_again(make_side: MakeSide) -> None:
    """When the worker says that something has ended; not while it has only got less full."""
    side = make_side(max_connections=2)
    side.open = 3
    side.look()
    await turns()
    side.open = 2
    side.room.look_again()
    assert (side.told, side.is_asked) == (0, True)
    side.open = 1
    side.room.look_again()

    assert (side.told, side.is_asked, side.room.budget) == (1, False, 1)


async def test_what_ended_before_the_worker_was_asked_is_seen(make_side: MakeSide) -> None:
    """It was not told, since nobody wanted to know."""
    side = make_side(max_connections=1)
    side.open = 1
    side.look()
    side.open = 0

    await turns()

    assert side.told == 1


async def test_a_worker_that_says_nothing_is_looked_at(
    make_side: MakeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its handlers' own descriptors close without a word."""
    monkeypatch.setattr("aiocluster.primary.dispatch.capacity._PAUSE", 0.001)
    side = make_side(max_fds=80)
    side.row[OTHER_FDS] = 80
    assert side.look() == (0, True)
    await turns()
    side.row[OTHER_FDS] = 0

    await turns_until(lambda: side.fd_limits == [True, False])

    assert side.told == 1


async def test_without_a_limit_of_ours_the_descriptors_tell(make_side: MakeSide) -> None:
    """Our own limit is no trouble that an operator must hear of."""
    side = make_side(max_connections=0)
    side.look()
    await turns()

    assert side.fd_limits == []


async def test_another_may_wait_for_an_end(make_side: MakeSide) -> None:
    """There is room, but not for all workers together: it is told all the same, once."""
    side = make_side()
    side.open = 1
    side.look()
    side.room.await_end()
    side.room.await_end()
    assert side.is_asked
    side.open = 0
    side.room.look_again()
    side.room.look_again()

    assert side.told == 1


async def test_a_worker_is_asked_no_more_once_nobody_waits(make_side: MakeSide) -> None:
    """Each end that it tells of is a message to us."""
    side = make_side()
    side.open = 1
    side.look()
    side.room.await_end()
    side.open = 0
    side.room.look_again()

    assert not side.is_asked


async def test_whoever_still_waits_is_told_of_the_next_end(make_side: MakeSide) -> None:
    """One that hears of an end and finds it not enough asks again at once."""
    side = make_side()
    side.on_room = side.room.await_end
    side.look()
    side.room.await_end()
    side.room.look_again()
    assert side.is_asked
    side.room.look_again()

    assert (side.told, side.is_asked) == (2, True)


async def test_to_be_awaited_takes_no_timer(
    make_side: MakeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for any of many workers looks at one of them."""
    side = make_side()
    side.look()
    counted = _count_timers(side, monkeypatch)
    side.room.await_end()
    assert counted == []
    side.room.look_soon()
    side.room.look_soon()

    assert len(counted) == 1


async def test_an_end_is_told_though_the_worker_stays_full(make_side: MakeSide) -> None:
    """Others may have room for what all together may have now."""
    side = make_side(max_requests=1)
    side.open, side.requests = 2, 1
    side.look()
    side.room.await_end()
    side.open = 1
    side.room.look_again()

    assert (side.told, side.room.is_out) == (1, True)


async def test_a_look_tells_only_of_room_that_has_come(make_side: MakeSide) -> None:
    """Whoever waits for an end is told of ends."""
    side = make_side(max_connections=1)
    side.room.await_end()
    assert (side.room.look(), side.told, side.is_asked) == (False, 0, True)
    side.open = 1
    side.look()
    side.open = 0

    assert (side.room.look(), side.told, side.is_asked) == (True, 1, True)


async def test_once_closed_it_looks_no_more(make_side: MakeSide) -> None:
    """Not even if it was about to: the row may be another worker's by then."""
    side = make_side(max_connections=1)
    side.open = 1
    side.look()
    side.room.close()
    side.row[ROOM_WANTED] = side.open = 0
    await turns()

    assert (side.told, side.is_asked) == (0, False)


async def test_checking_sees_what_handlers_have_opened(make_side: MakeSide) -> None:
    """Before the budget is spent."""
    side = make_side(max_fds=1000)
    side.look()
    budget = side.room.budget
    side.room.check()
    assert side.room.budget == budget
    side.row[OTHER_FDS] = 870
    side.room.check()

    assert side.room.budget == 5


async def test_a_full_one_costs_a_look_each_pause(
    make_side: MakeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is asked meanwhile: there is one timer, not one for each."""
    side = make_side(max_connections=0)
    timers = _count_timers(side, monkeypatch)
    for _ in range(10):
        side.look()
        side.room.await_end()

    assert len(timers) == 1


def _count_timers(side: Side, monkeypatch: pytest.MonkeyPatch) -> list[asyncio.TimerHandle]:
    """Return the timers that its room starts from now on."""
    timers: list[asyncio.TimerHandle] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def counted(*arguments: Any) -> asyncio.TimerHandle:
        timers.append(call_later(*arguments))
        return timers[-1]

    monkeypatch.setattr(side.room, "_loop", _Loop(counted, loop))
    return timers


class _Loop:
    def __init__(self, call_later: Callable[..., Any], loop: asyncio.AbstractEventLoop) -> None:
        self.call_later, self.call_soon = call_later, loop.call_soon


def test_limits_are_those_of_the_settings() -> None:
    """Where the user sets none there are only the descriptors."""
    limits = Limits.of(settings_from({"max_connections": 7, "behind_after": 0.5}))

    assert (limits.max_connections, limits.max_requests) == (7, None)
    assert limits.behind_after == 0.5
    assert limits.max_fds == resource.getrlimit(resource.RLIMIT_NOFILE)[0]

"""When each WebSocket is told, of what, and that none holds another."""

import asyncio
import gc
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import WSCloseCode, web
from hypothesis import given
from hypothesis import strategies as some

from aiocluster.worker.http import websockets as module
from aiocluster.worker.http.request_boundary import BoundaryTrackingHandler
from aiocluster.worker.http.websockets import WebSockets, close_code, telling_times
from tests.support.waiting import soon, turns


def test_the_code_says_whether_to_come_back() -> None:
    """1012 when somebody will serve, though it be later; 1001 when nobody will."""
    assert close_code(stopping=False) == 1012
    assert close_code(stopping=True) == 1001


def test_few_are_told_within_moments() -> None:
    """Two sockets do not make a Ctrl-C wait."""
    assert telling_times(2, 30.0) == [0.0, 0.1]


def test_many_are_told_within_half_of_the_drain() -> None:
    """Ten thousand do not come back at once, and all have time to answer."""
    times = telling_times(10_000, 30.0)

    assert times[0] == 0.0
    assert times[-1] == pytest.approx(15.0, abs=0.01)
    assert times[5_000] == pytest.approx(7.5)


def test_without_time_all_are_told_at_once() -> None:
    """A quick stop tells them all the same."""
    assert telling_times(3, 0.0) == [0.0, 0.0, 0.0]
    assert telling_times(0, 0.0) == []


@given(some.integers(0, 500), some.floats(0, 1e6) | some.just(float("inf")))
def test_times_only_go_forward_and_end_in_time(count: int, seconds: float) -> None:
    """Whatever the numbers: one time each, evenly apart, none in the second half."""
    times = telling_times(count, seconds)

    assert len(times) == count
    assert times == sorted(times)
    assert all(0 <= time <= min(seconds / 2, count * 0.1) for time in times)


class FakeSocket:
    """A WebSocket as far as it is looked at; its client answers when the test says so."""

    def __init__(self) -> None:
        self.closed = False
        self.told: list[Any] = []
        self.answered = asyncio.Event()
        self.given_up = False

    async def close(self, *, code: int, message: bytes) -> None:
        self.closed = True
        self.told.append((code, message))
        try:
            await self.answered.wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise


def noted(websockets: WebSockets, count: int) -> list[FakeSocket]:
    sockets = [FakeSocket() for _ in range(count)]
    for socket in sockets:
        note(websockets, socket)
    return sockets


def note(websockets: WebSockets, socket: FakeSocket) -> None:
    handler = cast(BoundaryTrackingHandler, SimpleNamespace(transport=None))
    websockets.note(cast(web.WebSocketResponse, socket), handler)


@pytest.fixture
def _for_ever_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GAP", 1e6)


async def test_all_are_told_though_none_answers() -> None:
    """Each closes in a task of its own."""
    websockets = WebSockets()
    sockets = noted(websockets, 3)

    websockets.begin_telling(0.0)
    websockets.begin_telling(0.0)
    await turns()

    assert [socket.told for socket in sockets] == [[(1001, b"the service stops")]] * 3
    await soon(websockets.give_up())
    assert all(socket.given_up for socket in sockets)


@pytest.mark.usefixtures("_for_ever_apart")
async def test_they_are_told_one_after_the_other_until_hurried() -> None:
    """The rest is told at once then, of what holds by then."""
    websockets = WebSockets()
    websockets.code = WSCloseCode.SERVICE_RESTART
    sockets = noted(websockets, 5)
    websockets.begin_telling(1e6)
    await turns(20)
    assert [len(socket.told) for socket in sockets].count(1) == 1

    websockets.code = WSCloseCode.GOING_AWAY
    websockets.hurry()
    await turns(20)

    codes = [code for socket in sockets for code, _ in socket.told]
    assert sorted(codes) == [1001, 1001, 1001, 1001, 1012]
    await soon(websockets.give_up())


@pytest.mark.usefixtures("_for_ever_apart")
async def test_to_hurry_before_the_telling_changes_nothing() -> None:
    """The first Drain is no second one."""
    websockets = WebSockets()
    websockets.hurry()
    sockets = noted(websockets, 2)
    websockets.begin_telling(1e6)
    await turns(20)

    assert [len(socket.told) for socket in sockets].count(1) == 1
    await soon(websockets.give_up())


async def test_one_that_opens_late_is_told_at_once() -> None:
    """Its upgrade was on its way when the others were told."""
    websockets = WebSockets()
    websockets.begin_telling(0.0)
    await turns()
    late = FakeSocket()

    note(websockets, late)
    await turns()

    assert len(late.told) == 1
    await soon(websockets.give_up())


async def test_what_is_closed_is_not_told() -> None:
    """The app may have closed it in its own words."""
    websockets = WebSockets()
    (closed,) = noted(websockets, 1)
    closed.closed = True

    websockets.begin_telling(0.0)
    await turns()

    assert closed.told == []
    await soon(websockets.give_up())


async def test_one_that_cannot_be_closed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """And the others are told."""

    class Broken(FakeSocket):
        async def close(self, *, code: int, message: bytes) -> None:
            raise RuntimeError("the user's mistake")

    websockets = WebSockets()
    broken = Broken()
    note(websockets, broken)
    (other,) = noted(websockets, 1)
    websockets.begin_telling(0.0)
    await turns()

    assert "a WebSocket could not be closed" in caplog.text
    assert len(other.told) == 1
    await soon(websockets.give_up())


async def test_one_that_is_over_is_not_kept() -> None:
    """A server that lives long does not remember every WebSocket it had."""
    websockets = WebSockets()
    sockets = noted(websockets, 3)
    assert len(websockets._open) == 3
    sockets.clear()
    gc.collect()

    assert len(websockets._open) == 0


async def test_giving_up_needs_nothing_to_have_begun() -> None:
    """A worker without WebSockets drains as if there were none; twice is nobody's mistake."""
    websockets = WebSockets()
    await soon(websockets.give_up())
    websockets.begin_telling(0.0)
    await soon(websockets.give_up())
    await soon(websockets.give_up())

"""The first part of a stop; the test plays the door and the clients."""

import asyncio
import time
from typing import cast

import pytest

from aiocluster.primary.dispatch.dispatcher import Dispatcher
from aiocluster.primary.lifecycle import shutdown as module
from aiocluster.primary.lifecycle.shutdown import GracefulShutdown, pause_after
from aiocluster.primary.sockets.listeners import Listeners
from tests.support.waiting import soon, turns, turns_until

FOR_EVER = 1e6


class FakeDoor:
    """Writes down what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.are_awaited = False

    def drop_new_syns(self) -> None:
        self.done.append("let nobody knock")

    def accept_rest(self) -> None:
        if self.done[-1] != "accept":
            self.done.append("accept")

    def close(self) -> None:
        self.done.append("close")


class SlowDoor(FakeDoor):
    """Somebody always knocks; to see that takes `seconds`, on the clock that it keeps."""

    def __init__(self, seconds: float) -> None:
        self.done = []
        self.looks = 0
        self._seconds = seconds

    @property
    def are_awaited(self) -> bool:  # type: ignore[override]
        self.looks += 1
        return True

    def now(self) -> float:
        return time.perf_counter() + self.looks * self._seconds


class FakeDispatcher:
    """Has as many waiting as the test says."""

    waiting = 0


class Stage:
    def __init__(self) -> None:
        self.group, self.dispatcher = FakeDoor(), FakeDispatcher()
        self.no_worker_is_left = asyncio.Event()
        self.asked: list[int] = []  # to make room for so many
        self.shutdown = GracefulShutdown(
            cast(Listeners, self.group),
            cast(Dispatcher, self.dispatcher),
            self.no_worker_is_left,
            self.asked.append,
        )


@pytest.fixture
async def stage() -> Stage:
    return Stage()


async def test_by_default_nobody_is_waited_for(stage: Stage) -> None:
    """A stop is as quick as it was."""
    await soon(stage.shutdown.wait(0.0))
    await soon(stage.shutdown.close_listeners(FOR_EVER))

    assert stage.group.done == ["let nobody knock", "accept", "close"]


async def test_it_serves_on_until_the_wait_is_ended(stage: Stage) -> None:
    """The door stays open for so long."""
    waiting = asyncio.create_task(stage.shutdown.wait(FOR_EVER))
    await turns(20)
    assert not waiting.done()
    assert stage.shutdown.in_pre_drain_wait

    stage.shutdown.skip_pre_drain_wait()
    stage.shutdown.skip_pre_drain_wait()

    await soon(waiting)
    assert not stage.shutdown.in_pre_drain_wait
    assert stage.group.done == []


async def test_the_wait_has_an_end_of_its_own(stage: Stage) -> None:
    """Nobody need end it."""
    await soon(stage.shutdown.wait(0.001))

    assert not stage.shutdown.in_pre_drain_wait


async def test_the_door_closes_when_nobody_comes_any_more(stage: Stage) -> None:
    """Who was on his way is let in."""
    stage.group.are_awaited = True
    closing = asyncio.create_task(stage.shutdown.close_listeners(FOR_EVER))
    await turns(20)
    assert stage.group.done == ["let nobody knock", "accept"]

    stage.group.are_awaited = False

    await soon(closing)
    assert stage.group.done[-1] == "close"


async def test_it_closes_at_last_on_who_never_comes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port scanner does not hold up a stop."""
    monkeypatch.setattr(module, "_SYN_RECV_TIMEOUT", 0.001)
    stage.group.are_awaited = True

    await soon(stage.shutdown.close_listeners(FOR_EVER))

    assert stage.group.are_awaited
    assert stage.group.done[-1] == "close"


@pytest.mark.parametrize(
    ("look", "pause"), [(0.0, 0.01), (0.001, 0.01), (0.002, 0.02), (0.15, 1.5)]
)
def test_looking_takes_a_tenth_of_a_core_at_most(look: float, pause: float) -> None:
    """A hundred times a second where it is cheap."""
    assert pause_after(look) == pytest.approx(pause)


async def test_a_slow_look_is_not_repeated_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's table of sockets may be long, and nothing else is done meanwhile."""
    monkeypatch.setattr(module, "_SYN_RECV_TIMEOUT", 0.05)
    group = SlowDoor(0.01)
    shutdown = GracefulShutdown(
        cast(Listeners, group),
        cast(Dispatcher, FakeDispatcher()),
        asyncio.Event(),
        print,
        group.now,
    )

    await soon(shutdown.close_listeners(FOR_EVER))

    assert group.looks == 1


async def test_workers_are_asked_to_make_room_for_who_waits(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again, for what becomes idle meanwhile; but not at every look."""
    monkeypatch.setattr(module, "_ASK_INTERVAL", 0.05)
    stage.dispatcher.waiting = 3
    closing = asyncio.create_task(stage.shutdown.close_listeners(FOR_EVER))
    await turns_until(lambda: len(stage.asked) == 1)
    await turns(20)
    assert stage.asked == [3]
    stage.dispatcher.waiting = 2
    await turns_until(lambda: stage.asked == [3, 2])

    stage.dispatcher.waiting = 0
    await soon(closing)
    assert stage.asked == [3, 2]


async def test_it_waits_until_a_worker_has_room(stage: Stage) -> None:
    """What was accepted is served, though all are full now."""
    stage.dispatcher.waiting = 3
    closing = asyncio.create_task(stage.shutdown.close_listeners(FOR_EVER))
    await turns_until(lambda: "close" in stage.group.done)
    await turns(20)
    assert not closing.done()

    stage.dispatcher.waiting = 0

    await soon(closing)


async def test_it_does_not_wait_where_no_worker_will_come(stage: Stage) -> None:
    """With restart="never" there may be nobody left."""
    stage.dispatcher.waiting = 3
    stage.no_worker_is_left.set()

    await soon(stage.shutdown.close_listeners(FOR_EVER))

    assert stage.dispatcher.waiting == 3
    assert stage.group.done[-1] == "close"


@pytest.mark.parametrize("step", ["wait", "knocking", "room"])
async def test_hurried_it_waits_for_nothing(stage: Stage, step: str) -> None:
    """In any of its steps, and before them."""
    stage.group.are_awaited = step == "knocking"
    stage.dispatcher.waiting = int(step == "room")

    async def whole() -> None:
        await stage.shutdown.wait(FOR_EVER if step == "wait" else 0.0)
        await stage.shutdown.close_listeners(FOR_EVER)

    leaving = asyncio.create_task(whole())
    await turns(20)
    assert not leaving.done()

    stage.shutdown.hurry()
    stage.shutdown.hurry()

    await soon(leaving)
    assert stage.group.done[-1] == "close"
    await soon(whole())

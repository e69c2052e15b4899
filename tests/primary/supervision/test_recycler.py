"""Workers that are due, in places that the test plays."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from aiocluster.errors import BootError
from aiocluster.primary.processes.spawner import FORK_PATIENCE
from aiocluster.primary.supervision.recycler import Recycler
from aiocluster.primary.workers.handle import WorkerHandle
from tests.support.waiting import soon, turns


class FakeHandle:
    def __init__(self, worker_id: int) -> None:
        self.id = worker_id


def recycler_of(
    boot_timeout: float = 60.0, is_still_due: Callable[[Any, str], bool] = lambda *_: True
) -> Recycler:
    return Recycler(boot_timeout, is_still_due)


class FakePlace:
    """A slot whose worker is replaced when the test says so."""

    def __init__(self, worker_id: int = 1) -> None:
        self.worker = cast(WorkerHandle, FakeHandle(worker_id))
        self.done: list[str] = []
        self.failures = 0
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_go_on: asyncio.Event | None = None

    def holds(self, worker: Any) -> bool:
        return worker is self.worker

    async def replace(self, worker: Any, reason: str, is_still_due: Callable[[], bool]) -> None:
        if not is_still_due():
            return
        self.done.append(reason)
        self.begun.set()
        if self.failures:
            self.failures -= 1
            raise BootError("ValueError: no")
        await self.may_end.wait()
        self.worker = cast(WorkerHandle, FakeHandle(99))

    async def pause(self, weight: float) -> None:
        self.done.append(f"pause {weight:g}")
        if self.may_go_on is not None:
            await self.may_go_on.wait()


async def test_one_that_does_not_come_ends_its_turn() -> None:
    """Or nobody else would be replaced, and no upgrade come."""
    recycler, places = recycler_of(-FORK_PATIENCE), [FakePlace(1), FakePlace(2)]
    for place in places:
        place.may_go_on = asyncio.Event()
        recycler.recycle(place, place.worker, "max_age")
    await soon(places[1].begun.wait())
    assert places[0].done == ["max_age", "pause 1"]
    recycler.close()


async def test_one_at_a_time() -> None:
    """Workers that started together are due together, and must not go together."""
    recycler, places = recycler_of(), [FakePlace(1), FakePlace(2)]
    for place in places:
        recycler.recycle(place, place.worker, "max_requests")
    await soon(places[0].begun.wait())
    await turns(20)
    assert not places[1].begun.is_set()

    places[0].may_end.set()

    await soon(places[1].begun.wait())
    places[1].may_end.set()


async def test_asked_twice_it_is_replaced_once() -> None:
    """A worker may be due for two reasons; the first counts."""
    recycler, place = recycler_of(), FakePlace()
    recycler.recycle(place, place.worker, "max_requests")
    recycler.recycle(place, place.worker, "max_age")
    place.may_end.set()
    await turns(20)

    assert place.done == ["max_requests"]


async def test_one_that_has_gone_meanwhile_is_nobodys_concern() -> None:
    """Its turn has come too late."""
    recycler, place = recycler_of(), FakePlace()
    gone = cast(WorkerHandle, FakeHandle(7))
    recycler.recycle(place, gone, "max_requests")
    await turns(20)

    assert place.done == []


async def test_one_that_is_not_due_any_more_when_its_turn_comes_stays() -> None:
    """The figure was that of another time. It may be due again at once."""
    due = {"memory_limit": True}
    recycler = recycler_of(is_still_due=lambda worker, reason: due[reason])
    place = FakePlace()
    async with recycler.turn:
        recycler.recycle(place, place.worker, "memory_limit")
        await turns()
        due["memory_limit"] = False
    await turns(20)
    assert (place.done, recycler.due) == ([], [])

    due["memory_limit"] = True
    recycler.recycle(place, place.worker, "memory_limit")
    await turns(20)
    assert place.done == ["memory_limit"]
    recycler.close()


async def test_another_reason_holds_when_the_first_one_has_passed() -> None:
    """A worker that shrinks while it waits for its turn has been told to go, too."""
    recycler = recycler_of(is_still_due=lambda worker, reason: reason == "drain")
    place = FakePlace()
    async with recycler.turn:
        recycler.recycle(place, place.worker, "memory_limit")
        recycler.recycle(place, place.worker, "drain")
        await turns()
        worker_id = place.worker.id
        assert recycler.due == [(worker_id, "drain"), (worker_id, "memory_limit")]
    await turns(20)

    assert place.done == ["drain"]
    recycler.close()


async def test_a_successor_that_fails_is_tried_again_as_slowly_as_a_crash() -> None:
    """The old one goes on meanwhile."""
    recycler, place = recycler_of(), FakePlace()
    place.failures = 2
    place.may_end.set()
    recycler.recycle(place, place.worker, "max_age")
    await turns(20)

    assert place.done == ["max_age", "pause 1", "max_age", "pause 1", "max_age"]


async def test_one_whose_successors_fail_does_not_hold_up_the_others() -> None:
    """It waits as slowly as a crash demands, and its turn goes on."""
    recycler, failing, other = recycler_of(), FakePlace(1), FakePlace(2)
    failing.failures, failing.may_go_on = 1, asyncio.Event()
    recycler.recycle(failing, failing.worker, "max_age")
    recycler.recycle(other, other.worker, "max_age")

    await soon(other.begun.wait())
    assert failing.done == ["max_age", "pause 1"]
    recycler.close()


async def test_closed_it_replaces_nobody() -> None:
    """What is under way is given up, and what waited does not begin."""
    recycler, places = recycler_of(), [FakePlace(1), FakePlace(2)]
    for place in places:
        recycler.recycle(place, place.worker, "max_requests")
    await soon(places[0].begun.wait())
    recycler.close()
    recycler.close()
    await turns(20)

    assert not places[1].begun.is_set()


async def test_who_is_due_is_known_until_it_is_replaced() -> None:
    """So that the next program can go on with it."""
    recycler, places = recycler_of(), [FakePlace(1), FakePlace(2)]
    async with recycler.turn:
        for place, reason in zip(places, ("max_age", "max_requests"), strict=True):
            recycler.recycle(place, place.worker, reason)
        await turns()
        assert recycler.due == [(1, "max_age"), (2, "max_requests")]
        assert [place.done for place in places] == [[], []]
    for place in places:
        place.may_end.set()
    await turns(20)
    assert recycler.due == []

"""The worker, as the user's code sees it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiocluster.metrics.snapshot import Snapshot
from aiocluster.worker.api import context
from aiocluster.worker.api.context import (
    WorkerContext,
    current_worker,
    enter,
    is_primary,
    is_worker,
    share_process,
)
from aiocluster.worker.api.leading import Leading
from aiocluster.worker.api.readiness import Readiness
from aiocluster.worker.services.servers import ServerRegistry
from tests.support.waiting import soon


class FakeLink:
    """A runtime that writes down what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def send(self, payload: Any) -> None:
        self.asked.append(("send", payload))

    async def messages(self) -> AsyncIterator[Any]:
        yield "hello"

    async def snapshots(self, interval: float) -> AsyncIterator[Snapshot]:
        self.asked.append(("snapshots", interval))
        return
        yield

    def ask_to_drain(self, reason: str) -> None:
        self.asked.append(("drain", reason))


def no_servers() -> ServerRegistry:
    """What starts servers, where none is wanted."""
    post, turn_away = (lambda message: None), (lambda fd, listener, client: False)
    return ServerRegistry(memoryview(b""), post, turn_away, lambda: None)


def leads_nobody() -> Leading:
    """What says that the worker does not lead."""
    return Leading(memoryview(bytes(16 * 8)).cast("Q"))


@pytest.fixture(autouse=True)
def _this_process_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context._Process, "kind", "primary")
    monkeypatch.setattr(context._Process, "worker", None)


def test_a_process_is_the_primary_unless_it_was_told_otherwise() -> None:
    """Also a program that has no cluster at all."""
    assert (is_primary(), is_worker()) == (True, False)
    assert current_worker() is None


def test_a_zygote_is_neither_primary_nor_worker() -> None:
    """A module that asks while it is imported learns that it serves nobody yet."""
    enter("zygote")

    assert (is_primary(), is_worker()) == (False, False)
    assert current_worker() is None


async def test_a_worker_knows_who_it_is() -> None:
    """`current_worker()` is the same object wherever it is asked for."""
    worker = WorkerContext(7, 2, "web", 1, FakeLink(), Readiness(), no_servers(), leads_nobody())
    enter("worker", worker)

    assert (is_primary(), is_worker()) == (False, True)
    assert current_worker() is worker
    assert (worker.id, worker.slot, worker.role, worker.generation) == (7, 2, "web", 1)
    assert repr(worker) == "<WorkerContext id=7 slot=2 role='web'>"


async def test_everything_else_is_passed_to_the_runtime() -> None:
    """The context adds nothing of its own."""
    link, readiness = FakeLink(), Readiness(explicit=True)
    worker = WorkerContext(7, 2, "web", 1, link, readiness, no_servers(), leads_nobody())

    await worker.send({"a": 1})
    worker.drain()
    worker.ready()
    await soon(readiness.wait_declared())
    assert not worker.is_ready
    readiness.serve()
    assert worker.is_ready
    worker.on_drain(lambda: link.asked.append("goodbye"))
    worker.on_drain(lambda: link.asked.append("never"))()
    await soon(readiness.run_on_drain_callbacks())

    assert [message async for message in worker.messages()] == ["hello"]
    assert [snapshot async for snapshot in worker.subscribe()] == []
    assert link.asked == [("send", {"a": 1}), ("drain", "drain"), "goodbye", ("snapshots", 1.0)]

    assert not worker.is_stopping
    readiness.stop()
    await soon(worker.stopping())
    assert worker.is_stopping


async def test_workers_that_share_a_process_are_told_apart_by_their_tasks() -> None:
    """Elsewhere than on Linux each task, and what it starts, has its worker; a thread the first."""
    link = FakeLink()
    first, second = (
        WorkerContext(number, 0, "web", 1, link, Readiness(), no_servers(), leads_nobody())
        for number in (1, 2)
    )
    enter("primary", first)
    share_process(None)
    assert (current_worker(), is_primary(), is_worker()) == (None, True, False)

    async def live(worker: WorkerContext) -> None:
        share_process(worker)
        assert await asyncio.create_task(ask()) == (worker, False, True)

    async def ask() -> tuple[WorkerContext | None, bool, bool]:
        return current_worker(), is_primary(), is_worker()

    await asyncio.gather(*(asyncio.create_task(live(worker)) for worker in (first, second)))
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, current_worker) is first

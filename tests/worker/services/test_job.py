"""Jobs: what is one, how it ends, and what it gets at a drain."""

import asyncio
import functools
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from aiocluster.ipc.scoreboard import CONNECTIONS_CLOSED
from aiocluster.worker.context import WorkerContext
from aiocluster.worker.services.adopt import Refusal
from aiocluster.worker.services.job import JobService, is_job
from aiocluster.worker.standing import Standing
from tests.support.waiting import soon, turns
from tests.worker.test_context import FakeLink, leads_nobody, no_servers


async def job(worker: WorkerContext) -> None: ...
async def job_with_options(worker: WorkerContext, interval: float = 1.0, *more: int) -> None: ...
async def job_of_two(worker: WorkerContext, interval: float, *, name: str = "") -> None: ...
async def factory() -> web.Application: ...  # type: ignore[empty-body]
async def factory_with_options(debug: bool = False, **more: Any) -> web.Application: ...  # type: ignore[empty-body]
async def factory_of_named(*, debug: bool) -> web.Application: ...  # type: ignore[empty-body]
def plain(worker: WorkerContext) -> None: ...
async def generator(worker: WorkerContext) -> AsyncIterator[int]:
    yield 1


class Jobs:
    async def method(self, worker: WorkerContext) -> None: ...
    async def make(self) -> web.Application: ...  # type: ignore[empty-body]
    @classmethod
    async def of_class(cls, worker: WorkerContext) -> None: ...
    @staticmethod
    async def static(worker: WorkerContext) -> None: ...
    async def __call__(self, worker: WorkerContext) -> None: ...


@pytest.mark.parametrize(
    "given",
    [
        job,
        job_with_options,
        functools.partial(job),
        functools.partial(job_of_two, interval=2.0),
        functools.partial(functools.partial(job_of_two, name="x"), interval=2.0),
        functools.partial(Jobs()),
        Jobs().method,
        Jobs.of_class,
        Jobs.static,
        Jobs(),
    ],
)
def test_what_is_called_with_the_worker_is_a_job(given: object) -> None:
    """Any kind of coroutine function that needs one argument by place."""
    assert is_job(given)


@pytest.mark.parametrize(
    "given",
    [
        factory,
        factory_with_options,
        factory_of_named,
        functools.partial(factory_with_options, True),
        job_of_two,
        plain,
        generator,
        Jobs,
        Jobs().make,
        web.Application(),
        web.Application,
        "pkg:job",
        None,
        len,
    ],
)
def test_all_else_is_an_app_or_nothing(given: object) -> None:
    """A factory needs no argument; what is neither is told so by who makes the app."""
    assert not is_job(given)


class Stage:
    """A job service, and its worker."""

    def __init__(self, given: Any, goodbye: Any = None) -> None:
        self.row = memoryview(bytearray(16 * 8)).cast("Q")
        self.standing = Standing()
        worker = WorkerContext(
            7, 2, "jobs", 1, FakeLink(), self.standing, no_servers(), leads_nobody()
        )
        self.service = JobService(given, worker, self.row, goodbye or self.standing.say_goodbye)

    async def drain(self, seconds: float = 1000.0) -> None:
        """Tell it, and wait for its end."""
        self.standing.stop()
        self.service.hurry(seconds, moving=True)
        await soon(self.service.drain())


async def test_a_job_gets_its_worker_and_has_begun_when_its_start_is_over() -> None:
    """It takes no connections and has no latency."""
    begun: list[WorkerContext] = []

    async def note(worker: WorkerContext) -> None:
        begun.append(worker)
        await worker.stopping()

    stage = Stage(note)
    await stage.service.start()
    await turns(1)

    assert begun[0].role == "jobs"
    assert not stage.service.serves
    assert stage.service.take_latency() == {}
    await stage.drain()


async def test_a_job_that_stops_when_it_is_told_ends_well() -> None:
    """It has the time it needs; on_drain callbacks are called as in an app's worker."""
    cleaned, said = asyncio.Event(), []

    async def tidy(worker: WorkerContext) -> None:
        worker.on_drain(lambda: said.append("goodbye"))
        await worker.stopping()
        await turns(20)
        cleaned.set()

    stage = Stage(tidy)
    await stage.service.start()
    await turns()

    await stage.drain()

    assert cleaned.is_set()
    assert said == ["goodbye"]
    assert (stage.service.cut, stage.service.failed) == ([], False)


async def test_a_job_that_returns_is_over() -> None:
    """Whoever waits for that sees it."""
    stage = Stage(job)
    await stage.service.start()

    await soon(stage.service.over)

    await stage.drain()
    assert (stage.service.cut, stage.service.failed) == ([], False)


async def test_a_job_that_raises_is_over_with_that() -> None:
    """It is for the runtime to tell."""

    async def fail(worker: WorkerContext) -> None:
        raise LookupError("no such queue")

    stage = Stage(fail)
    await stage.service.start()

    with pytest.raises(LookupError, match="no such queue"):
        await soon(stage.service.over)


async def test_a_job_that_cancels_itself_has_not_returned() -> None:
    """Nobody told it to go, so something went wrong."""

    async def give_up(worker: WorkerContext) -> None:
        raise asyncio.CancelledError

    stage = Stage(give_up)
    await stage.service.start()
    await turns(20)

    assert isinstance(stage.service.over.exception(), asyncio.CancelledError)


async def test_a_job_may_end_by_cancelling_itself_once_it_is_told() -> None:
    """As good a way to return as any."""

    async def give_up(worker: WorkerContext) -> None:
        await worker.stopping()
        raise asyncio.CancelledError

    stage = Stage(give_up)
    await stage.service.start()
    await turns()

    await stage.drain()

    assert (stage.service.cut, stage.service.failed) == ([], False)


async def test_a_job_that_raises_when_it_is_told_has_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its clean-up did not do what it had to; the log says where."""

    async def fail(worker: WorkerContext) -> None:
        await worker.stopping()
        raise LookupError("no such queue")

    stage = Stage(fail)
    await stage.service.start()
    await turns()

    await stage.drain()

    assert stage.service.failed
    assert stage.service.cut == []
    assert "no such queue" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("given", [0.0, 0.01])
async def test_a_job_that_does_not_listen_is_cancelled_at_the_deadline(given: float) -> None:
    """It is named, and may clean up."""
    cleaned = asyncio.Event()

    async def work(worker: WorkerContext) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await turns(20)
            cleaned.set()

    stage = Stage(work)
    await stage.service.start()
    await turns()

    await stage.drain(given)

    assert cleaned.is_set()
    assert stage.service.cut == [f"the job {work.__qualname__}"]
    assert not stage.service.failed


async def test_a_job_that_will_not_be_cancelled_holds_up_nobody() -> None:
    """What it gets after that is no more than what a handler gets."""
    go = asyncio.Event()

    async def refuse(worker: WorkerContext) -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue

    stage = Stage(functools.partial(refuse))
    await stage.service.start()
    await turns()

    await stage.drain(0.0)

    assert stage.service.cut == [f"the job {refuse.__qualname__}"]
    go.set()
    await soon(stage.service.over)


async def test_a_job_without_time_left_may_still_return() -> None:
    """As an app whose connections are idle may: there is nothing to cut."""

    async def listen(worker: WorkerContext) -> None:
        await worker.stopping()
        await turns(5)

    stage = Stage(listen)
    await stage.service.start()
    await turns()

    await stage.drain(0.0)

    assert stage.service.cut == []


async def test_on_drain_callbacks_that_do_not_end_are_cut() -> None:
    """They have the drain's time and no more."""

    async def never() -> None:
        await asyncio.get_running_loop().create_future()

    stage = Stage(job, goodbye=never)
    await stage.service.start()

    await stage.drain(0.0)

    assert stage.service.cut == ["the on_drain hooks"]


async def test_a_connection_that_it_is_given_all_the_same_is_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It would be a bug of ours; nobody waits for an answer that never comes."""
    stage = Stage(Jobs())
    ours, theirs = socket.socketpair()

    stage.service.adopt(os.dup(theirs.fileno()), int(socket.AF_UNIX))
    theirs.close()

    assert ours.recv(1) == b""
    ours.close()
    assert stage.row[CONNECTIONS_CLOSED] == 1
    assert "the job Jobs was given a connection" in caplog.text
    assert isinstance(stage.service.protocol(0), Refusal)
    assert stage.row[CONNECTIONS_CLOSED] == 2

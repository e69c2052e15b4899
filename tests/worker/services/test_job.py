"""Jobs: what is one, how it ends, and what it gets at a drain."""

import asyncio
import functools
import os
import socket
from contextvars import ContextVar
from typing import Any

import pytest
from aiohttp import web

from aiocluster.errors import ConfigError
from aiocluster.ipc.scoreboard import CONNECTIONS_CLOSED
from aiocluster.worker.api.context import WorkerContext
from aiocluster.worker.api.readiness import Readiness
from aiocluster.worker.services.adopt import RejectProtocol
from aiocluster.worker.services.job import JobService
from tests.support.waiting import soon, turns
from tests.worker.api.test_context import FakeLink, leads_nobody, no_servers


async def job(worker: WorkerContext) -> None: ...


class Jobs:
    async def __call__(self, worker: WorkerContext) -> None: ...


class Stage:
    """A job service, and its worker."""

    def __init__(self, given: Any, goodbye: Any = None, *, is_repeated: bool = False) -> None:
        self.row = memoryview(bytearray(16 * 8)).cast("Q")
        self.readiness = Readiness()
        worker = WorkerContext(
            7, 2, "jobs", 1, FakeLink(), self.readiness, no_servers(), leads_nobody()
        )
        self.service = JobService(
            given,
            worker,
            self.row,
            goodbye or self.readiness.run_on_drain_callbacks,
            is_repeated=is_repeated,
        )

    async def drain(self, seconds: float = 1000.0) -> None:
        """Tell it, and wait for its end."""
        self.readiness.stop()
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
    assert (stage.service.cut, stage.service.code) == ([], 0)


async def test_on_drain_callbacks_see_the_context_of_the_job() -> None:
    """What it has set since it registered them, too."""
    name: ContextVar[str] = ContextVar("name")
    said: list[str] = []

    async def tidy(worker: WorkerContext) -> None:
        worker.on_drain(lambda: said.append(name.get()))
        name.set("mail")
        await worker.stopping()

    stage = Stage(tidy)
    await stage.service.start()
    await turns()

    await stage.drain()

    assert said == ["mail"]


async def test_a_job_that_returns_is_over() -> None:
    """Whoever waits for that sees it."""
    stage = Stage(job)
    await stage.service.start()

    await soon(stage.service.over)

    await stage.drain()
    assert (stage.service.cut, stage.service.code) == ([], 0)


async def test_a_job_that_raises_is_over_with_that() -> None:
    """It is for the runtime to tell."""

    async def fail(worker: WorkerContext) -> None:
        raise LookupError("no such queue")

    stage = Stage(fail)
    await stage.service.start()

    with pytest.raises(LookupError, match="no such queue"):
        await soon(stage.service.over)


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (
            web.Application(),
            r"init was called as a job, .* returned an Application. It is a factory",
        ),
        (web.Response(), r"init was called as a job, .* returned a Response. It is a request han"),
    ],
)
@pytest.mark.parametrize("waits", [0, 3])
async def test_a_job_that_returns_what_no_job_makes_is_refused(
    result: object, found: str, waits: int
) -> None:
    """At its start, if it returns without a wait; else as what it has failed with."""

    async def init(loop: object) -> object:
        await turns(waits)
        return result

    service = Stage(init).service

    async def life() -> None:
        await service.start()
        await service.over

    with pytest.raises(ConfigError, match=found):
        await soon(life())


async def test_a_job_that_returns_at_once_is_refused_if_it_would_be_called_again() -> None:
    """With what to give in its place: it would be called for ever, and do nothing."""
    service = Stage(job, is_repeated=True).service

    with pytest.raises(ConfigError, match=r"job was called as a job, .* returned at once.* give a"):
        await service.start()


async def test_a_job_that_returns_as_it_is_to_stop_is_not_refused() -> None:
    """It has nothing to do any more."""
    stage = Stage(job, is_repeated=True)
    stage.readiness.stop()

    await stage.service.start()

    await soon(stage.service.over)


async def test_a_job_that_works_before_its_first_wait_is_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does something each time that it is called."""
    loop = asyncio.get_running_loop()
    now = loop.time()

    async def work(worker: WorkerContext) -> None:
        monkeypatch.setattr(loop, "time", lambda: now + 2.0)

    stage = Stage(work, is_repeated=True)
    monkeypatch.setattr(loop, "time", lambda: now)
    await stage.service.start()
    monkeypatch.undo()

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

    assert (stage.service.cut, stage.service.code) == ([], 0)


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

    assert stage.service.code == 1
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
    assert stage.service.code == 0


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
    assert isinstance(stage.service.protocol(0), RejectProtocol)
    assert stage.row[CONNECTIONS_CLOSED] == 2

import asyncio
import os

import pytest
from aiohttp import web

from aiocluster.config.environment import env_from
from aiocluster.config.roles import RoleSpec, plan_from
from aiocluster.worker.api.context import WorkerContext, current_worker
from aiocluster.worker.single_process import LoneWorker, set_environment
from tests.support.waiting import soon


def spec(**settings: object) -> RoleSpec:
    given = {"bind": "127.0.0.1:0", "graceful_timeout": 5.0, **settings}
    return plan_from(web.Application(), None, given).roles["web"]


async def test_all_hooks_run_in_one_task() -> None:
    """A context variable or a TaskGroup of the start is there at the end, as under run_app."""
    tasks = []

    async def around(app: web.Application) -> object:
        worker = current_worker()
        assert worker is not None
        tasks.append((asyncio.current_task(), worker.is_ready, worker.is_leader))
        yield
        tasks.append((asyncio.current_task(), worker.is_ready, worker.is_leader))

    app = web.Application()
    app.cleanup_ctx.append(around)  # type: ignore[arg-type]
    worker = LoneWorker(1, spec(), app)
    running = asyncio.create_task(worker.run())
    await soon(worker.started)
    assert (worker.context.is_ready, worker.context.is_leader) == (True, True)
    worker.stop()
    worker.stop()
    await soon(running)
    assert tasks == [(running, False, False)] * 2
    assert (worker.cut, worker.failed, worker.is_stopping) == ([], False, True)


async def test_the_sockets_open_when_the_app_is_ready() -> None:
    """With ready="explicit" nobody can connect before the app says so."""
    worker = LoneWorker(1, spec(ready="explicit"), web.Application())
    running = asyncio.create_task(worker.run())
    for _ in range(10):
        await asyncio.sleep(0)
    assert (worker.addresses, worker.started.done()) == ((), False)
    worker.context.ready()
    await soon(worker.started)
    assert worker.addresses
    worker.stop()
    await soon(running)


async def test_the_settings_of_aiohttp_reach_aiohttp() -> None:
    """What aiohttp knows holds in one process as on Linux."""
    handlers = []

    async def hello(request: web.Request) -> web.Response:
        handlers.append(request.protocol)
        return web.Response()

    app = web.Application()
    app.router.add_get("/", hello)
    worker = LoneWorker(1, spec(keepalive_timeout=1.5, lingering_time=0.5), app)
    running = asyncio.create_task(worker.run())
    await soon(worker.started)
    reader, writer = await asyncio.open_connection(*worker.addresses[0])
    writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    assert await soon(reader.readline()) == b"HTTP/1.1 200 OK\r\n"
    assert handlers[0].keepalive_timeout == 1.5
    worker.stop()
    await soon(running)
    writer.close()


async def test_a_job_that_raises_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    """Its traceback is in the log; its servers are closed."""

    async def job(worker: WorkerContext) -> None:
        await worker.create_server(asyncio.Protocol, "127.0.0.1", 0)
        raise RuntimeError("broken")

    worker = LoneWorker(1, spec(), job)
    await soon(worker.run())
    assert (worker.failed, worker.context.is_stopping) == (True, True)
    assert "broken" in caplog.text


async def test_an_iterator_over_messages_ends_with_the_worker() -> None:
    """As on Linux: a task that reads messages does not hold up the end."""
    ended = asyncio.Event()

    async def job(worker: WorkerContext) -> None:
        async def read() -> None:
            async for _ in worker.messages():
                pass
            ended.set()

        reading.append(asyncio.create_task(read()))

    reading: list[asyncio.Task[None]] = []
    worker = LoneWorker(1, spec(), job)
    await soon(worker.run())
    worker.channel.connection_lost(None)
    await soon(ended.wait())


def test_the_environment_is_that_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an app reads from its environment on Linux it finds here too."""
    for name in ("AIOCLUSTER_WORKER_ID", "AIOCLUSTER_SLOT", "AIOCLUSTER_ROLE", "MINE", "FIRST"):
        monkeypatch.setenv(name, "before")
    env = env_from({"MINE": "all", 0: {"FIRST": "slot 0"}, 1: {"FIRST": "slot 1"}})
    set_environment(spec(env=env), 1)
    names = ("AIOCLUSTER_WORKER_ID", "AIOCLUSTER_SLOT", "AIOCLUSTER_ROLE", "MINE", "FIRST")
    assert [os.environ[name] for name in names] == ["1", "0", "web", "all", "slot 0"]

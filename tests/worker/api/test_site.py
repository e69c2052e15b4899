"""A second aiohttp server in a worker; the test's primary binds."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

import aiocluster
from aiocluster.errors import ConfigError
from aiocluster.ipc.messages import Unlisten
from aiocluster.worker.api import context
from aiocluster.worker.api.readiness import Readiness
from tests.support.waiting import soon, turns_until
from tests.support.wire import Wire
from tests.worker.api.test_context import FakeLink, leads_nobody
from tests.worker.services.test_servers import Stage


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    stage = Stage()
    stage.readiness = Readiness()  # type: ignore[attr-defined]
    worker = context.WorkerContext(
        1,
        0,
        "web",
        1,
        FakeLink(),
        stage.readiness,  # type: ignore[attr-defined]
        stage.servers,
        leads_nobody(),
    )
    monkeypatch.setattr(context._Process, "worker", worker)
    yield stage
    await stage.close()


@pytest.fixture
async def runner() -> AsyncIterator[web.AppRunner]:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text=f"hello {request.remote}")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    yield runner
    await runner.cleanup()


async def test_it_serves_as_aiohttps_does(stage: Stage, runner: web.AppRunner) -> None:
    """It has the real port and its name; its connections are counted; stopped, it is unlistened."""
    site = aiocluster.TCPSite(runner, "127.0.0.1", 0)
    assert isinstance(site, web.BaseSite)
    await soon(site.start())
    assert site.port > 0
    assert site.name == f"http://127.0.0.1:{site.port}"

    async with aiohttp.ClientSession() as session:
        async with session.get(site.name) as response:
            assert await response.text() == "hello 127.0.0.1"
        assert stage.open == 1
    await turns_until(lambda: stage.open == 0)

    assert site in runner.sites
    await site.stop()
    assert stage.readiness._on_drain == {}  # type: ignore[attr-defined]
    assert stage.primary.heard[-1] == Unlisten(1)
    assert site not in runner.sites


async def test_a_drain_closes_its_idle_connections(stage: Stage, runner: web.AppRunner) -> None:
    """They would hold it up until its deadline: nobody else knows that they are idle."""
    site = aiocluster.TCPSite(runner, "127.0.0.1", 0)
    await soon(site.start())
    # A client that would not close it by itself.
    async with Wire(site.name) as wire:
        assert (await wire.get()).status == 200
        draining = asyncio.create_task(stage.drain())

        await stage.readiness.run_on_drain_callbacks()  # type: ignore[attr-defined]

        assert await soon(draining) == []
        assert await soon(wire.rest()) == b""


async def test_one_that_never_started_may_be_stopped(stage: Stage, runner: web.AppRunner) -> None:
    """As aiohttp's: it must be the runner's."""
    with pytest.raises(RuntimeError, match="not registered"):
        await aiocluster.TCPSite(runner, "127.0.0.1", 0).stop()


async def test_outside_a_worker_it_cannot_start(runner: web.AppRunner) -> None:
    """There is no primary to bind for it."""
    with pytest.raises(ConfigError, match="only a worker has one"):
        await aiocluster.TCPSite(runner, "127.0.0.1", 0).start()

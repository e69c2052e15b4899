"""No more requests at a time than allowed, with aiohttp's own server over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from aiocluster.config.settings import settings_from
from aiocluster.worker.http.limiting import limited
from tests.support.waiting import soon, turns_until


class Stage:
    """A server that answers when it is let, and its clients."""

    def __init__(self, **settings: Any) -> None:
        self.running = self.most = 0
        self.go = asyncio.Event()
        self.asked = 0
        self._limited = limited(self._handle, settings_from(settings))
        self._runner = web.ServerRunner(web.Server(self._count, handler_cancellation=True))

    async def _count(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked += 1
        return await self._limited(request)

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go.wait()
            if request.path == "/raise":
                raise web.HTTPGone
        finally:
            self.running -= 1
        return web.Response(text="done")

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._url = "http://{}:{}".format(*self._runner.addresses[0])
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    def ask(self, path: str = "/") -> "asyncio.Task[tuple[int, str | None]]":
        """Begin a request; its result is the status, and Retry-After."""

        async def asked() -> tuple[int, str | None]:
            async with self._session.get(self._url + path) as response:
                return response.status, response.headers.get("Retry-After")

        return asyncio.create_task(asked())

    async def close(self) -> None:
        self.go.set()
        await self._session.close()
        await self._runner.cleanup()


Make = Callable[..., Any]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    stages: list[Stage] = []

    async def make_stage(**settings: Any) -> Stage:
        stages.append(Stage(**settings))
        await stages[-1].start()
        return stages[-1]

    yield make_stage
    for stage in stages:
        await stage.close()


async def handler(request: web.BaseRequest) -> web.Response:
    return web.Response()


def test_without_a_limit_the_handler_is_the_apps_own() -> None:
    """It costs nothing."""
    assert limited(handler, settings_from({})) is handler


@pytest.mark.parametrize("limit", [1, 3])
async def test_further_ones_wait(make: Make, limit: int) -> None:
    """And all are answered in the end."""
    stage = await make(max_requests_in_flight=limit)
    tasks = [stage.ask() for _ in range(10)]
    await turns_until(lambda: stage.running == limit)
    stage.go.set()

    assert await soon(asyncio.gather(*tasks)) == [(200, None)] * 10
    assert stage.most == limit


async def test_further_ones_are_turned_away(make: Make) -> None:
    """With the seconds to wait; and once one is done there is room."""
    stage = await make(max_requests_in_flight=1, when_full="503", retry_after=7)
    running = stage.ask()
    await turns_until(lambda: stage.running == 1)

    assert await soon(stage.ask()) == (503, "7")

    stage.go.set()
    assert await soon(running) == (200, None)
    assert await soon(stage.ask()) == (200, None)


async def test_further_ones_are_closed(make: Make) -> None:
    """Without a word."""
    stage = await make(max_requests_in_flight=1, when_full="close")
    running = stage.ask()
    await turns_until(lambda: stage.running == 1)

    with pytest.raises(aiohttp.ServerDisconnectedError):
        await soon(stage.ask())

    stage.go.set()
    assert await soon(running) == (200, None)
    assert await soon(stage.ask()) == (200, None)


async def test_a_handler_that_raises_makes_room(make: Make) -> None:
    """However a request ends, it has ended."""
    stage = await make(max_requests_in_flight=1, when_full="503")
    stage.go.set()
    for _ in range(3):
        assert await soon(stage.ask("/raise")) == (410, None)

    assert await soon(stage.ask()) == (200, None)


async def test_one_that_is_cancelled_while_it_waits_leaves_nothing(make: Make) -> None:
    """Its client has gone; the next one in the row is served."""
    stage = await make(max_requests_in_flight=1)
    first = stage.ask()
    await turns_until(lambda: stage.running == 1)
    gone, last = stage.ask(), stage.ask()
    await turns_until(lambda: stage.asked == 3)
    gone.cancel()
    stage.go.set()

    assert await soon(first) == (200, None)
    assert await soon(last) == (200, None)

"""max_requests replaces workers while clients go on as if nothing had happened."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from tests.support.program import Program
from tests.support.wire import Wire

SOURCE = """
import os
from aiohttp import web
import aiocluster

async def pid(request):
    return web.Response(text=str(os.getpid()))

def make_app():
    app = web.Application()
    app.router.add_route("*", "/", pid)
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=2, bind="127.0.0.1:0", max_requests=50, max_requests_jitter=5)
"""

REQUESTS = 150
CLIENTS = 4

Client = Callable[[str], Awaitable[set[str]]]


async def with_aiohttp(url: str) -> set[str]:
    """Keep connections alive; POST, which aiohttp does not silently send again when it fails."""
    pids = set()
    async with aiohttp.ClientSession() as session:
        for _ in range(REQUESTS):
            async with session.post(url) as response:
                assert response.status == 200
                pids.add(await response.text())
    return pids


async def by_hand(url: str) -> set[str]:
    """Use a connection until a response says that it closes; then it must have been the last."""
    pids = set()
    asked = 0
    while asked < REQUESTS:
        async with Wire(url) as wire:
            while asked < REQUESTS:
                asked += 1
                await wire.ask(method="POST")
                response = await wire.response()
                assert response.status == 200
                pids.add(response.body.decode())
                if response.headers.get("connection") == "close":
                    assert await wire.rest() == b""
                    break
    return pids


async def one_connection_a_request(url: str) -> set[str]:
    """Connect anew for every request."""
    pids = set()
    for _ in range(REQUESTS):
        async with Wire(url) as wire:
            pids.add((await wire.get()).body.decode())
    return pids


@pytest.mark.parametrize("client", [with_aiohttp, by_hand, one_connection_a_request])
async def test_recycled_workers_lose_no_request(tmp_path: Path, client: Client) -> None:
    """Hundreds of requests over several generations of workers: every one is answered."""
    async with Program(tmp_path, SOURCE) as program:
        url = await program.url()
        first = {str(worker.pid) for worker in program.workers()}
        # Until the first two are gone, however fast the requests are and the forks slow.
        pids: set[str] = set()
        while len(pids) < 6:
            pids.update(*await asyncio.gather(*(client(url) for _ in range(CLIENTS))))
        output = program.output
        assert await program.stop() == 0

    assert first < pids
    assert "Traceback" not in output
    assert "max_requests" in output
    assert "too many failures" not in output

"""Round robin is exact, however connections come."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

from tests.support.program import Program
from tests.support.wire import Wire

# `behind_after` is out of the way: on a machine too busy to run a worker for 50 ms, passing
# that worker over would be right, and uneven.
SOURCE = """
import os
from aiohttp import web
import aiocluster

async def pid(request):
    return web.Response(text=str(os.getpid()))

def make_app():
    app = web.Application()
    app.router.add_get("/", pid)
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=4, bind="127.0.0.1:0", behind_after=600)
"""


async def pid_of(url: str) -> bytes:
    """Return who serves a new connection."""
    async with Wire(url) as wire:
        return (await wire.get()).body


async def test_connections_are_shared_evenly(tmp_path: Path) -> None:
    """Kept alive, one by one or in bursts: no worker has over one connection more than another."""
    async with Program(tmp_path, SOURCE) as program:
        url = await program.url()
        async with AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(Wire(url)) for _ in range(64)]
            kept = [response.body for wire in wires for response in [await wire.get()]]
            again = [response.body for wire in wires for response in [await wire.get()]]
        one_by_one = [await pid_of(url) for _ in range(400)]
        bursts = [await asyncio.gather(*(pid_of(url) for _ in range(50))) for _ in range(8)]
        assert await program.stop() == 0

    assert again == kept
    assert [*Counter(kept).values()] == [16] * 4
    assert [*Counter(one_by_one).values()] == [100] * 4
    for burst in bursts:
        assert sorted(Counter(burst).values()) == [12, 12, 13, 13]
    assert [*Counter(pid for burst in bursts for pid in burst).values()] == [100] * 4

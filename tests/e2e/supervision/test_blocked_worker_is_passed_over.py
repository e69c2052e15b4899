"""A handler that blocks its loop takes one worker, not the service."""

import asyncio
from pathlib import Path

from tests.support.program import Program
from tests.support.wire import Response, Wire

SOURCE = """
import os, time
from aiohttp import web
import aiocluster

async def pid(request):
    return web.Response(text=str(os.getpid()))

async def block(request):
    os.write(1, b"blocked\\n")
    while not os.path.exists("gate"):
        time.sleep(0.01)
    return await pid(request)

def make_app():
    app = web.Application()
    app.add_routes([web.get("/", pid), web.get("/block", block)])
    return app

if __name__ == "__main__":
    # What was given to it stays: that it would be stolen back is shown elsewhere.
    settings = dict(behind_after={behind_after}, steal_after=3600)
    aiocluster.run(make_app, workers=2, bind="127.0.0.1:0", **settings)
"""

BEHIND_AFTER = 0.05


async def test_a_blocked_worker_is_passed_over(tmp_path: Path) -> None:
    """While one worker blocks, the other answers every new connection; none is lost."""

    async def get(path: str = "/") -> Response:
        async with Wire(url) as wire:
            return await wire.get(path)

    async with Program(tmp_path, SOURCE.format(behind_after=BEHIND_AFTER)) as program:
        url = await program.url()
        blocked = asyncio.create_task(get("/block"))
        await program.line("blocked")
        # The next ones go to each worker in turn: one is answered, and so is a third, after
        # which the second is known to lie untaken at the blocked worker.
        first = await get()
        async with Wire(url) as second:
            await second.ask()
            third = await get()
            # No event tells that a connection has lain untaken for behind_after.
            await asyncio.sleep(2 * BEHIND_AFTER)
            answered = [await get() for _ in range(40)]
            assert not blocked.done()

            program.write("gate")
            late = [await blocked, await second.response()]
        assert await program.stop() == 0

    assert {response.body for response in [first, *answered]} == {third.body}
    assert {response.status for response in late} == {200}
    assert late[0].body == late[1].body != third.body

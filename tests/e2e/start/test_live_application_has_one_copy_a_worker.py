"""A live Application is forked, not shared."""

import asyncio
from pathlib import Path

from tests.support.program import Program
from tests.support.wire import Wire

SOURCE = """
import os
from aiohttp import web
import aiocluster

visits = web.AppKey("visits", list)
app = web.Application()
app[visits] = []

async def visit(request):
    request.app[visits].append(1)
    return web.Response(text=f"{os.getpid()} {len(request.app[visits])}")

app.router.add_get("/", visit)

if __name__ == "__main__":
    aiocluster.run(app, workers=2, bind="127.0.0.1:0", behind_after=60)
"""


async def test_a_live_application_has_one_copy_a_worker(tmp_path: Path) -> None:
    """What a handler changes in the app is seen by its own worker alone."""
    async with Program(tmp_path, SOURCE) as program:
        url = await program.url()
        async with Wire(url) as one, Wire(url) as other:
            replies = [
                (await asyncio.gather(one.get(), other.get()), round_)  # each stays on its worker
                for round_ in ("1", "2", "3")
            ]
        workers = {worker.pid for worker in program.workers()}
        assert await program.stop() == 0

    pids = set()
    for pair, round_ in replies:
        for response in pair:
            pid, visits = response.body.decode().split()
            assert visits == round_
            pids.add(int(pid))
    assert pids == workers

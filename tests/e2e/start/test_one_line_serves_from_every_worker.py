"""The first five minutes: one line, every worker used, a clean end."""

from collections import Counter
from pathlib import Path

import aiohttp

from tests.support.program import Program

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
    aiocluster.run(make_app, workers=3, bind="127.0.0.1:0")
"""


async def test_connections_are_spread_evenly_and_term_ends_it_with_0(tmp_path: Path) -> None:
    """Over 60 connections one by one, each of 3 workers serves 20; TERM leaves nothing."""
    served: Counter[str] = Counter()

    async with Program(tmp_path, SOURCE) as program:
        url = await program.url()
        for _ in range(60):
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                served[await response.text()] += 1
        code = await program.stop()
        output = await program.all_output()

    assert sorted(served.values()) == [20, 20, 20]
    assert code == 0
    assert "Traceback" not in output

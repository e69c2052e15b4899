"""The hello app, and requests that cost as much CPU as they say: /work/5 costs 5 ms."""

import os
import time

from aiohttp import web

from benchmarks.apps import hello


def burn(milliseconds: float) -> None:
    """Use CPU time, not wall time, so that it costs the same however busy the machine is."""
    end = time.thread_time() + milliseconds / 1e3
    while time.thread_time() < end:
        pass


async def work(request: web.Request) -> web.Response:
    burn(float(request.match_info["milliseconds"]))
    return web.Response(text=str(os.getpid()))


async def make_app() -> web.Application:
    app = await hello.make_app()
    app.router.add_get("/work/{milliseconds}", work)
    return app

"""The hello app, and an answer that proves which request it is to: what reload_loss.py asks for."""

import os

from aiohttp import web

from benchmarks.apps import hello


async def echo(request: web.Request) -> web.Response:
    headers = {"X-Worker": str(os.getpid())}
    return web.Response(text=request.match_info["token"], headers=headers)


async def make_app() -> web.Application:
    app = await hello.make_app()
    app.router.add_get("/echo/{token}", echo)
    return app

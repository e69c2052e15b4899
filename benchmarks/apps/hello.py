"""The aiohttp app that every Python side serves: a small text, and the pid that served it."""

import os

from aiohttp import web


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="hello")


async def pid(request: web.Request) -> web.Response:
    return web.Response(text=str(os.getpid()))


async def make_app() -> web.Application:
    """A coroutine, because gunicorn's aiohttp worker takes no plain factory."""
    app = web.Application()
    app.router.add_get("/", hello)
    app.router.add_get("/pid", pid)
    return app

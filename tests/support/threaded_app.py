"""An app whose import starts a thread, which no fork would survive."""

import threading

from aiohttp import web

_never = threading.Event()
_thread = threading.Thread(target=_never.wait, daemon=True)
_thread.start()


async def alive(request: web.Request) -> web.Response:
    """Does the thread that the import started run in this worker?"""
    return web.Response(text=str(_thread.is_alive()))


def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/alive", alive)
    return app

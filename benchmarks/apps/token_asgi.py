"""The token app for servers of ASGI."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.apps import hello_asgi


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] != "http" or not scope["path"].startswith("/echo/"):
        await hello_asgi.app(scope, receive, send)
        return
    body = scope["path"].rpartition("/")[2].encode()
    headers = [(b"content-length", b"%d" % len(body)), (b"x-worker", b"%d" % os.getpid())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

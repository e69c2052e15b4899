"""The work app for servers of ASGI."""

from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.apps import hello_asgi
from benchmarks.apps.work import burn


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] == "http" and scope["path"].startswith("/work/"):
        burn(float(scope["path"].rpartition("/")[2]))
        scope = {**scope, "path": "/pid"}
    await hello_asgi.app(scope, receive, send)

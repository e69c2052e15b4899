"""No more requests at a time than a worker is allowed: further ones wait, or are turned away.

The primary gives a worker that is full no new connections. This is for requests on those that it
has, and for those that come between two looks.
"""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from aiocluster.config.settings import Settings

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def limited(handler: Handler, settings: Settings) -> Handler:
    """Return what handles requests as `handler` does, as many as `settings` allow at a time."""
    if settings.max_requests_in_flight == "unlimited":
        return handler
    permits = asyncio.Semaphore(settings.max_requests_in_flight)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if permits.locked() and settings.when_full != "wait":
            return _turned_away(request, settings)
        async with permits:
            return await handler(request)

    return handle


def _turned_away(request: web.BaseRequest, settings: Settings) -> web.StreamResponse:
    if settings.when_full == "close":
        request.protocol.force_close()
    return web.Response(status=503, headers={"Retry-After": str(settings.retry_after)})

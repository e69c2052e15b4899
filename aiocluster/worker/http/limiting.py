"""The limit of a worker's requests in flight: further requests wait, or are turned away.

A full worker gets no new connections from the primary. The limit here is for requests on open
connections, and on connections that the primary sent before it saw that the worker is full.
"""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from aiocluster.config.settings import Settings

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def limited(handler: Handler, settings: Settings) -> Handler:
    """Return a handler that runs `handler` for as many requests at a time as `settings` allow."""
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

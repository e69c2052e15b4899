"""aiohttp's runner with the cluster's settings, and our server in the place of its own."""

import inspect
import logging
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from aiocluster.config.settings import Settings
from aiocluster.worker.http.limiting import limited
from aiocluster.worker.http.metered_server import MeteredServer
from aiocluster.worker.room import Room


class Runner(web.AppRunner):
    """The runner of an app: it makes a MeteredServer."""

    __slots__ = ("_room", "_row", "_settings")

    def __init__(
        self, app: web.Application, row: memoryview, settings: Settings, room: Room
    ) -> None:
        super().__init__(app, **_runner_options(settings))
        self._row = row
        self._settings = settings
        self._room = room

    async def _make_server(self) -> web.Server:
        server = MeteredServer(await super()._make_server(), self._row, self._room)
        server.request_handler = limited(server.request_handler, self._settings)
        return server


_PARAMETERS = inspect.signature(RequestHandler).parameters


def _runner_options(settings: Settings) -> dict[str, Any]:
    options = {
        "handle_signals": False,
        "access_log": logging.getLogger("aiohttp.access") if settings.access_log else None,
        "access_log_format": settings.access_log_format,
        "keepalive_timeout": settings.keepalive_timeout,
        "tcp_keepalive": False,  # the listener has set what is wanted
        "handler_cancellation": settings.handler_cancellation,
        "lingering_time": settings.lingering_time,
        "max_line_size": settings.max_line_size,
        "max_field_size": settings.max_field_size,
        "max_headers": settings.max_headers,
        "read_bufsize": settings.read_bufsize,
        "auto_decompress": settings.auto_decompress,
    }
    # Each one goes through three calls for every connection: 2 µs for all.
    return {name: value for name, value in options.items() if not _is_default(name, value)}


def _is_default(name: str, value: object) -> bool:
    parameter = _PARAMETERS.get(name)
    return parameter is not None and parameter.default == value

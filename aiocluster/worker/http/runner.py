"""aiohttp's runner with the cluster's settings, and with our server."""

import logging
from collections.abc import Iterator
from typing import Any, cast

from aiohttp import web

from aiocluster.config.settings import Settings
from aiocluster.worker.accept.capacity import AcceptCapacity
from aiocluster.worker.http.aiohttp_internals import (
    UNKNOWN,
    handler_options,
    refused_options,
    shown_version,
)
from aiocluster.worker.http.degraded_server import DegradedServer
from aiocluster.worker.http.limiting import limited
from aiocluster.worker.http.metered_server import MeteredServer

# The aiohttp from which a setting has an effect, if that is not the oldest supported one.
_SINCE = {"max_headers": "3.13.4"}


async def start_server(
    app: web.Application, row: memoryview, settings: Settings, room: AcceptCapacity
) -> MeteredServer:
    """Run the app's start-up hooks; return its MeteredServer, or the DegradedServer instead."""
    if UNKNOWN:
        degraded = DegradedServer(row, room)
        await degraded.start(app, settings, runner_options(settings))
        return cast(MeteredServer, degraded)
    runner = Runner(app, row, settings, room)
    await runner.setup()
    assert isinstance(runner.server, MeteredServer)
    return runner.server


def notes(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each expected feature that this aiohttp lacks."""
    if UNKNOWN:
        yield (
            f"{shown_version()} is not known ({_some(UNKNOWN)}): it serves as usual, but idle"
            " connections do not move to other workers in a reload or a drain, and close after"
            " their next response; a newer aiocluster, or aiohttp 3.10 to 3.14, moves them"
        )
    yield from setting_notes(settings)


def setting_notes(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each setting that was given and that this aiohttp does not have."""
    default = Settings()
    for name in refused_options(_handler_settings(settings)):
        if (value := getattr(settings, name)) != getattr(default, name):
            since = f"it has one from aiohttp {_SINCE[name]}" if name in _SINCE else "remove it"
            yield f"the setting {name}={value!r} has no effect on {shown_version()}: {since}"


def _some(names: list[str]) -> str:
    more = len(names) - 3
    return ", ".join([*names[:3], f"and {more} more"] if more > 0 else names)


class Runner(web.AppRunner):
    """The runner of an app: it makes a MeteredServer."""

    __slots__ = ("_room", "_row", "_settings")

    def __init__(
        self, app: web.Application, row: memoryview, settings: Settings, room: AcceptCapacity
    ) -> None:
        super().__init__(app, **runner_options(settings))
        self._row = row
        self._settings = settings
        self._room = room

    async def _make_server(self) -> web.Server:
        server = MeteredServer(await super()._make_server(), self._row, self._room)
        server.request_handler = limited(server.request_handler, self._settings)
        return server


def runner_options(settings: Settings) -> dict[str, Any]:
    """Return the options of aiohttp's runner and handlers that differ from its defaults.

    Settings that this aiohttp does not have are left out; see `notes`.
    """
    access_log = logging.getLogger("aiohttp.access") if settings.access_log else None
    ours = {"access_log": access_log, "tcp_keepalive": False}  # set on the listener if wanted
    return {
        "handle_signals": False,
        "handler_cancellation": settings.handler_cancellation,
        **handler_options({**_handler_settings(settings), **ours}),
    }


def _handler_settings(settings: Settings) -> dict[str, Any]:
    return {
        "access_log_format": settings.access_log_format,
        "keepalive_timeout": settings.keepalive_timeout,
        "lingering_time": settings.lingering_time,
        "max_line_size": settings.max_line_size,
        "max_field_size": settings.max_field_size,
        "max_headers": settings.max_headers,
        "read_bufsize": settings.read_bufsize,
        "auto_decompress": settings.auto_decompress,
    }

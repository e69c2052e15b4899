"""The server of an app on an unknown aiohttp: it uses public API only.

It stands in for a MeteredServer. aiohttp's own class handles each connection, behind a protocol
of ours that passes everything on and notes the end. A request begins when aiohttp calls its
handler, and is done when aiohttp writes its access log. So connections and requests are counted
and drained as usual, and WebSockets get their close code. One thing is lost: nothing shows whether
aiohttp's parser holds a part of a request. So no connection migrates. In a drain each connection
closes after its next response, and the idle ones are closed at the end of the drain.
"""

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, cast

from aiohttp import web
from aiohttp.web_log import AccessLogger

from aiocluster.config.settings import Settings
from aiocluster.ipc.handoff import Client
from aiocluster.ipc.scoreboard import (
    CONNECTIONS_CLOSED,
    REQUESTS_BEGUN,
    REQUESTS_DONE,
    RESPONSES,
)
from aiocluster.metrics.instruments import Histogram
from aiocluster.worker.accept.capacity import AcceptCapacity
from aiocluster.worker.http.client_transport import with_client
from aiocluster.worker.http.limiting import Handler, limited
from aiocluster.worker.http.lingering_close import unread_bytes
from aiocluster.worker.http.metered_server import (
    SWITCHING_PROTOCOLS,
    MeteredHandler,
    Sign,
    names_of,
    request_name,
)
from aiocluster.worker.http.request_boundary import BoundaryTrackingHandler
from aiocluster.worker.http.websockets import WebSockets


class DegradedServer:
    """The server of one app; it writes to this worker's row of the scoreboard."""

    # No connection moves.
    metered: tuple[MeteredHandler, ...] = ()

    def __init__(self, row: memoryview, room: AcceptCapacity) -> None:
        self.latency = Histogram()
        self.websockets = _WebSockets()
        self._row = row
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._server: web.Server
        # The connections that are open or have a running request handler, by aiohttp's handler.
        self._connections: dict[object, _Connection] = {}
        self._responses_are_last = False
        self._emptied: asyncio.Event | None = None  # while a task waits for it

    async def start(
        self, app: web.Application, settings: Settings, options: dict[str, Any]
    ) -> None:
        """Start the app, with these options of aiohttp's runner."""
        if not app.frozen:  # if it is, some responses do not say that their connection will close
            app.on_response_prepare.append(self._on_response_prepare)
        runner = web.AppRunner(
            app,
            **{**options, "access_log": logging.getLogger("aiohttp.access")},
            access_log_class=_counting_log(self._on_logged, is_wanted=settings.access_log),
        )
        await runner.setup()
        assert runner.server is not None
        self._server = runner.server
        handler = limited(self._server.request_handler, settings)
        self._server.request_handler = self._counted(handler)

    # ---- connections

    def handler(
        self, listener: int = 0, client: Client | None = None, peer: Any = None
    ) -> asyncio.Protocol:
        """Make the protocol of a connection; see MeteredServer.handler."""
        return _Connection(self, cast(asyncio.Protocol, self._server()), client)

    def opened(self, connection: "_Connection") -> None:
        """Count a connection from now on."""
        self._connections[connection.handler] = connection

    def closed(self, connection: "_Connection") -> None:
        """Count the end of a connection; its handler may run on."""
        self._row[CONNECTIONS_CLOSED] += 1
        self._room.note_end()
        if not connection.begun_ns or connection.has_returned:
            self._forget(connection)

    def _forget(self, connection: "_Connection") -> None:
        """Drop a connection; a request that was given up with it has no status and no latency."""
        if connection.begun_ns:
            connection.begun_ns = 0
            self._count_done()
        self._connections.pop(connection.handler, None)
        if not self._connections and self._emptied is not None:
            self._emptied.set()
            self._emptied = None

    @property
    def connections(self) -> "list[_Connection]":
        """The connections that are open, or have a handler that runs on."""
        return [*self._connections.values()]

    async def wait_empty(self) -> None:
        """Wait until no connection is open and no handler runs."""
        while self._connections:
            if self._emptied is None:
                self._emptied = asyncio.Event()
            await self._emptied.wait()

    # ---- requests

    def _counted(self, handle: Handler) -> Handler:
        async def counted(request: web.BaseRequest) -> web.StreamResponse:
            connection = self._connections.get(request.protocol)
            if connection is None:  # the connection has ended
                return await handle(request)
            self._begin(connection, request)
            try:
                response = await handle(request)
            finally:
                connection.has_returned = True
                if connection.is_lost:
                    self._forget(connection)
            if self._responses_are_last and isinstance(response, web.StreamResponse):
                response.force_close()
            return response

        return counted

    def _begin(self, connection: "_Connection", request: web.BaseRequest) -> None:
        if connection.begun_ns:  # the app has an access log of its own
            self._count_done()
        self._row[REQUESTS_BEGUN] += 1
        connection.begin(request)

    def _on_logged(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Count the request as done: its response is written."""
        connection = self._connections.get(request.protocol)
        if connection is None:  # the request was given up
            return
        if not connection.begun_ns:  # aiohttp refused the request before its handler
            self._row[REQUESTS_BEGUN] += 1
            connection.begin(request)
        begun_ns = connection.end()
        self._count_done()
        if 100 <= response.status < 600:
            self._row[RESPONSES - 1 + response.status // 100] += 1
        if response.status != SWITCHING_PROTOCOLS:
            self.latency.record(perf_counter_ns() - begun_ns)

    def _count_done(self) -> None:
        self._row[REQUESTS_DONE] += 1
        self._room.note_end()

    async def _on_response_prepare(
        self, request: web.Request, response: web.StreamResponse
    ) -> None:
        if isinstance(response, web.WebSocketResponse):
            # The WebSocket opens later in this turn of the loop.
            self._loop.call_soon(self._note_opened, response, request.protocol)
        elif self._responses_are_last:
            response.force_close()
            response.headers["Connection"] = "close"  # aiohttp made its own header before this

    def _note_opened(self, websocket: web.WebSocketResponse, handler: object) -> None:
        if (connection := self._connections.get(handler)) is not None:
            self.websockets.note(websocket, cast(BoundaryTrackingHandler, connection))

    # ---- a drain

    def begin_last_responses(self, of: object = None) -> None:
        """Make each response from now on say that its connection will be closed."""
        self._responses_are_last = True

    def on_done(self, callback: Callable[[MeteredHandler], None]) -> None:
        """Never call `callback`: it is for connections that may migrate."""

    def is_idle(self, connection: "_Connection") -> bool:
        """Return True if this connection waits for a request."""
        return not connection.begun_ns

    def sign_of(self, connection: "_Connection") -> Sign:
        """Return the surest sign that this idle connection's next request is on its way."""
        return connection.sign()

    def unfinished(self) -> list[str]:
        """Name the unfinished work: the requests being handled, and other open connections."""
        return names_of(self.connections, lambda connection: connection.name)

    async def shutdown(self, grace: float) -> None:
        """Wait `grace` seconds for handlers, cancel the others, close all connections."""
        await self._server.shutdown(grace)


class _WebSockets(WebSockets):
    """The WebSockets of one server; only the transports of their connections are known."""

    def complete_handshakes(self) -> None:
        """Do nothing: if a handler waits in receive(), aiohttp closes without an answer."""


class _Connection(asyncio.Protocol):
    """A connection: a protocol in front of aiohttp's handler, which notes data and the end.

    `begun_ns` is when the current request began, or 0 if there is none; `has_returned` is True if
    the handler of that request has returned.
    """

    def __init__(
        self, server: DegradedServer, handler: asyncio.Protocol, client: Client | None
    ) -> None:
        self.handler = handler
        self.transport: asyncio.Transport
        self.begun_ns = 0
        self.has_returned = False
        self.is_lost = False
        self._server = server
        self._client = client
        self._request: web.BaseRequest | None = None
        self._has_unasked = False  # bytes arrived, and no request has begun since
        self._was_idle = False

    def begin(self, request: web.BaseRequest) -> None:
        """Note the beginning of a request."""
        self._request = request
        self.begun_ns = perf_counter_ns()
        self.has_returned = self._has_unasked = self._was_idle = False

    def end(self) -> int:
        """Note the end of the request; return when it began."""
        begun_ns, self.begun_ns = self.begun_ns, 0
        self._has_unasked = False  # the bytes were its body, or are in aiohttp's queue
        return begun_ns

    def sign(self) -> Sign:
        """Return the surest sign that the next request is on its way.

        If the connection has just become idle, the request may be in aiohttp's queue: the first
        look counts as UNREAD.
        """
        was_idle, self._was_idle = self._was_idle, True
        if not was_idle or (self.transport.is_reading() and unread_bytes(self.transport)):
            return Sign.UNREAD
        if self._has_unasked:
            return Sign.PART
        return Sign.PERHAPS if self._request is None else Sign.NONE

    def force_close(self) -> None:
        """Close the connection, once all written data is sent."""
        self.transport.close()

    @property
    def name(self) -> str:
        """The name of the connection, or of its request, in the log."""
        if self.begun_ns and self._request is not None:
            return request_name(self._request)
        return f"connection from {self._client or self.transport.get_extra_info('peername')}"

    # ---- as asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        shown = transport if self._client is None else with_client(transport, self._client)
        self._server.opened(self)
        try:
            self.handler.connection_made(shown)
        except BaseException:
            self.transport.abort()
            raise

    def data_received(self, data: bytes) -> None:
        self._has_unasked, self._was_idle = True, False
        self.handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self.handler.eof_received()

    def pause_writing(self) -> None:
        self.handler.pause_writing()

    def resume_writing(self) -> None:
        self.handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        try:
            self.handler.connection_lost(exc)
        finally:
            self._server.closed(self)


def _counting_log(
    note: Callable[[web.BaseRequest, web.StreamResponse], None], *, is_wanted: bool
) -> type[AccessLogger]:
    """Return the class of an access log that calls `note`, and logs only if it `is_wanted`."""

    class CountingLog(AccessLogger):
        @property
        def enabled(self) -> bool:
            return True

        def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
            note(request, response)
            if is_wanted and self.logger.isEnabledFor(logging.INFO):
                super().log(request, response, time)

    return CountingLog

"""aiohttp's server, which also counts and times connections and requests.

It hooks into methods that aiohttp calls anyway: the request factory and the access log. A
middleware would cost a coroutine a request, ten times as much.
"""

import asyncio
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from time import perf_counter_ns
from typing import Any, TypeVar, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from aiocluster.ipc.handoff import Client
from aiocluster.ipc.scoreboard import (
    CONNECTIONS_CLOSED,
    REQUESTS_BEGUN,
    REQUESTS_DONE,
    RESPONSES,
    ROOM_WANTED,
)
from aiocluster.metrics.instruments import Histogram
from aiocluster.worker.accept.capacity import AcceptCapacity
from aiocluster.worker.http.aiohttp_internals import (
    CACHES_PEER,
    COUNTS_COMPRESSED,
    Protocol,
    StreamReader,
)
from aiocluster.worker.http.client_transport import with_client
from aiocluster.worker.http.handler_options import usable_options
from aiocluster.worker.http.lingering_close import is_lingering, let_linger, unread_bytes
from aiocluster.worker.http.request_boundary import BoundaryTrackingHandler
from aiocluster.worker.http.websockets import WebSockets, when_opened

T = TypeVar("T")

SWITCHING_PROTOCOLS = 101

# The cut requests and connections named in one log line: enough to see what they were.
_MAX_NAMED = 20
_MAX_PATH_CHARS = 200


class Sign(IntEnum):
    """A sign that an idle connection's next request is on its way; the surest is last."""

    NONE = 0
    PERHAPS = 1  # the connection is new, or its parser may hold the beginning of a request
    PART = 2  # a part of the request's head has arrived
    UNREAD = 3  # the loop will read the request in its next turn


class _Accepted(Protocol):
    """A variant of aiohttp's base protocol that sets no options of a new connection's socket.

    uvloop has set TCP_NODELAY, and the connection inherits SO_KEEPALIVE from its listener.
    aiohttp would build a socket object to set each again: 8 µs a connection together.
    """

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)


class MeteredHandler(BoundaryTrackingHandler, _Accepted):
    """One connection. `begun_ns` is when its current request began, or 0 if there is none.

    `client` is the client's address if a PROXY header named it; `listener` is the index of the
    listener that accepted the connection.
    """

    __slots__ = ("begun_ns", "client", "done", "listener")

    begun_ns: int
    client: Client | None
    listener: int
    done: Callable[[int, int], None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not CACHES_PEER and self.client is not None:
            transport = with_client(transport, self.client)
        try:
            super().connection_made(transport)
        except BaseException:  # the loop logs it; without the abort the connection would stay open
            cast(asyncio.Transport, transport).abort()
            raise

    def log_access(
        self, request: web.BaseRequest, response: web.StreamResponse, time: float | None
    ) -> None:
        # aiohttp calls this twice for a request if its response failed or was an error.
        if begun_ns := self.begun_ns:
            self.begun_ns = 0
            self.done(response.status, begun_ns)
        if self._logging_enabled:
            super().log_access(request, response, time)


class MeteredServer(web.Server):
    """A server that makes the handlers, and counts in this worker's row of the scoreboard."""

    def __init__(
        self,
        server: web.Server,
        row: memoryview,
        room: AcceptCapacity,
    ) -> None:
        self._row = row
        self._room = room
        self.websockets = WebSockets()
        super().__init__(
            server.request_handler,
            request_factory=self._request_factory(server),
            handler_cancellation=server.handler_cancellation,
            loop=server._loop,
            **server._kwargs,
        )
        make = partial(web.RequestHandler, self, loop=self._loop)
        self._kwargs = usable_options(self._kwargs, make)
        self.latency = Histogram()
        self._is_last: Callable[[MeteredHandler], bool] | None = None
        self._emptied: asyncio.Event | None = None  # while a task waits for it

    def __call__(self) -> web.RequestHandler:
        return self.handler()

    def handler(
        self, listener: int = 0, client: Client | None = None, peer: Any = None
    ) -> MeteredHandler:
        """Make the handler of a connection from this client, named by a proxy, or this peer."""
        handler = MeteredHandler(self, loop=self._loop, **self._kwargs)
        handler.begun_ns = 0
        handler.client = client
        handler.listener = listener
        handler.done = self._done
        handler.begin()
        # aiohttp would look these up in the transport, for the connection's requests: 2 µs.
        if CACHES_PEER:
            cache = handler._cache
            cache["ssl_context"] = None
            if (known := client or peer) is not None:
                cache["peername"] = known
        return handler

    async def wait_empty(self) -> None:
        """Wait until no connection is open and no handler runs."""
        while self._connections:
            if self._emptied is None:
                self._emptied = asyncio.Event()
            await self._emptied.wait()

    def begin_last_responses(self, of: "Callable[[MeteredHandler], bool] | None" = None) -> None:
        """Make responses from now on say that their connection will close: all, or those `of`.

        So the client sends no other request on a connection that is about to close.
        """
        self._is_last = is_last = of or (lambda handler: True)
        for handler in self.metered:
            if (request := handler._current_request) is not None and is_last(handler):
                request._message = request._message._replace(should_close=True)
                let_linger(handler)

    def on_done(self, callback: "Callable[[MeteredHandler], None]") -> None:
        """Call `callback` from now on when a response is written on a connection open now."""

        def done(handler: MeteredHandler, status: int, begun_ns: int) -> None:
            self._done(status, begun_ns)
            callback(handler)

        for handler in self.metered:
            handler.done = partial(done, handler)

    @property
    def metered(self) -> "list[MeteredHandler]":
        """All open connections, with their real type."""
        return cast("list[MeteredHandler]", self.connections)

    def is_idle(self, handler: MeteredHandler) -> bool:
        """Return True if this connection waits for a request."""
        waiter = handler._waiter
        return waiter is not None and not waiter.done() and not handler._messages

    def sign_of(self, handler: MeteredHandler) -> Sign:
        """Return the surest sign that this idle connection's next request is on its way."""
        transport = handler.transport
        if transport is not None and transport.is_reading() and unread_bytes(transport):
            return Sign.UNREAD
        if handler.is_within_head:
            return Sign.PART
        if not handler._request_count or not handler.is_between_requests():
            return Sign.PERHAPS
        return Sign.NONE

    def unfinished(self) -> list[str]:
        """Name the unfinished work: the requests being handled, and other open connections."""
        return names_of([one for one in self.metered if not is_lingering(one)], _name)

    def _done(self, status: int, begun_ns: int) -> None:
        """Count a request as done: its response is written."""
        row, room = self._row, self._room
        row[REQUESTS_DONE] += 1
        if row[ROOM_WANTED] or room.is_awaited:
            room.note_end()
        if 100 <= status < 600:  # aiohttp sends any number as a status
            row[RESPONSES - 1 + status // 100] += 1
        # The duration of a WebSocket is no latency.
        if status != SWITCHING_PROTOCOLS:
            self.latency.record(perf_counter_ns() - begun_ns)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        self._connections[handler] = transport

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        # aiohttp's own method only forgets the handler when its task is done.
        row, room = self._row, self._room
        row[CONNECTIONS_CLOSED] += 1
        if row[ROOM_WANTED] or room.is_awaited:
            room.note_end()
        task = handler._task_handler
        if task is None or task.done():
            self._connection_over(handler)
        else:
            # The handler may run on after its client has gone.
            task.add_done_callback(partial(self._connection_over, handler))

    def _connection_over(self, handler: web.RequestHandler, _: object = None) -> None:
        if isinstance(handler, MeteredHandler) and handler.begun_ns:
            self._give_up(handler)
        self._connections.pop(handler, None)
        if not self._connections and self._emptied is not None:
            self._emptied.set()
            self._emptied = None

    def _give_up(self, handler: MeteredHandler) -> None:
        """Count a request with a cancelled handler: it has no status and no latency."""
        handler.begun_ns = 0
        self._row[REQUESTS_DONE] += 1
        self._room.note_end()

    def _request_factory(self, server: web.Server) -> Any:
        """Return the request factory for aiohttp: the app's own one, with counting."""
        make: Any = server.request_factory
        if not COUNTS_COMPRESSED:
            make = _noting_compression(make)
        row = self._row

        def begin(
            message: Any,
            payload: StreamReader,
            protocol: MeteredHandler,
            writer: AbstractStreamWriter,
            task: "asyncio.Task[None]",
        ) -> Any:
            row[REQUESTS_BEGUN] += 1
            protocol.begun_ns = perf_counter_ns()
            protocol.begun_body = payload
            if self._is_last is not None and self._is_last(protocol):
                message = message._replace(should_close=True)
                let_linger(protocol)
            return make(message, payload, protocol, writer, task)

        return begin


def _note_opened(request: web.BaseRequest, websocket: web.WebSocketResponse) -> None:
    """Report an opened WebSocket to the server of its connection."""
    # The connection identifies the server: the app may have made another request object.
    if isinstance(handler := request.protocol, MeteredHandler) and handler._manager is not None:
        cast(MeteredServer, handler._manager).websockets.note(websocket, handler)


when_opened(_note_opened)


def _noting_compression(make: Any) -> Any:
    """Return a factory like `make` that also notes if the request's body is compressed."""

    def noting(
        message: Any, payload: StreamReader, protocol: MeteredHandler, *rest: Any, **more: Any
    ) -> Any:
        protocol.is_compressed = message.compression is not None
        return make(message, payload, protocol, *rest, **more)

    return noting


def names_of(unfinished: Sequence[T], name: Callable[[T], str]) -> list[str]:
    """Return the names of the first of `unfinished`, and how many more there are."""
    named = [name(one) for one in unfinished[:_MAX_NAMED]]
    more = len(unfinished) - len(named)
    return [*named, f"and {more} more"] if more else named


def _name(handler: MeteredHandler) -> str:
    if (request := handler._current_request) is not None:
        return request_name(request)
    known = None if handler.transport is None else handler.transport.get_extra_info("peername")
    return f"connection from {handler.client or known}"


def request_name(request: web.BaseRequest) -> str:
    """Return the name of a request in the log."""
    # The raw path: a decoded one may contain a line that looks like a line of the log.
    path = request.raw_path
    shown = path if len(path) <= _MAX_PATH_CHARS else f"{path[:_MAX_PATH_CHARS]}…"
    return f"{request.method} {shown} from {request.remote}"

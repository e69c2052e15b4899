"""Servers that the user's code starts in a worker, and their connections.

The primary binds, and hands over each connection with the number of its listener. The worker
gives the connection to a protocol of the server that asked for this listener.
"""

import asyncio
import contextlib
import inspect
import logging
import os
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from functools import partial
from typing import Any, NamedTuple, Unpack

from aiocluster.ipc.handoff import Client
from aiocluster.ipc.messages import Message, Serving, Unlisten
from aiocluster.ipc.scoreboard import CONNECTIONS_CLOSED
from aiocluster.worker.api.server import (
    ClusterServer,
    Options,
    ProtocolFactory,
    ServerOptions,
)
from aiocluster.worker.services.adopt import adopt
from aiocluster.worker.services.deadline import DrainDeadline
from aiocluster.worker.services.listen_requests import Asked, Host, Requests

log = logging.getLogger("aiocluster.worker")

# Seconds that connections and their callbacks get to end, or to clean up, if no time is left.
_END_GRACE = 0.25

# The cut connections named in one log line: enough to see what they were.
_MAX_NAMED = 20


class OpenConnection:
    """A connection of a server. `over` gets it once, when it is lost or could not be made."""

    __slots__ = ("_over", "transport")

    def __init__(self, over: "Callable[[OpenConnection], None]") -> None:
        self.transport: asyncio.Transport | None = None
        self._over: Callable[[OpenConnection], None] | None = over

    def made(self, transport: asyncio.Transport | None) -> None:
        """Set its transport, unless the connection has ended already."""
        if self._over is not None:
            self.transport = transport

    def end(self) -> None:
        """Note its end. Idempotent."""
        over, self._over = self._over, None
        self.transport = None
        if over is not None:
            over(self)


class ServerRegistry:
    """The servers of one worker."""

    def __init__(
        self,
        row: memoryview,
        post: Callable[[Message], None],
        turn_away: Callable[[int, int, Client | None], bool],
        note_end: Callable[[], None],
    ) -> None:
        """`note_end` is called when a connection has ended."""
        self.cut: list[str] = []
        self._note_end = note_end
        self._row = row
        self._post = post
        self._give_back = turn_away
        self._loop = asyncio.get_running_loop()
        self.requests = Requests(post)
        self._serving: dict[int, _Served] = {}  # by listener
        self._open: dict[ClusterServer, ServerConnections] = {}
        self._handlers: set[asyncio.Task[Any]] = set()  # the callbacks of start_server
        self._deadline = DrainDeadline()
        self._stopped = False

    # ---- servers start

    async def create_server(
        self,
        protocol_factory: ProtocolFactory,
        host: Host,
        port: int | None,
        **options: Unpack[ServerOptions],
    ) -> ClusterServer:
        """See WorkerContext.create_server."""
        return await self._create(protocol_factory, host, port, Options(**options))

    async def start_server(
        self,
        client_connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
        host: Host,
        port: int | None,
        limit: int,
        **options: Unpack[ServerOptions],
    ) -> ClusterServer:
        """See WorkerContext.start_server."""
        connected = _remembered(client_connected, self._handlers)

        def factory() -> asyncio.StreamReaderProtocol:
            reader = asyncio.StreamReader(limit=limit, loop=self._loop)
            return asyncio.StreamReaderProtocol(reader, connected, loop=self._loop)

        return await self._create(factory, host, port, Options(**options))

    async def _create(
        self,
        protocol_factory: ProtocolFactory,
        host: Host,
        port: int | None,
        options: Options,
    ) -> ClusterServer:
        ask = Asked(host, port, options.family, options.flags, options.backlog)
        bound, release = await self.requests.listen(ask)
        server = ClusterServer(protocol_factory, options, bound, self)
        self._open[server] = ServerConnections(release)
        if options.start_serving:
            await server.start_serving()
        return server

    # ---- servers serve

    def serve(self, server: ClusterServer) -> None:
        """See Transports."""
        connections, options = self._open[server], server.options.for_connections
        context = copy_context()  # as with asyncio's own servers, connections are served in it
        for one in server.bound:
            # Registered first: a connection may follow the message at once.
            family = one.endpoint.family
            self._serving[one.listener] = _Served(server, connections, family, options, context)
            self._post(Serving(one.listener))

    def unlisten(self, server: ClusterServer) -> None:
        """See Transports. The primary closes a draining worker's listeners without a message."""
        for one in server.bound:
            self._serving.pop(one.listener, None)
            if not self._stopped:
                self._post(Unlisten(one.listener))
        self._open[server].release()
        self._forget_if_over(server)

    def transports(self, server: ClusterServer) -> list[asyncio.Transport]:
        """See Transports."""
        connections = self._open[server].open if server in self._open else ()
        return [one.transport for one in connections if one.transport is not None]

    async def wait_empty(self, server: ClusterServer) -> None:
        """See Transports."""
        if server in self._open:
            await self._open[server].empty.wait()

    def adopt(self, fd: int, listener: int, client: Client | None = None) -> None:
        """Serve this connection, and always own it."""
        served = self._serving.get(listener)
        if served is None:
            self._turn_away(fd, listener, client)
            return
        connection = OpenConnection(partial(self._on_over, served.server))
        served.connections.add(connection)
        try:
            served.context.run(
                adopt,
                self._loop,
                served.server.protocol_factory,
                fd,
                served.family,
                partial(_on_made, connection),
                connection.end,
                **served.options,
            )
        except Exception:
            log.exception("a connection could not be served")
            connection.end()
        except BaseException:  # an exit of the app's code: the descriptor is closed
            connection.end()
            raise

    def _turn_away(self, fd: int, listener: int, client: Client | None) -> None:
        """Give back a connection that crossed the Unlisten: others may still have its listener."""
        given = self._give_back(fd, listener, client)
        os.close(fd)
        self._row[CONNECTIONS_CLOSED] += 1
        self._note_end()
        if not given:
            log.warning("a connection to a server that was just closed is closed too")

    def _on_over(self, server: ClusterServer, connection: OpenConnection) -> None:
        self._row[CONNECTIONS_CLOSED] += 1
        self._note_end()
        self._open[server].remove(connection)
        self._forget_if_over(server)

    def _forget_if_over(self, server: ClusterServer) -> None:
        """Forget a server that is closed and has no more connections."""
        connections = self._open[server]
        if server.is_closed and not connections.open:
            del self._open[server]

    def _all(self) -> list[OpenConnection]:
        return [one for connections in self._open.values() for one in connections.open]

    # ---- the end

    def stop(self) -> None:
        """Close all servers, and start none: the worker drains. Idempotent."""
        self._stopped = True
        self.requests.stop()
        for server in [*self._open]:
            server.close()

    def hurry(self, timeout: float) -> None:
        """End `drain` within `timeout` seconds from now; may be called before it, and again."""
        self._deadline.at_latest_in(timeout)

    async def drain(self) -> None:
        """Wait for the connections to end; cut the open ones when no time is left."""
        ending = asyncio.ensure_future(self._until_over())
        await self._deadline.wait_for({ending}, _END_GRACE)
        if ending.done():
            return
        ending.cancel()
        connections, handlers = self._all(), [*self._handlers]
        self.cut += _names(connections) or ["a server's callback for a client that has gone"]
        for connection in connections:
            if connection.transport is not None:
                connection.transport.abort()
        for handler in handlers:
            handler.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_GRACE):
                await self._until_over()

    async def _until_over(self) -> None:
        for connections in [*self._open.values()]:
            await connections.empty.wait()
        if self._handlers:
            await asyncio.wait([*self._handlers])


class _Served(NamedTuple):
    """The parts that each connection of one listener needs."""

    server: ClusterServer
    connections: "ServerConnections"
    family: int
    options: dict[str, Any]
    context: Context


class ServerConnections:
    """The connections of one server. `release` ends its claim to its addresses."""

    def __init__(self, release: Callable[[], None]) -> None:
        self.release = release
        self.open: set[OpenConnection] = set()
        self.empty = asyncio.Event()
        self.empty.set()

    def add(self, connection: OpenConnection) -> None:
        self.open.add(connection)
        self.empty.clear()

    def remove(self, connection: OpenConnection) -> None:
        self.open.discard(connection)
        if not self.open:
            self.empty.set()


def _on_made(
    connection: OpenConnection, transport: asyncio.Transport | None, error: Exception | None
) -> None:
    connection.made(transport)
    if error is not None:  # mostly, the client speaks no TLS; asyncio's servers log nothing either
        log.debug("a connection could not be made: %r", error)
        connection.end()


def _remembered(
    client_connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
    handlers: "set[asyncio.Task[Any]]",
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    """Return `client_connected` as a callback that keeps its running tasks in `handlers`."""

    async def run(coroutine: Any, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            await coroutine
        except asyncio.CancelledError:
            writer.close()  # as asyncio does from 3.12 on; before, it shows a traceback
        finally:
            handlers.discard(task)

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Any:
        result = client_connected(reader, writer)
        return run(result, writer) if inspect.iscoroutine(result) else None

    return connected


def _names(connections: Iterable[OpenConnection]) -> list[str]:
    names = [_name(connection) for connection in connections]
    more = len(names) - _MAX_NAMED
    return [*names[:_MAX_NAMED], f"and {more} more"] if more > 0 else names


def _name(connection: OpenConnection) -> str:
    transport = connection.transport
    if transport is None:
        return "connection that was being made"
    peer, here = (transport.get_extra_info(what) for what in ("peername", "sockname"))
    return f"connection from {_where(peer)} to {_where(here)}"


def _where(address: Any) -> str:
    return f"{address[0]}:{address[1]}" if address else "an unknown address"

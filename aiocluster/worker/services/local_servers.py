"""The user's servers in a worker without a primary: asyncio's own servers listen.

Their sockets are this process's. Everything else is as with a primary: the user's code sees the
same servers, and their connections end in the same way.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from aiocluster.errors import ClusterStopping
from aiocluster.ipc.messages import Bound, Endpoint
from aiocluster.worker.api.server import ClusterServer, Options, ProtocolFactory
from aiocluster.worker.services.listen_requests import Host
from aiocluster.worker.services.servers import OpenConnection, ServerConnections, ServerRegistry

# Seconds between two checks for lost connections. asyncio reports a lost connection only to its
# protocol, which is the user's.
_CHECK_INTERVAL = 0.05

log = logging.getLogger("aiocluster.worker")


class LocalServers(ServerRegistry):
    """The servers of one worker without a primary. `row` stands in for its scoreboard row."""

    def __init__(self, row: memoryview) -> None:
        super().__init__(row, lambda message: None, lambda fd, listener, client: False, _nothing)
        self._listening: dict[ClusterServer, asyncio.Server] = {}
        self._check: asyncio.TimerHandle | None = None

    async def _create(
        self, protocol_factory: ProtocolFactory, host: Host, port: int | None, options: Options
    ) -> ClusterServer:
        connections, made = ServerConnections(_nothing), list[ClusterServer]()

        def opened(transport: asyncio.Transport) -> None:
            connection = OpenConnection(partial(self._on_over, made[0]))
            connection.made(transport)
            connections.add(connection)
            self._check_soon()

        listening = await self._loop.create_server(
            lambda: _Opening(protocol_factory, opened),
            host,
            port,
            family=options.family,
            flags=options.flags,
            backlog=max(options.backlog, 1),
            start_serving=False,
            **options.for_connections,
        )
        if self._stopped:
            listening.close()
            raise ClusterStopping("cannot listen: this worker is draining")
        server = ClusterServer(protocol_factory, options, _bound(listening), self)
        made.append(server)  # it has no connections before it serves
        self._open[server] = connections
        self._listening[server] = listening
        if options.start_serving:
            await server.start_serving()
        return server

    def serve(self, server: ClusterServer) -> None:
        """See Transports."""
        # The server listens after the first step, and then only waits for a turn of the loop.
        starting = self._listening[server].start_serving()
        with contextlib.suppress(StopIteration):
            starting.send(None)
        starting.close()

    def unlisten(self, server: ClusterServer) -> None:
        """See Transports."""
        self._listening.pop(server).close()
        self._forget_if_over(server)

    def _check_soon(self) -> None:
        if self._check is None:
            self._check = self._loop.call_later(_CHECK_INTERVAL, self._end_the_lost)

    def _end_the_lost(self) -> None:
        self._check = None
        for connection in self._all():
            if connection.transport is not None and _is_lost(connection.transport):
                connection.end()
        if self._all():
            self._check_soon()


class _Opening(asyncio.Protocol):
    """A protocol that reports a new connection, and hands it to the user's protocol."""

    def __init__(
        self, protocol_factory: ProtocolFactory, opened: Callable[[asyncio.Transport], None]
    ) -> None:
        self._protocol_factory = protocol_factory
        self._opened = opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connected = cast(asyncio.Transport, transport)
        try:
            protocol = self._protocol_factory()
        except Exception:
            log.exception("a connection could not be served")
            connected.abort()
            return
        connected.set_protocol(protocol)
        self._opened(connected)
        protocol.connection_made(connected)


def _is_lost(transport: asyncio.Transport) -> bool:
    """Return True if the connection is over: its protocol or its socket has gone.

    The loops differ: asyncio's proactor keeps the protocol, and uvloop the number of the socket.
    """
    if not transport.is_closing():
        return False
    sock = transport.get_extra_info("socket")
    has_protocol = cast(object, transport.get_protocol()) is not None
    return not has_protocol or sock is None or sock.fileno() == -1


def _bound(listening: asyncio.Server) -> list[Bound]:
    sockets = enumerate(listening.sockets)
    return [Bound(index, _endpoint(sock.family, sock.getsockname())) for index, sock in sockets]


def _endpoint(family: int, address: Any) -> Endpoint:
    scope = address[3] if family == socket.AF_INET6 else 0
    return Endpoint(int(family), address[0].partition("%")[0], address[1], scope)


def _nothing() -> None:
    pass

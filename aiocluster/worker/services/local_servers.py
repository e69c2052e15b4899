"""Servers of the user's code whose sockets are this process's own: asyncio's do the listening.

For a worker without a primary, which would have the sockets. Everything else, what the user's
code sees of a server and how its connections end, is as with one.
"""

import asyncio
import contextlib
import logging
import socket
from typing import Any, cast

from aiocluster.errors import ClusterStopping
from aiocluster.ipc.messages import Bound, Endpoint
from aiocluster.worker.server import ClusterServer, Options, ProtocolFactory
from aiocluster.worker.services.listening import Host
from aiocluster.worker.services.streams import Servers, _Connections
from aiocluster.worker.services.watching import Watched

log = logging.getLogger("aiocluster.worker")


class LocalServers(Servers):
    """The servers of one worker. `row` counts as its row of the scoreboard would."""

    def __init__(self, row: memoryview) -> None:
        super().__init__(row, lambda message: None, lambda fd, listener, client: False, _nothing)
        self._listening: dict[ClusterServer, asyncio.Server] = {}

    async def _create(
        self, protocol_factory: ProtocolFactory, host: Host, port: int | None, options: Options
    ) -> ClusterServer:
        connections, made = _Connections(_nothing), list[ClusterServer]()

        def over(connection: Watched) -> None:
            self._on_over(made[0], connection)

        listening = await self._loop.create_server(
            lambda: _Opening(protocol_factory, connections, over),
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
        # It listens after the first step, and waits only to let the loop have a turn.
        starting = self._listening[server].start_serving()
        with contextlib.suppress(StopIteration):
            starting.send(None)
        starting.close()

    def unlisten(self, server: ClusterServer) -> None:
        """See Transports."""
        self._listening.pop(server).close()
        self._forget_if_over(server)


class _Opening(asyncio.Protocol):
    """Gives a new connection to the user's protocol, and remembers it."""

    def __init__(
        self, protocol_factory: ProtocolFactory, connections: _Connections, over: Any
    ) -> None:
        self._protocol_factory = protocol_factory
        self._connections = connections
        self._over = over

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connected = cast(asyncio.Transport, transport)
        try:
            protocol = self._protocol_factory()
        except Exception:
            log.exception("a connection could not be served")
            connected.abort()
            return
        connection = Watched(self._over)
        self._connections.add(connection)
        connected.set_protocol(protocol)
        connection.follow(protocol)
        connection.made(connected)
        protocol.connection_made(connected)


def _bound(listening: asyncio.Server) -> list[Bound]:
    sockets = enumerate(listening.sockets)
    return [Bound(index, _endpoint(sock.family, sock.getsockname())) for index, sock in sockets]


def _endpoint(family: int, address: Any) -> Endpoint:
    scope = address[3] if family == socket.AF_INET6 else 0
    return Endpoint(int(family), address[0].partition("%")[0], address[1], scope)


def _nothing() -> None:
    pass

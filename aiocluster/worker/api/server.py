"""A worker's own server: asyncio's, except that the primary owns its sockets."""

import asyncio
import operator
import socket
import ssl as tls
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypedDict

from aiocluster.ipc.messages import MAX_BACKLOG, Bound

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class ServerOptions(TypedDict, total=False):
    """The options of asyncio's create_server, besides protocol, host and port."""

    family: int
    flags: int
    sock: None
    backlog: int
    ssl: tls.SSLContext | None
    reuse_address: bool | None
    reuse_port: bool | None
    keep_alive: bool | None
    ssl_handshake_timeout: float | None
    ssl_shutdown_timeout: float | None
    start_serving: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a server, with asyncio's defaults; those no cluster can honour raise."""

    family: int = socket.AF_UNSPEC
    flags: int = socket.AI_PASSIVE
    sock: None = None
    backlog: int = 100
    ssl: tls.SSLContext | None = None
    reuse_address: bool | None = None
    reuse_port: bool | None = None
    keep_alive: bool | None = None
    ssl_handshake_timeout: float | None = None
    ssl_shutdown_timeout: float | None = None
    start_serving: bool = True

    def __post_init__(self) -> None:
        if self.sock is not None:
            raise ValueError("sock: the primary binds, so give host and port")
        if self.reuse_port:
            raise ValueError("reuse_port: all workers share the primary's one socket")
        if self.reuse_address is False:
            raise ValueError("reuse_address=False: the primary always sets SO_REUSEADDR")
        if self.keep_alive is not None:
            raise ValueError("keep_alive: use the setting tcp_keepalive, for all connections")
        object.__setattr__(self, "backlog", _checked_backlog(self.backlog))
        self._check_tls()

    def _check_tls(self) -> None:
        if self.ssl is not None and not isinstance(self.ssl, tls.SSLContext):
            raise TypeError(f"ssl must be an SSLContext or None, not {self.ssl!r}")
        for name, value in self._tls_timeouts.items():
            if value is not None and self.ssl is None:
                raise ValueError(f"{name} is only meaningful with ssl")

    @property
    def for_connections(self) -> dict[str, Any]:
        """The options that loop.connect_accepted_socket takes."""
        return {"ssl": self.ssl, **self._tls_timeouts} if self.ssl is not None else {}

    @property
    def _tls_timeouts(self) -> dict[str, float | None]:
        return {
            "ssl_handshake_timeout": self.ssl_handshake_timeout,
            "ssl_shutdown_timeout": self.ssl_shutdown_timeout,
        }


def _checked_backlog(value: Any) -> int:
    """Return `value` as an int for a message; raise if it is no valid backlog."""
    try:
        backlog = operator.index(value)
    except TypeError:
        raise TypeError(f"backlog must be an int, not {value!r:.80}") from None
    if not 0 <= backlog <= MAX_BACKLOG:
        raise ValueError(f"backlog must be 0 to {MAX_BACKLOG}, not {value!r}")
    return backlog


class BoundSocket:
    """A worker's view of a listening socket that the primary owns."""

    type = socket.SOCK_STREAM
    proto = socket.IPPROTO_TCP

    def __init__(self, bound: Bound) -> None:
        self._endpoint = bound.endpoint
        self.family = socket.AddressFamily(bound.endpoint.family)

    def __repr__(self) -> str:
        return f"<BoundSocket {self.getsockname()}>"

    def getsockname(self) -> tuple[Any, ...]:
        """Return the real address and port, as socket.getsockname does."""
        where = self._endpoint
        if self.family == socket.AF_INET6:
            return (where.host, where.port, 0, where.scope)
        return (where.host, where.port)

    def fileno(self) -> int:
        """Return -1: the socket is in another process."""
        return -1


class Transports(Protocol):
    """The owner of the servers' connections, which sends their requests to the primary."""

    def serve(self, server: "ClusterServer") -> None: ...
    def unlisten(self, server: "ClusterServer") -> None: ...
    def transports(self, server: "ClusterServer") -> Sequence[asyncio.Transport]: ...
    async def wait_empty(self, server: "ClusterServer") -> None: ...


class ClusterServer(asyncio.AbstractServer):
    """A server that a worker's `create_server` or `start_server` returns: see asyncio.Server.

    `close` concerns this worker alone: the others keep serving.
    """

    def __init__(
        self,
        protocol_factory: ProtocolFactory,
        options: Options,
        bound: Sequence[Bound],
        owner: Transports,
    ) -> None:
        self.protocol_factory = protocol_factory
        self.options = options
        self.bound = bound
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._serving = False
        self.is_closed = False
        self._forever: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<ClusterServer {' '.join(map(repr, self.sockets)) or 'closed'}>"

    @property
    def sockets(self) -> tuple[BoundSocket, ...]:
        """The sockets on which the server listens; () once it is closed."""
        return () if self.is_closed else tuple(map(BoundSocket, self.bound))

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """The (host, port) pairs on which the server listens, or did, with the real ports."""
        return tuple((one.endpoint.host, one.endpoint.port) for one in self.bound)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop of the server."""
        return self._loop

    def is_serving(self) -> bool:
        """Return True if the server takes connections."""
        return self._serving

    async def start_serving(self) -> None:
        """Take connections. Idempotent."""
        if self.is_closed:
            raise RuntimeError(f"{self!r} is closed")
        self._serve()

    async def serve_forever(self) -> None:
        """Take connections until cancelled or closed; raise as asyncio's. A drain closes it."""
        if self._forever is not None:
            raise RuntimeError(f"{self!r} is already being awaited on serve_forever()")
        await self.start_serving()
        self._forever = self._loop.create_future()
        try:
            await self._forever
        finally:
            self._forever = None
            self.close()
            await self.wait_closed()

    def close(self) -> None:
        """Take no more connections; open ones stay open. Idempotent."""
        if self.is_closed:
            return
        self.is_closed, self._serving = True, False
        self._owner.unlisten(self)
        if self._forever is not None:
            self._forever.cancel()

    async def wait_closed(self) -> None:
        """Wait until the server and its last connection are closed."""
        if self.is_closed:
            await self._owner.wait_empty(self)

    def close_clients(self) -> None:
        """Close all connections of the server, once all written data is sent."""
        for transport in self._owner.transports(self):
            transport.close()

    def abort_clients(self) -> None:
        """Close all connections of the server now."""
        for transport in self._owner.transports(self):
            transport.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()
        await self.wait_closed()

    def _serve(self) -> None:
        if not self._serving:
            self._serving = True
            self._owner.serve(self)

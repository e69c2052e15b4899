"""A server of a worker's own: asyncio's, but that the primary has its sockets."""

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
    """What asyncio's create_server takes beside the protocol, host and port."""

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
    """The same with asyncio's defaults; what no cluster can do is refused."""

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
            raise ValueError("keep_alive: that is the setting tcp_keepalive, for all connections")
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
        """What loop.connect_accepted_socket takes of it."""
        return {"ssl": self.ssl, **self._tls_timeouts} if self.ssl is not None else {}

    @property
    def _tls_timeouts(self) -> dict[str, float | None]:
        return {
            "ssl_handshake_timeout": self.ssl_handshake_timeout,
            "ssl_shutdown_timeout": self.ssl_shutdown_timeout,
        }


def _checked_backlog(value: Any) -> int:
    """Return it as the int that it is to be in a message."""
    try:
        backlog = operator.index(value)
    except TypeError:
        raise TypeError(f"backlog must be an int, not {value!r:.80}") from None
    if not 0 <= backlog <= MAX_BACKLOG:
        raise ValueError(f"backlog must be 0 to {MAX_BACKLOG}, not {value!r}")
    return backlog


class BoundSocket:
    """What can be asked here of a listening socket that the primary has."""

    type = socket.SOCK_STREAM
    proto = socket.IPPROTO_TCP

    def __init__(self, bound: Bound) -> None:
        self._endpoint = bound.endpoint
        self.family = socket.AddressFamily(bound.endpoint.family)

    def __repr__(self) -> str:
        return f"<BoundSocket {self.getsockname()}>"

    def getsockname(self) -> tuple[Any, ...]:
        """As socket.getsockname: the real address and port."""
        where = self._endpoint
        if self.family == socket.AF_INET6:
            return (where.host, where.port, 0, where.scope)
        return (where.host, where.port)

    def fileno(self) -> int:
        """-1: it is no socket of this process."""
        return -1


class Transports(Protocol):
    """Who has the connections of a server, and tells the primary what it wants."""

    def serve(self, server: "ClusterServer") -> None: ...
    def unlisten(self, server: "ClusterServer") -> None: ...
    def transports(self, server: "ClusterServer") -> Sequence[asyncio.Transport]: ...
    async def wait_empty(self, server: "ClusterServer") -> None: ...


class ClusterServer(asyncio.AbstractServer):
    """What `create_server` and `start_server` of a worker return: see asyncio.Server.

    `close` is for this worker alone: the others serve on.
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
        """Where it listens; () once it is closed."""
        return () if self.is_closed else tuple(map(BoundSocket, self.bound))

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where it listens, or did: (host, port) each, with the real port."""
        return tuple((one.endpoint.host, one.endpoint.port) for one in self.bound)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop it runs in."""
        return self._loop

    def is_serving(self) -> bool:
        """Does it take connections?"""
        return self._serving

    async def start_serving(self) -> None:
        """Take connections. Idempotent."""
        if self.is_closed:
            raise RuntimeError(f"{self!r} is closed")
        self._serve()

    async def serve_forever(self) -> None:
        """Take connections until cancelled, or closed, as a drain does too; raises as asyncio's."""
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
        """Take no more connections; those that are open stay. Idempotent."""
        if self.is_closed:
            return
        self.is_closed, self._serving = True, False
        self._owner.unlisten(self)
        if self._forever is not None:
            self._forever.cancel()

    async def wait_closed(self) -> None:
        """Wait until it is closed, and its last connection too."""
        if self.is_closed:
            await self._owner.wait_empty(self)

    def close_clients(self) -> None:
        """Close all its connections, once what was written is sent."""
        for transport in self._owner.transports(self):
            transport.close()

    def abort_clients(self) -> None:
        """Close all its connections now."""
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

"""Accepts connections in batches; pauses and resumes.

The primary owns the listening sockets and nobody else ever closes one: to drain a worker
is simply to give it nothing more, and no connection is lost to a socket that went away.
"""

import asyncio
import errno
import itertools
import logging
import os
import socket
import struct
from collections.abc import Callable, Sequence

from aiocluster.config.settings import Address
from aiocluster.errors import ConfigError
from aiocluster.primary.dispatcher import Connection

log = logging.getLogger("aiocluster.listener")

# Connections accepted in one wake-up; then the other listeners, and the signals, get a turn.
_ACCEPT_BATCH = 64

# Out of descriptors or memory (EMFILE, ENFILE, ENOBUFS, ENOMEM), or something stranger: try
# again after this many seconds. The connections wait in the backlog meanwhile.
_RETRY_AFTER = 0.25

# The start of the kernel's struct tcp_info up to tcpi_unacked, which for a listening socket
# is the number of connections in its backlog.
_TCP_INFO = struct.Struct("24xI")
_TCP = socket.IPPROTO_TCP

# A handoff tells the listener of each connection in one byte.
_MAX_LISTENERS = 256

# A port that is free for IPv4 may be taken for IPv6: then another one is tried.
_FREE_PORT_TRIES = 5

# The client gave up while it waited, or the network did (accept(2) lists these).
_CLIENT_GONE = {
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.EPERM,
    errno.ENETDOWN,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.ENONET,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
    errno.EINTR,
}


class Listener:
    """One listening socket in the primary's loop. It starts paused, and deaf until `listen`."""

    def __init__(
        self,
        sock: socket.socket,
        index: int,
        on_connections: Callable[[list[Connection]], None],
    ) -> None:
        self.sock = sock
        self.index = index
        self._on_connections = on_connections
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._listening = False
        self._paused = True
        self._troubled = False
        self._retry: asyncio.TimerHandle | None = None

    @property
    def address(self) -> tuple[str, int]:
        """The real (host, port)."""
        host, port = self.sock.getsockname()[:2]
        return host, port

    def listen(self, backlog: int) -> None:
        """Let clients connect: from now on they wait in the backlog, at most `backlog`.

        Raises ConfigError when somebody else has begun to listen there since it was bound.
        """
        try:
            self.sock.listen(backlog)
        except OSError as error:
            where = Address(*self.address)
            raise ConfigError(f"cannot listen on {where}: {error.strerror}") from error
        self._listening = True
        self._watch()

    def pause(self) -> None:
        """Leave connections in the backlog. Idempotent."""
        self._paused = True
        self._watch()

    def resume(self) -> None:
        """Accept again. Idempotent."""
        self._paused = False
        self._watch()

    def accept_rest(self) -> None:
        """Accept all that waits in the backlog now, for a listener that is about to close."""
        # As many as there are now: clients may keep coming.
        left = self._backlog() if self._listening else 0
        while left > 0 and self._retry is None and (accepted := self._accept_batch()):
            left -= accepted

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self._listening = False
        self._watch()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self.sock.close()

    def _watch(self) -> None:
        wanted = self._listening and not self._paused and self._retry is None
        if wanted and not self._reading:
            self._loop.add_reader(self.sock.fileno(), self._accept_batch)
        elif self._reading and not wanted:
            self._loop.remove_reader(self.sock.fileno())
        self._reading = wanted

    def _accept_batch(self) -> int:
        """Accept what is there, at most a batch; return how many."""
        # sock.accept() builds a socket object for each connection: 3 to 4 µs that the
        # descriptor alone does not cost.
        accept, index = self.sock._accept, self.index  # type: ignore[attr-defined]
        batch: list[Connection] = []
        try:
            # One at least: where a listener's TCP_INFO says nothing, this is what serves.
            for _ in range(min(max(self._backlog(), 1), _ACCEPT_BATCH)):
                # One by one: what was accepted before an error is not lost with it.
                batch.append(Connection(accept()[0], index))  # noqa: PERF401
        except BlockingIOError:
            pass
        except OSError as error:
            self._on_accept_error(error)
        if batch:
            if self._troubled and self._retry is None:
                self._on_recovered()
            self._on_connections(batch)
        return len(batch)

    def _backlog(self) -> int:
        """Return how many connections wait to be accepted.

        Accepting until EAGAIN costs a failed call and, above all, its exception: 2.8 µs a
        wake-up, where asking costs 0.4.
        """
        info = self.sock.getsockopt(_TCP, socket.TCP_INFO, _TCP_INFO.size)
        waiting: int = _TCP_INFO.unpack(info)[0]
        return waiting

    def _on_accept_error(self, error: OSError) -> None:
        if error.errno in _CLIENT_GONE:
            return
        if not self._troubled:
            self._troubled = True
            log.warning(
                "accept on %s:%d failed: %s; connections wait in the backlog until it passes",
                *self.address,
                error,
            )
        self._retry = self._loop.call_later(_RETRY_AFTER, self._try_again)
        self._watch()

    def _try_again(self) -> None:
        self._retry = None
        self._watch()

    def _on_recovered(self) -> None:
        self._troubled = False
        log.info("accepting on %s:%d again", *self.address)


def bind(address: Address, *, tcp_keepalive: bool = True) -> list[socket.socket]:
    """Return a bound socket, not yet listening, for each address the host's name has.

    A host "" is all interfaces. With port 0 they all share the first one's port. What they
    accept has SO_KEEPALIVE set as `tcp_keepalive` says.
    Raises ConfigError, with the address and the reason, when none can be bound.
    """
    try:
        hosts = _resolve(address)
        sockets = _bind_some(hosts, address.port)
    except UnicodeError as error:
        raise ConfigError(f"cannot bind {address}: {address.host!r} is no host name") from error
    except OSError as error:
        # A socket.gaierror's errno is not one of the system's.
        known = error.errno in errno.errorcode and not isinstance(error, socket.gaierror)
        reason = os.strerror(error.errno or 0) if known else error.strerror or str(error)
        raise ConfigError(f"cannot bind {address}: {reason}") from error
    for sock in sockets:
        # Accepted connections inherit it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, tcp_keepalive)
    return sockets


def check_overlap(sockets: Sequence[socket.socket]) -> None:
    """Raise ConfigError when two of them would get the same connections, or are too many.

    The kernel lets them be bound, and refuses only to listen on the second.
    """
    if len(sockets) > _MAX_LISTENERS:
        raise ConfigError(f"bind: {len(sockets)} sockets; at most {_MAX_LISTENERS} are possible")
    for first, second in itertools.combinations(sockets, 2):
        host, port = first.getsockname()[:2]
        other, other_port = second.getsockname()[:2]
        same = (first.family, port) == (second.family, other_port)
        if same and (host == other or {host, other} & {"0.0.0.0", "::"}):
            raise ConfigError(
                f"bind: {Address(host, port)} and {Address(other, other_port)} overlap; give one"
            )


def _bind_some(hosts: list[tuple[int, str]], port: int) -> list[socket.socket]:
    for _ in range(_FREE_PORT_TRIES if port == 0 else 1):
        try:
            return _bind_all(hosts, port)
        except OSError as error:
            last = error
    raise last


def _bind_all(hosts: list[tuple[int, str]], port: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for family, host in hosts:
            sock = _bind_one(family, host, port, alone=not sockets)
            if sock is not None:
                sockets.append(sock)
                port = sock.getsockname()[1]
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _resolve(address: Address) -> list[tuple[int, str]]:
    found = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    # Each once, and IPv4 first: it is the one that is always there.
    pairs = {(int(family), str(sockaddr[0])) for family, _, _, _, sockaddr in found}
    return sorted(pairs)


def _bind_one(family: int, host: str, port: int, *, alone: bool) -> socket.socket | None:
    """Return the bound socket; None when this machine lacks the address and has another."""
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        if alone:
            raise
        return None
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        if alone or error.errno != errno.EADDRNOTAVAIL:
            raise
        return None
    return sock

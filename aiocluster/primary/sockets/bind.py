"""From addresses to bound sockets: all of them, or none.

There are two callers. The setting `bind` names hosts, which are looked up here. A worker's own
server names addresses that the worker has looked up, and its sockets listen at once.
"""

import errno
import itertools
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import msgspec

from aiocluster.config.settings import Address
from aiocluster.errors import ConfigError
from aiocluster.ipc.handoff import MAX_LISTENERS
from aiocluster.ipc.messages import Endpoint

# With port 0: a port that is free at the first address may be in use at the next.
_FREE_PORT_TRIES = 5

# This machine lacks the address or its family. As in asyncio's own servers, the other addresses
# of the name are then enough.
_NOT_HERE = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)

_IN_BIND = (
    "it is in the setting bind of a role, which releases it only if its first worker that is ready "
    "runs a job; give that role another address"
)


class BoundEndpoint(NamedTuple):
    """A bound socket, and its endpoint with the port that the kernel gave."""

    endpoint: Endpoint
    sock: socket.socket


def bind(address: Address, *, tcp_keepalive: bool = True) -> list[socket.socket]:
    """Return a bound socket, not yet listening, for each address of the host's name.

    A host "" means all interfaces. With port 0 all sockets get the port of the first.
    `tcp_keepalive` sets SO_KEEPALIVE on the connections that they accept.
    If none can be bound, raise ConfigError with the address and the reason.
    """
    try:
        bound = _bind_all(_look_up(address), tcp_keepalive, lambda sock: None)
    except UnicodeError as error:
        raise ConfigError(f"cannot bind {address}: {address.host!r} is no host name") from error
    except OSError as error:
        # A socket.gaierror's errno is not one of the system's.
        known = error.errno in errno.errorcode and not isinstance(error, socket.gaierror)
        reason = os.strerror(error.errno or 0) if known else error.strerror or str(error)
        raise ConfigError(f"cannot bind {address}: {reason}") from error
    return [one.sock for one in bound]


def listen_at(
    endpoints: Sequence[Endpoint],
    backlog: int,
    *,
    tcp_keepalive: bool,
    taken: Iterable[socket.socket] = (),
) -> list[BoundEndpoint]:
    """Listen at each endpoint that this machine has; OSError if it has none, or one is in use.

    The sockets listen at once, even before a worker serves. So the worker gets every error, that
    of `listen` included; no other process can take the port; and clients wait in the backlog.
    With port 0 all sockets get the port of the first. The sockets `taken` are bound but may not
    listen yet, so the kernel would allow others to bind the same address.
    """
    for endpoint in endpoints:
        _check(endpoint)
    return _bind_all(endpoints, tcp_keepalive, partial(_listen, backlog, [*taken]))


def check_count(sockets: Sequence[socket.socket]) -> None:
    """Raise ConfigError if these sockets are too many."""
    if len(sockets) > MAX_LISTENERS:
        raise ConfigError(f"bind: {len(sockets)} sockets; at most {MAX_LISTENERS} are possible")


def check_overlap(sockets: Sequence[socket.socket]) -> None:
    """Raise ConfigError if two of these sockets overlap, or if they are too many.

    The kernel allows both to be bound, and refuses only to listen on the second.
    """
    check_count(sockets)
    for first, second in itertools.combinations(sockets, 2):
        if _overlap(first, second):
            here, there = (Address(*sock.getsockname()[:2]) for sock in (first, second))
            raise ConfigError(f"bind: {here} and {there} overlap; give one")


def _overlap(first: socket.socket, second: socket.socket) -> bool:
    """Return True if these two bound sockets would get the same connections."""
    host, port = first.getsockname()[:2]
    other, other_port = second.getsockname()[:2]
    same = (first.family, port) == (second.family, other_port)
    return same and (host == other or bool({host, other} & {"0.0.0.0", "::"}))


def _look_up(address: Address) -> list[Endpoint]:
    found = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    # Without duplicates, and IPv4 first: IPv6 may be missing.
    places = {
        (int(family), str(sockaddr[0]), int(sockaddr[3]) if family == socket.AF_INET6 else 0)
        for family, _, _, _, sockaddr in cast(list[tuple[Any, ...]], found)
    }
    return [
        Endpoint(family, host.partition("%")[0], address.port, scope)
        for family, host, scope in sorted(places)
    ]


def _check(endpoint: Endpoint) -> None:
    """Raise OSError if the host is a name (looking it up would block) or the port is invalid."""
    try:
        socket.inet_pton(endpoint.family, endpoint.host)
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EINVAL
        raise OSError(number, f"{endpoint.host!r:.80}: {os.strerror(number)}") from error
    if not 0 <= endpoint.port <= 0xFFFF:
        raise OSError(errno.EINVAL, f"{endpoint.port} is no port")


def _bind_all(
    endpoints: Sequence[Endpoint], tcp_keepalive: bool, ready: Callable[[socket.socket], None]
) -> list[BoundEndpoint]:
    """Bind each endpoint that this machine has, and call `ready` with its socket; all or none."""
    for _ in range(_FREE_PORT_TRIES if any(one.port == 0 for one in endpoints) else 1):
        try:
            return _try_to_bind_all(endpoints, tcp_keepalive, ready)
        except OSError as error:
            last = error
            if error.errno != errno.EADDRINUSE:
                break
    raise last


def _try_to_bind_all(
    endpoints: Sequence[Endpoint], tcp_keepalive: bool, ready: Callable[[socket.socket], None]
) -> list[BoundEndpoint]:
    bound: list[BoundEndpoint] = []
    unusable: list[OSError] = []
    free_port = 0
    try:
        for endpoint in endpoints:
            try:
                one = _bind_one(
                    msgspec.structs.replace(endpoint, port=endpoint.port or free_port),
                    tcp_keepalive,
                )
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                unusable.append(error)
                continue
            bound.append(one)
            if endpoint.port == 0:
                free_port = one.endpoint.port
            ready(one.sock)
        if not bound:
            raise unusable[0] if unusable else OSError(errno.EINVAL, "no address to listen at")
    except BaseException:
        for one in bound:
            one.sock.close()
        raise
    return bound


def _bind_one(endpoint: Endpoint, tcp_keepalive: bool) -> BoundEndpoint:
    family, host, port, scope = endpoint.family, endpoint.host, endpoint.port, endpoint.scope
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit SO_KEEPALIVE.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, tcp_keepalive)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port, 0, scope) if family == socket.AF_INET6 else (host, port))
        return BoundEndpoint(msgspec.structs.replace(endpoint, port=sock.getsockname()[1]), sock)
    except BaseException:
        sock.close()
        raise


def _listen(backlog: int, taken: list[socket.socket], sock: socket.socket) -> None:
    if any(_overlap(sock, other) for other in taken):
        raise OSError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)}: {_IN_BIND}")
    sock.listen(backlog)

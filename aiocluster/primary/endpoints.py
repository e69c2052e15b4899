"""From the endpoints that a worker asks for to sockets that listen: all of them, or none.

They listen at once, and not only when somebody serves. So every error is told to who asked, also
one that only `listen` shows, and no other process can come between; clients wait in the backlog.
"""

import errno
import os
import socket
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from aiocluster.ipc.messages import Endpoint
from aiocluster.primary.binding import overlap

# A port that is free at one address may be taken at the next: then another one is tried.
_FREE_PORT_TRIES = 5


class Listening(NamedTuple):
    """A socket, and the endpoint where it is, with the real port."""

    endpoint: Endpoint
    sock: socket.socket


def listen_at(
    endpoints: Sequence[Endpoint],
    backlog: int,
    *,
    tcp_keepalive: bool,
    taken: Iterable[socket.socket] = (),
) -> list[Listening]:
    """Listen at each that this machine has; OSError when it has none, or one is in use.

    With port 0 they all have the first one's. `taken` are bound and may not listen yet, so that
    the kernel would let others have the same.
    """
    taken = [*taken]
    for _ in range(_FREE_PORT_TRIES if any(one.port == 0 for one in endpoints) else 1):
        try:
            return _listen_at_all(endpoints, backlog, tcp_keepalive, taken)
        except OSError as error:
            last = error
            if error.errno != errno.EADDRINUSE:
                break
    raise last


def _listen_at_all(
    endpoints: Sequence[Endpoint], backlog: int, tcp_keepalive: bool, taken: list[socket.socket]
) -> list[Listening]:
    found: list[Listening] = []
    unusable: list[OSError] = []
    free_port = 0
    try:
        for endpoint in endpoints:
            try:
                one = _bound(msgspec.structs.replace(endpoint, port=endpoint.port or free_port))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                unusable.append(error)
                continue
            found.append(one)
            if endpoint.port == 0:
                free_port = one.endpoint.port
            _listen(one.sock, backlog, tcp_keepalive, taken)
        if not found:
            raise unusable[0] if unusable else OSError(errno.EINVAL, "no address to listen at")
    except BaseException:
        for one in found:
            one.sock.close()
        raise
    return found


# A family that is switched off, or an address of it. As with asyncio's own servers the others of
# a name are then enough.
_NOT_HERE = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def _bound(endpoint: Endpoint) -> Listening:
    family, host, port, scope = endpoint.family, endpoint.host, endpoint.port, endpoint.scope
    sock = socket.socket(_checked(endpoint), socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port, 0, scope))
        else:
            sock.bind((host, port))
        return Listening(msgspec.structs.replace(endpoint, port=sock.getsockname()[1]), sock)
    except BaseException:
        sock.close()
        raise


def _checked(endpoint: Endpoint) -> int:
    """Return its family; OSError when its host is a name: looking that up would take its time."""
    try:
        socket.inet_pton(endpoint.family, endpoint.host)
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EINVAL
        raise OSError(number, f"{endpoint.host!r:.80}: {os.strerror(number)}") from error
    if not 0 <= endpoint.port <= 0xFFFF:
        raise OSError(errno.EINVAL, f"{endpoint.port} is no port")
    return endpoint.family


def _listen(
    sock: socket.socket, backlog: int, tcp_keepalive: bool, taken: list[socket.socket]
) -> None:
    if any(overlap(sock, other) for other in taken):
        raise OSError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)}: {_IN_BIND}")
    # Accepted connections inherit it.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, tcp_keepalive)
    sock.listen(backlog)


_IN_BIND = (
    "it is in the setting bind of a role, which is given up only when a first worker of that role "
    "is ready and turns out to run a job; give that another address"
)

"""From an address to bound sockets, one for each the host's name has."""

import errno
import itertools
import os
import socket
from collections.abc import Sequence

from aiocluster.config.settings import Address
from aiocluster.errors import ConfigError
from aiocluster.ipc.handoff import MAX_LISTENERS

# A port that is free for IPv4 may be taken for IPv6: then another one is tried.
_FREE_PORT_TRIES = 5


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


def check_count(sockets: Sequence[socket.socket]) -> None:
    """Raise ConfigError when they are too many."""
    if len(sockets) > MAX_LISTENERS:
        raise ConfigError(f"bind: {len(sockets)} sockets; at most {MAX_LISTENERS} are possible")


def check_overlap(sockets: Sequence[socket.socket]) -> None:
    """Raise ConfigError when two of them would get the same connections, or are too many.

    The kernel lets them be bound, and refuses only to listen on the second.
    """
    check_count(sockets)
    for first, second in itertools.combinations(sockets, 2):
        if overlap(first, second):
            here, there = (Address(*sock.getsockname()[:2]) for sock in (first, second))
            raise ConfigError(f"bind: {here} and {there} overlap; give one")


def overlap(first: socket.socket, second: socket.socket) -> bool:
    """Would these two, which are bound, get the same connections?"""
    host, port = first.getsockname()[:2]
    other, other_port = second.getsockname()[:2]
    same = (first.family, port) == (second.family, other_port)
    return same and (host == other or bool({host, other} & {"0.0.0.0", "::"}))


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

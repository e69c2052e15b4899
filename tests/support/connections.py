"""Accepted connections for tests, and a count of this process's descriptors."""

import contextlib
import os
import resource
import socket
from collections.abc import Iterator

from aiocluster.ipc.handover import ConnectionState
from aiocluster.primary.sockets.connection import Connection


def connections(count: int, listener: int = 0) -> list[Connection]:
    """Return `count` real descriptors, owned by the caller, as if just accepted."""
    return [Connection(os.open("/dev/zero", os.O_RDONLY), listener) for _ in range(count)]


def states_of(given: list[Connection]) -> list[ConnectionState]:
    """Return what a program leaves of connections that nobody had room for."""
    return [ConnectionState(**one._asdict(), is_held=False, awaits_proxy=False) for one in given]


def close_all(given: list[Connection]) -> None:
    """Close what came back."""
    for connection in given:
        os.close(connection.fd)


def none_lost(count: int) -> None:
    """Hear of lost connections, where there should be none."""
    raise AssertionError(f"{count} connections were lost")


def open_fds() -> set[str]:
    """Return this process's descriptors and what each is, but for uvloop's own /dev/null."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:  # the listing's own
            continue
    return {fd for fd in found if not fd.endswith("/dev/null")}


@contextlib.contextmanager
def at_fd_limit(free: int) -> Iterator[None]:
    """Let this process open no more than `free` descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    gaps = []
    while (fd := os.dup(0)) <= highest:
        gaps.append(fd)
    os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (fd + free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in gaps:
            os.close(fd)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return a connected (client, accepted) pair over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    return client, accepted

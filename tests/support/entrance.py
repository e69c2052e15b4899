"""Acceptors of a worker at work, with real sockets on loopback that several of them share."""

import asyncio
import os
import re
import select
import socket
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path

from aiocluster.worker.accept.acceptor import Acceptor
from aiocluster.worker.accept.shared_listener import Accepted
from tests.support.waiting import soon, turns_until

# Room for all clients of a test, so much that uvloop may accept them.
PLENTY = 2000

NAME: ContextVar[str] = ContextVar("name")


class FaultySocket(socket.socket):
    """A listening socket whose kernel has troubles: each is raised once, in its turn."""

    troubles: list[int]
    asked = 0  # how often somebody tried to accept
    missed = 0  # and nobody waited

    def _accept(self) -> tuple[int, object]:
        self.asked += 1
        try:
            if self.troubles and (number := self.troubles.pop(0)):
                raise OSError(number, os.strerror(number))
            accepted: tuple[int, object] = super()._accept()  # type: ignore[misc]
        except BlockingIOError:
            self.missed += 1
            raise
        return accepted


class RoomFor:
    """The room of all acceptors of a test."""

    def __init__(self, free: int, *, is_limited: bool = False, may_shrink: bool = False) -> None:
        self.free = free
        self.is_limited = is_limited or may_shrink
        self.may_shrink = may_shrink
        self.is_awaited = False
        self.on_room: Callable[[], None] = lambda: None

    def count(self) -> int:
        return self.free


class Entrance:
    """A listening socket, its clients, and the acceptors that share it in this process.

    With a limit they accept in Python, without in uvloop.
    """

    def __init__(self, *, is_limited: bool) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.sock.setblocking(False)
        self.acceptors: list[Acceptor] = []
        self.sockets: list[FaultySocket] = []
        self.accepted: list[tuple[int, int]] = []  # who, listener
        self.batches: list[int] = []  # in Python
        self.names: list[str | None] = []  # in the contexts of those that uvloop has accepted
        self.room = RoomFor(PLENTY, is_limited=is_limited)
        self._fds: list[int] = []
        self._clients: list[socket.socket] = []
        self._grew = asyncio.Event()

    def add(self, index: int = 2) -> Acceptor:
        who = len(self.acceptors)
        sock = FaultySocket(fileno=os.dup(self.sock.fileno()))
        sock.troubles = []
        self.sockets.append(sock)
        self.open(who, [(index, sock)])
        return self.acceptors[-1]

    def open(self, who: int, sockets: list[tuple[int, socket.socket]]) -> Acceptor:
        """Let one more accept from these."""
        acceptor = Acceptor(sockets, self.hearer(who), self.room, self.server(who))
        self.acceptors.append(acceptor)
        return acceptor

    def hearer(self, who: int) -> Callable[[list[Accepted]], None]:
        def hear(batch: list[Accepted]) -> None:
            self.batches.append(len(batch))
            self.room.free -= len(batch)
            self.accepted += [(who, listener) for _, listener, _ in batch]
            self._fds += [fd for fd, _, _ in batch]
            self._grew.set()

        return hear

    def server(self, who: int) -> Callable[[int], asyncio.Protocol]:
        def serve(listener: int) -> asyncio.Protocol:
            self.names.append(NAME.get(None))
            self.room.free -= 1
            self.accepted.append((who, listener))
            self._grew.set()
            return asyncio.Protocol()

        return serve

    def connect(self, count: int = 1) -> socket.socket:
        """Let so many clients connect; return the last one."""
        address = self.sock.getsockname()
        self._clients += [socket.create_connection(address) for _ in range(count)]
        return self._clients[-1]

    async def until_accepted(self, count: int) -> None:
        while len(self.accepted) < count:
            self._grew.clear()
            await soon(self._grew.wait())

    def close(self) -> None:
        for acceptor in self.acceptors:
            acceptor.close()
        for fd in self._fds:
            os.close(fd)
        for client in (*self._clients, self.sock):
            client.close()


async def watching(sock: socket.socket) -> None:
    """Wait until one acceptor at a time is woken for this socket."""
    await turns_until(lambda: is_exclusive(sock))


def is_exclusive(sock: socket.socket) -> bool:
    """Is the loop's epoll to be woken for this socket as one of many?"""
    return bool(_events(sock) & select.EPOLLEXCLUSIVE)


def is_watched(sock: socket.socket) -> bool:
    """Is it woken for this socket at all?"""
    return bool(_events(sock))


def _events(sock: socket.socket) -> int:
    """Return what the loop's epoll has for this socket, by whatever descriptor."""
    backend = asyncio.get_running_loop()._get_backend_id()  # type: ignore[attr-defined]
    info = Path(f"/proc/self/fdinfo/{backend}").read_text()
    watched = re.findall(r"events:\s*([0-9a-f]+).* ino:([0-9a-f]+) ", info)
    inode = os.fstat(sock.fileno()).st_ino
    return next((int(events, 16) for events, ino in watched if int(ino, 16) == inode), 0)


def is_open(client: socket.socket) -> bool:
    """Neither closed nor reset by the other side, and nothing was said."""
    client.setblocking(False)
    try:
        client.recv(1)
    except BlockingIOError:
        return True
    return False

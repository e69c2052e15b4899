"""Load shedding: if all workers are full and clients must not wait, they get a 503 or a close.

The answer does not depend on the request, so it is sent before anything is read. But closing a
socket with unread bytes sends a reset, which may overtake the answer. So the primary reads and
discards what the client sends, for a moment, until the client closes.
"""

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Sequence

from aiocluster.primary.sockets.connection import Connection

# Seconds that a client has to read the answer and close.
_LINGERING = 1.0

# Connections that linger at one time; beyond that the oldest is closed.
_MAX_LINGERING = 1024

_READ_BYTES = 64 * 1024


def service_unavailable(retry_after: int) -> bytes:
    """Return a response 503 with `Retry-After`, in seconds."""
    return (
        "HTTP/1.1 503 Service Unavailable\r\n"
        f"Retry-After: {retry_after}\r\n"
        "Content-Length: 0\r\n"
        "Connection: close\r\n"
        "\r\n"
    ).encode()


class LoadShedder:
    """A load shedder turns connections away: it sends `answer`, unless empty, and closes them."""

    def __init__(self, answer: bytes) -> None:
        self.count = 0
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._lingering: dict[int, socket.socket] = {}
        self._ends: deque[tuple[float, socket.socket]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_lingering(self) -> bool:
        """True while a client still reads the answer."""
        return bool(self._lingering)

    def refuse(self, connections: Sequence[Connection]) -> None:
        """Own these connections, answer and close them."""
        self.count += len(connections)
        for connection in connections:
            if self._answer:
                self._begin(socket.socket(fileno=connection.fd))
            else:
                os.close(connection.fd)

    def close(self) -> None:
        """Close all lingering connections. Idempotent."""
        for sock in [*self._lingering.values()]:
            self._end(sock)
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self, sock: socket.socket) -> None:
        sock.setblocking(False)  # accepted connections block, and would block the primary
        try:
            # The send buffer is empty: it takes a hundred bytes at once, or the client is gone.
            sock.send(self._answer)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        if len(self._lingering) >= _MAX_LINGERING:
            self._end(next(iter(self._lingering.values())))
        self._lingering[sock.fileno()] = sock
        self._ends.append((self._loop.time() + _LINGERING, sock))
        self._loop.add_reader(sock.fileno(), self._read, sock)
        if self._timer is None:
            self._timer = self._loop.call_later(_LINGERING, self._end_due)

    def _read(self, sock: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            try:
                if sock.recv(_READ_BYTES):
                    return
            except ConnectionError:
                pass
            self._end(sock)

    def _end(self, sock: socket.socket) -> None:
        if sock.fileno() >= 0:
            del self._lingering[sock.fileno()]
            self._loop.remove_reader(sock.fileno())
            sock.close()

    def _end_due(self) -> None:
        self._timer = None
        while self._ends and (
            self._ends[0][1].fileno() < 0 or self._ends[0][0] <= self._loop.time()
        ):
            self._end(self._ends.popleft()[1])
        if self._ends:
            self._timer = self._loop.call_at(self._ends[0][0], self._end_due)

"""What a client meets where no worker has room and it shall not wait: a 503, or the end.

The answer does not depend on what was asked, so nothing is read before it is sent. But a socket
that is closed with something unread sends a reset, which may overtake the answer: so what the
client sends is thrown away until it closes, for a moment.
"""

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Sequence

from aiocluster.primary.sockets.connection import Connection

# Seconds that a client has to read its answer and close.
_LINGERING = 1.0

# Clients that are waited for at a time; beyond that the oldest is closed.
_MAX_LINGERING = 1024

_READ_BYTES = 64 * 1024


def service_unavailable(retry_after: int) -> bytes:
    """Return the answer: try again in so many seconds."""
    return (
        "HTTP/1.1 503 Service Unavailable\r\n"
        f"Retry-After: {retry_after}\r\n"
        "Content-Length: 0\r\n"
        "Connection: close\r\n"
        "\r\n"
    ).encode()


class LoadShedder:
    """Turns connections away: each gets `answer`, if there is one, and is closed."""

    def __init__(self, answer: bytes) -> None:
        self.count = 0
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._lingering: dict[int, socket.socket] = {}
        self._ends: deque[tuple[float, socket.socket]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_lingering(self) -> bool:
        """Does somebody still read the answer?"""
        return bool(self._lingering)

    def refuse(self, connections: Sequence[Connection]) -> None:
        """Own these, and let them go."""
        self.count += len(connections)
        for connection in connections:
            if self._answer:
                self._begin(socket.socket(fileno=connection.fd))
            else:
                os.close(connection.fd)

    def close(self) -> None:
        """Wait for nobody any more. Idempotent."""
        for sock in [*self._lingering.values()]:
            self._end(sock)
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self, sock: socket.socket) -> None:
        sock.setblocking(False)  # as accepted it blocks, and all of us with it
        try:
            # Its buffer is empty: it takes a hundred bytes at once, or its client is gone.
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

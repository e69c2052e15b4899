"""HTTP/1.1 by hand on a bare socket: it sees what the wire did, and tries nothing twice.

No transport stands between: what was received before a reset is read before the reset, and
nothing is read ahead of who asks for it.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import NamedTuple, Self

from tests.chaos.tally import Failure

_READ_BYTES = 64 * 1024
_MAX_HEAD_BYTES = 16 * 1024

_KINDS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ECONNABORTED: "reset",
    errno.ETIMEDOUT: "timeout",
}


class Response(NamedTuple):
    """One answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def worker(self) -> str:
        """Who says that he gave it."""
        return self.headers.get("x-worker", "")

    @property
    def is_last(self) -> bool:
        """Does it say that its connection will be closed?"""
        return self.headers.get("connection", "").lower() == "close"


class Connection:
    """One connection. `rounds` are left to it; `is_over`: no request may follow.

    `port` is its own, by which the server knows it, from the time `began` on; `worker` who
    answered last.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self.port = 0
        self.began = 0.0
        self.worker: str | None = None
        self.rounds = 0
        self.answers = 0
        self.is_over = False
        self.is_upgraded = False

    @classmethod
    async def open(cls, host: str, port: int, *, receive_bytes: int = 0) -> Self:
        """Connect; with `receive_bytes` the kernel reads hardly ahead of us."""
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection = cls(sock)
        try:
            with _failures("connecting"):
                await connection._loop.sock_connect(sock, (host, port))
            connection.port = sock.getsockname()[1]
        except BaseException:
            sock.close()
            raise
        return connection

    async def send(self, data: bytes) -> None:
        """Write all of it."""
        with _failures("writing"):
            await self._loop.sock_sendall(self._sock, data)

    async def response(self) -> Response:
        """Read one answer to its end."""
        head = await self._head()
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        status = int(first.split(" ")[1])
        size = 0 if status == 101 else _length(headers)
        response = Response(status, headers, await self.exactly(size))
        self.answers += 1
        self.worker = response.worker or self.worker
        self.is_over = self.is_over or response.is_last
        return response

    async def exactly(self, size: int) -> bytes:
        """Read `size` bytes."""
        while len(self._received) < size:
            await self.read_some()
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    async def read_some(self) -> None:
        """Read once; the end is a failure."""
        with _failures("reading"):
            data = await self._loop.sock_recv(self._sock, _READ_BYTES)
        if not data:
            what = f"after {len(self._received)} bytes" if self._received else "with no answer"
            raise Failure("cut", f"closed {what}")
        self._received += data

    async def end(self) -> None:
        """Read the server's end, which it has announced; anything else is a failure."""
        with _failures("reading the end"):
            data = self._received or await self._loop.sock_recv(self._sock, _READ_BYTES)
        if data:
            raise Failure("body", f"more than was asked for: {bytes(data[:80])!r}")

    def was_closed(self) -> bool:
        """Has the server closed it while nothing was asked? A reset is a failure even so."""
        with _failures("between two requests"):
            return self._peek() == b""

    def has_data(self) -> bool:
        """Is there something to read, though we have asked for nothing?"""
        with _failures("between two messages"):
            return bool(self._received or self._peek())

    def close(self) -> None:
        """Close it. Idempotent."""
        self._sock.close()

    async def _head(self) -> bytes:
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            if len(self._received) > _MAX_HEAD_BYTES:
                raise Failure("body", f"no head: {bytes(self._received[:80])!r}")
            await self.read_some()
        head = bytes(self._received[:end])
        del self._received[: end + 4]
        if not head.startswith(b"HTTP/1.1 ") or not head[9:12].isdigit():
            raise Failure("body", f"no head: {head[:80]!r}")
        return head

    def _peek(self) -> bytes | None:
        try:
            return self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return None


def _length(headers: dict[str, str]) -> int:
    # What the app sends always has a length: one that is missing is an answer of another's.
    if not headers.get("content-length", "").isdigit():
        raise Failure("body", f"an answer without a length: {headers}")
    return int(headers["content-length"])


@contextlib.contextmanager
def _failures(doing: str) -> Iterator[None]:
    """Give every error of the wire its kind."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        kind = _KINDS.get(number) or errno.errorcode.get(number, type(error).__name__)
        raise Failure(kind, f"{doing}: {error.strerror or error}") from error

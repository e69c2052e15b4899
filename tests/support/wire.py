"""HTTP by hand: for what a well-behaved client never does, and to see every byte and every end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from tests.support.program import PATIENCE


class Response(NamedTuple):
    """What came back; header names are in lower case."""

    version: str
    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """One connection to a server, from the address `source` if one is given."""

    def __init__(self, url: str, *, source: str = "") -> None:
        self._place = urlsplit(url)
        self._source = (source, 0) if source else None

    async def __aenter__(self) -> Self:
        self._reader, self.writer = await asyncio.open_connection(
            self._place.hostname, self._place.port, local_addr=self._source
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.writer.close()
        # A server that was killed may have reset it.
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def ask(self, path: str = "/", *, method: str = "GET") -> None:
        """Send a request without a body."""
        length = "" if method == "GET" else "Content-Length: 0\r\n"
        await self.send(f"{method} {path} HTTP/1.1\r\nHost: test\r\n{length}\r\n".encode())

    async def get(self, path: str = "/") -> Response:
        """Send a request and return its response."""
        await self.ask(path)
        return await self.response()

    async def response(self) -> Response:
        """Read one response to its end, by its length, its chunks or the connection's end."""
        async with asyncio.timeout(PATIENCE):
            head = await self._reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")[:-2]
            version, status, _ = first.split(" ", 2)
            pairs = (line.split(":", 1) for line in lines)
            headers = {name.lower(): value.strip() for name, value in pairs}
            return Response(version, int(status), headers, await self._body(headers))

    async def until(self, mark: bytes) -> bytes:
        """Read up to and with `mark`."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.readuntil(mark)

    async def exactly(self, size: int) -> bytes:
        """Read so many bytes."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.readexactly(size)

    async def rest(self) -> bytes:
        """Read until the server closes; a reset raises."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.read()

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            return b"".join([chunk async for chunk in self._chunks()])
        if "content-length" in headers:
            return await self._reader.readexactly(int(headers["content-length"]))
        return await self._reader.read()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)

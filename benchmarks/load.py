"""The load client: the same for every side, in a process of its own, bounded in count and time.

python -m benchmarks.load MODE --port PORT --connections C --requests N, where MODE is

    keepalive   C connections opened at once, N / C requests on each, all open until the last ends
    close       one connection a request, C at a time, each waits until the server has closed it
    burst       one connection a request, C at once, the next C when all of these are done

Every answer must be a 200 with the expected body. Prints one JSON object: the requests answered,
the failures by kind, the seconds, and how many connections got which body in their first answer.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable

import uvloop

HOST = "127.0.0.1"
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
# More than any answer here; one that goes on is wrong.
_MAX_RESPONSE_BYTES = 64 * 1024


class Tally:
    """What came back, over all connections."""

    def __init__(self, expect: bytes | None) -> None:
        self.expect = expect
        self.ok = 0
        self.failures: Counter[str] = Counter()
        self.bodies: Counter[str] = Counter()

    def accept(self, status: bytes, body: bytes) -> bool:
        """Count one whole answer; say whether it was right."""
        if status != b"200":
            self.failures[f"status {status.decode('latin-1')}"] += 1
        elif self.expect is not None and body != self.expect:
            self.failures["wrong body"] += 1
        else:
            self.ok += 1
            return True
        return False


class Connection(asyncio.Protocol):
    """Sends `requests` one after the other; `done` is set after the last, or the first failure."""

    def __init__(self, tally: Tally, request: bytes, requests: int, *, until_closed: bool) -> None:
        self._tally = tally
        self._request = request
        self._left = requests
        self._first = True
        self._until_closed = until_closed
        self._received = b""
        self.transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # uvloop's transports are no asyncio.Transport: hence no check, and no BaseTransport.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._left == 0 or len(self._received) > _MAX_RESPONSE_BYTES:
            self._fail("more than was asked for")
        elif (answer := _split_answer(self._received)) is not None:
            self._received = b""
            self._on_answer(*answer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._left:
            self._fail(type(exc).__name__ if exc else "closed early")
        self._finish()

    def _on_answer(self, status: bytes, body: bytes, surplus: bytes) -> None:
        if surplus or not self._tally.accept(status, body):
            self._fail("more than was asked for" if surplus else None)
            return
        if self._first:
            self._first = False
            self._tally.bodies[body.decode()] += 1
        self._left -= 1
        if self._left:
            self.transport.write(self._request)
        elif not self._until_closed:
            self._finish()

    def _fail(self, kind: str | None) -> None:
        if kind is not None:
            self._tally.failures[kind] += 1
        self._left = 0
        self.transport.abort()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Client:
    """Opens connections to one server."""

    def __init__(self, port: int, path: str, tally: Tally) -> None:
        self._port = port
        self._path = path
        self._tally = tally

    async def keepalive(self, connections: int, requests: int) -> None:
        share = requests // connections
        opened = await asyncio.gather(*(self._converse(share) for _ in range(connections)))
        for connection in opened:
            if connection is not None and connection.transport is not None:
                connection.transport.close()

    async def close(self, connections: int, requests: int) -> None:
        left = iter(range(requests))

        async def one_by_one() -> None:
            for _ in left:  # shared: each takes the next request there is
                await self._converse(1, close=True)

        await asyncio.gather(*(one_by_one() for _ in range(connections)))

    async def burst(self, connections: int, requests: int) -> None:
        for begun in range(0, requests, connections):
            size = min(connections, requests - begun)
            await asyncio.gather(*(self._converse(1, close=True) for _ in range(size)))

    async def _converse(self, requests: int, *, close: bool = False) -> Connection | None:
        loop = asyncio.get_running_loop()
        connection = Connection(self._tally, self._head(close), requests, until_closed=close)
        try:
            await loop.create_connection(lambda: connection, HOST, self._port)
        except OSError as error:
            self._tally.failures[type(error).__name__] += 1
            return None
        await connection.done
        return connection

    def _head(self, close: bool) -> bytes:
        last = "Connection: close\r\n" if close else ""
        return f"GET {self._path} HTTP/1.1\r\nHost: {HOST}\r\n{last}\r\n".encode()


def _split_answer(received: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Status, body and what comes after it; None while the answer is incomplete."""
    head, found, rest = received.partition(_HEAD_END)
    if not found:
        return None
    length = _content_length(head)
    if len(rest) < length:
        return None
    return head[9:12], rest[:length], rest[length:]


def _content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(_LENGTH)
    return int(rest.partition(b"\r\n")[0]) if found else 0


async def _run(options: argparse.Namespace) -> dict[str, object]:
    tally = Tally(options.expect.encode() if options.expect is not None else None)
    client = Client(options.port, options.path, tally)
    mode: Callable[..., object] = getattr(client, options.mode)
    began = time.perf_counter()
    try:
        async with asyncio.timeout(options.timeout):
            await mode(options.connections, options.requests)
    except TimeoutError:
        tally.failures["timeout"] += options.requests - tally.ok - tally.failures.total()
    seconds = time.perf_counter() - began
    return {
        "ok": tally.ok,
        "failures": dict(tally.failures),
        "seconds": seconds,
        "bodies": dict(tally.bodies),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("keepalive", "close", "burst"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--path", default="/")
    parser.add_argument("--expect", help="the body that every answer must have")
    parser.add_argument("--timeout", type=float, default=60.0)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        json.dump(runner.run(_run(options)), sys.stdout)


if __name__ == "__main__":
    main()

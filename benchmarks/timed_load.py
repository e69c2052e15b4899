"""The load client that keeps the time of every answer, in a process of its own.

python -m benchmarks.timed_load MODE --port PORT --requests N, where MODE is

    keepalive   --connections C opened at once, each asks for /pid, and only when all have their
                answer the clock starts; then each takes the next of the N requests of --path until
                there is none: all are busy to the end, however unevenly they are served
    arrivals    one connection a request; they come at --rate a second on average, at random times,
                whether or not those before were answered; of each --every, one, at a random place,
                asks for --rare-path; --seed makes the same times and places again

Every answer must be a 200: anything else ends it with a traceback. Prints one JSON object: the
seconds it took, the milliseconds of each answer by path, and how many connections had which body
in their first answer.

A request's time begins when the client begins it (with the connection, where it has one of its
own), and ends with the last byte of its answer.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator

import uvloop

HOST = "127.0.0.1"
FIRST_PATH = "/pid"


class Times:
    """What came back, over all connections."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, list[float]] = defaultdict(list)
        self.bodies: Counter[str] = Counter()


class Connection:
    """One request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection(HOST, port))

    async def ask(self, path: str, *, last: bool = False) -> str:
        """The body of the answer; ConnectionError when it is no 200, EOFError when it is cut."""
        close = "Connection: close\r\n" if last else ""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{close}\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        body = await self._reader.readexactly(_content_length(head))
        if not head.startswith(b"http/1.1 200 "):
            raise ConnectionError(f"status {head[9:12].decode('latin-1')}")
        return body.decode()

    def close(self) -> None:
        self._writer.transport.abort()


def _content_length(head: bytes) -> int:
    _, found, rest = head.partition(b"content-length:")
    if not found:
        raise ConnectionError("no content-length")
    return int(rest.partition(b"\r\n")[0])


def arrivals(
    requests: int, rate: float, path: str, rare_path: str, every: int, seed: int
) -> Iterator[tuple[float, str]]:
    """When each comes, in seconds from the beginning, and what it asks for."""
    dice = random.Random(seed)
    at, rare = 0.0, 0
    for number in range(requests):
        if number % every == 0:
            rare = number + dice.randrange(every)
        yield at, rare_path if number == rare else path
        at += dice.expovariate(rate)


async def keepalive(times: Times, options: argparse.Namespace) -> float:
    """Ask over connections that stay; the seconds it took."""
    opened = await asyncio.gather(
        *(Connection.open(options.port) for _ in range(options.connections))
    )
    times.bodies.update(await asyncio.gather(*(one.ask(FIRST_PATH) for one in opened)))
    left = iter(range(options.requests))

    async def ask_on(connection: Connection) -> None:
        for _ in left:  # shared: each takes the next request there is
            began = time.perf_counter()
            await connection.ask(options.path)
            times.milliseconds[options.path].append((time.perf_counter() - began) * 1e3)

    began = time.perf_counter()
    await asyncio.gather(*map(ask_on, opened))
    seconds = time.perf_counter() - began
    for connection in opened:
        connection.close()
    return seconds


async def one_each(times: Times, options: argparse.Namespace) -> float:
    """Ask over a connection each, when its time has come; the seconds it took."""
    began = time.perf_counter()
    plan = arrivals(
        *(options.requests, options.rate, options.path),
        *(options.rare_path, options.every, options.seed),
    )
    async with asyncio.TaskGroup() as asking:
        for at, path in plan:
            await asyncio.sleep(began + at - time.perf_counter())
            asking.create_task(_ask_once(times, options.port, path))
    return time.perf_counter() - began


async def _ask_once(times: Times, port: int, path: str) -> None:
    began = time.perf_counter()
    connection = await Connection.open(port)
    try:
        times.bodies[await connection.ask(path, last=True)] += 1
        times.milliseconds[path].append((time.perf_counter() - began) * 1e3)
    finally:
        connection.close()


async def _run(options: argparse.Namespace) -> dict[str, object]:
    times = Times()
    mode = {"keepalive": keepalive, "arrivals": one_each}[options.mode]
    async with asyncio.timeout(options.timeout):
        seconds = await mode(times, options)
    return {"seconds": seconds, "milliseconds": times.milliseconds, "bodies": times.bodies}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("keepalive", "arrivals"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--path", default="/")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--rare-path", default="/")
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=60.0)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        json.dump(runner.run(_run(options)), sys.stdout)


if __name__ == "__main__":
    main()

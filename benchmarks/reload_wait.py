"""How long does a request wait beside a reload that moves 16,000 idle connections?

aiocluster alone, with one worker: other servers close their idle connections.

Every 5 ms a request is sent, every fourth on a new connection, the others on a few that are kept.
Meanwhile the worker is replaced, and its 16,000 idle connections move to the new one; each has had
one answer before. The clock runs from when a request was to be sent to its answer, so it includes
what this client is late: run it on a machine that does nothing else.
"""

import asyncio
import gc
import itertools
import os
import signal
import socket
import time
from collections.abc import Sequence
from select import POLLIN, poll

import uvloop

from aiocluster.fds import fd_limit, raise_fd_limit
from benchmarks import harness, report, sides

ROUNDS = 5
IDLE = 16_000
QUICK_IDLE = 2_000
KEPT = 6
EVERY = 0.005
# What is not answered by then fails: the longest wait was ever 2.3 s.
TIMEOUT = 20.0
# What the load goes on for, before the reload and after the old worker has ended.
SETTLE = 0.5
MAX_MILLISECONDS = 50.0

REQUEST = f"GET /pid HTTP/1.1\r\nHost: {harness.HOST}\r\n\r\n".encode()


def open_idle(port: int, count: int) -> list[socket.socket]:
    raise_fd_limit()
    if fd_limit() < count + 200:
        raise harness.BenchmarkFailed(f"{count} connections need more open files (ulimit -Hn)")
    idle = []
    try:
        for _ in range(count):
            sock = socket.create_connection((harness.HOST, port), timeout=TIMEOUT)
            sock.sendall(REQUEST)
            sock.recv(4096)
            idle.append(sock)
    except OSError as error:  # of the system's ports many may have been used a minute ago
        raise harness.BenchmarkFailed(f"{len(idle)} of {count} connections: {error}") from error
    return idle


def count_closed(idle: Sequence[socket.socket]) -> int:
    poller = poll()
    for sock in idle:
        poller.register(sock, POLLIN)
    return len(poller.poll(0))


class Client:
    """Asks on connections, some of them kept."""

    def __init__(self, port: int) -> None:
        self.longest = 0.0
        self._port = port
        self._kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def reload(self, server: harness.Server, old: int) -> float:
        """Have the worker `old` replaced; return the seconds of the longest wait."""
        self._kept = [await self._connect() for _ in range(KEPT)]
        async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as asking:
            end, due = float("inf"), time.perf_counter()
            began = due + SETTLE
            for number in itertools.count():
                if due > began:
                    began = float("inf")
                    os.kill(server.pid, signal.SIGHUP)
                if end == float("inf") and not _lives(old):
                    end = due + SETTLE
                if due > end:
                    break
                asking.create_task(self._ask(due, is_new=number % 4 == 0))
                due += EVERY
                await asyncio.sleep(due - time.perf_counter())
        for _, writer in self._kept:
            writer.transport.abort()
        return self.longest

    async def _ask(self, due: float, *, is_new: bool) -> None:
        is_new = is_new or not self._kept
        reader, writer = await self._connect() if is_new else self._kept.pop(0)
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        self.longest = max(self.longest, time.perf_counter() - due)
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        if is_new or b"connection: close" in head.lower():
            writer.transport.abort()
        else:
            self._kept.append((reader, writer))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(harness.HOST, self._port)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def measure(rounds: int, count: int) -> tuple[list[float], int]:
    """Return the milliseconds of each round's longest wait, and how many connections closed."""
    with harness.running(sides.aiocluster(1)) as server:
        idle = open_idle(server.port, count)
        gc.collect()
        gc.freeze()  # this client's collections are no figure of the server's
        waits = []
        for number in range(rounds):
            harness.wait_until_quiet(server)
            old = int(harness.answer(server.port, "/pid", timeout=TIMEOUT))
            waits.append(uvloop.run(Client(server.port).reload(server, old)) * 1e3)
            print(f"round {number + 1}: {waits[-1]:.0f} ms", flush=True)
        closed = count_closed(idle)
        for sock in idle:
            sock.close()
    return waits, closed


def main(argv: Sequence[str] | None = None) -> list[report.Figure]:
    options = harness.parse_options(__doc__, argv, ROUNDS)
    count = QUICK_IDLE if options.quick else IDLE
    waits, closed = measure(options.rounds, count)
    name = f"longest wait beside a reload with {count:,} idle connections"
    figures = [
        report.at_most(name, MAX_MILLISECONDS, max(waits), " ms"),
        report.at_most("idle connections closed by the reloads", 0, closed),
    ]
    report.print_figures(figures)
    report.write_json("reload_wait", {"milliseconds": waits, "closed": closed}, figures)
    return figures


if __name__ == "__main__":
    main()

"""Clients of the line protocol that jobs of tests/support/servers.py serve, and what these tell."""

import asyncio
from collections import Counter
from typing import Any

from aiocluster import Cluster, WorkerHandle
from tests.support.cluster import Heard
from tests.support.program import PATIENCE

LINE_JOB = "tests.support.servers:line_job"  # has a server
IDLE_JOB = "tests.support.servers:idle_job"  # has none


class Lines:
    """A client of the line protocol."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def __aenter__(self) -> "Lines":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def say(self, line: str) -> str:
        """Say one line; return the answer, "" at the end."""
        async with asyncio.timeout(PATIENCE):
            self._writer.write(line.encode() + b"\n")
            try:
                return (await self._reader.readline()).decode().rstrip("\n")
            except ConnectionError:
                return ""


async def connected(port: int, host: str = "127.0.0.1") -> Lines:
    async with asyncio.timeout(PATIENCE):
        return Lines(*await asyncio.open_connection(host, port))


async def who(port: int) -> int:
    """Return the id of the worker that gets the next connection."""
    async with await connected(port) as client:
        return int(await client.say("who"))


async def whose(port: int, times: int) -> Counter[int]:
    """Return who has got how many of so many connections, one after the other."""
    return Counter([await who(port) for _ in range(times)])


async def told(heard: Heard, worker: WorkerHandle, *command: Any, nth: int = 1) -> list[Any]:
    """Send a command; return the `nth` answer of this worker."""
    await worker.send(command)
    await heard.message(
        lambda message: message[0] == worker.id and len(heard.messages(worker)) >= nth
    )
    return [*heard.messages(worker)[nth - 1][1:]]


async def port_of(cluster: Cluster, heard: Heard) -> int:
    """Return where the first server of each worker listens, once all of them serve it."""
    ports = set()
    for worker in cluster.workers.values():
        what, port = await told(heard, worker, "tell")
        assert what == "serves"
        ports.add(int(port))
    (shared,) = ports
    return shared


async def refused(port: int) -> None:
    """Wait until nobody can connect."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                async with await connected(port):
                    continue
            except ConnectionError:
                return

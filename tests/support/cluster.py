"""A Cluster in the test's own loop, or in a program of its own, and all it tells.

async with serving(workers=2) as (cluster, heard):
    answer = await ask(cluster, "/who")
    exited = await heard.next(WorkerExited)

Nothing here waits for time: it waits for an event, an answer, a line of the log or an exit.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp
import psutil
import pytest

from aiocluster import (
    Cluster,
    Event,
    Role,
    WorkerEvent,
    WorkerExited,
    WorkerHandle,
    WorkerListening,
    WorkerMessage,
)
from tests.support.program import PATIENCE, Program, is_running, until

HTTP_APP = "tests.support.apps:make_app"
OBEDIENT_APP = "tests.support.apps:make_obedient_app"
SILENT_APP = "tests.support.apps:make_silent_app"

_REPOSITORY = Path(__file__).parents[2]

E = TypeVar("E", bound=Event)


class Heard:
    """Every event of a cluster since this was made, in order."""

    def __init__(self, cluster: Cluster) -> None:
        self.events: list[Event] = []
        self._grew = asyncio.Event()
        cluster.on(Event, self._put)

    def _put(self, event: Event) -> None:
        self.events.append(event)
        self._grew.set()

    async def next(
        self, kind: type[E], where: Callable[[E], bool] = lambda event: True, *, nth: int = 1
    ) -> E:
        """Return the first (or `nth`) event of `kind` that `where` accepts, past or to come."""
        async with asyncio.timeout(PATIENCE):
            while len(found := [*filter(where, self.of_kind(kind))]) < nth:
                self._grew.clear()
                await self._grew.wait()
        return found[nth - 1]

    async def exit_of(self, worker: WorkerHandle) -> WorkerExited:
        """Return the last event of this worker, once it came."""
        return await self.next(WorkerExited, lambda event: event.worker is worker)

    async def replacement_of(self, worker: WorkerHandle) -> WorkerHandle:
        """Return the next worker in the slot of `worker`, once it serves."""
        listening = await self.next(
            WorkerListening,
            lambda event: event.worker.slot == worker.slot and event.worker.id > worker.id,
        )
        assert isinstance(listening.worker, WorkerHandle)
        return listening.worker

    async def message(self, where: Callable[[Any], bool] = lambda message: True) -> Any:
        """Return the first message that `where` accepts, past or to come."""
        event = await self.next(WorkerMessage, lambda event: where(event.message))
        return event.message

    def messages(self, worker: WorkerHandle) -> list[Any]:
        """Return what this worker has sent."""
        return [event.message for event in self.of_kind(WorkerMessage) if event.worker is worker]

    def of_kind(self, kind: type[E]) -> list[E]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def kinds(self, worker_id: int) -> list[str]:
        """Return the names of all events of one worker."""
        return [
            type(event).__name__ for event in self.about_workers() if event.worker.id == worker_id
        ]

    def about_workers(self) -> list[WorkerEvent]:
        """Return the events that tell of a worker."""
        return self.of_kind(WorkerEvent)


# However busy the machine, a connection goes to the worker whose turn it is, and stays there.
NEVER_BEHIND = {"behind_after": 3600.0, "steal_after": 3600.0}


@asynccontextmanager
async def serving(app: object = HTTP_APP, **settings: Any) -> AsyncIterator[tuple[Cluster, Heard]]:
    """Run a cluster, and see to it that it leaves no process behind, dead or alive.

    Unless asked for, no worker is passed over for being slow.
    """
    defaults: dict[str, Any] = {"workers": 2, "bind": "127.0.0.1:0", **NEVER_BEHIND}
    async with _running(lambda: Cluster(app, **(defaults | settings))) as both:
        yield both


@asynccontextmanager
async def serving_roles(
    roles: dict[str, Role], **settings: Any
) -> AsyncIterator[tuple[Cluster, Heard]]:
    """Run a cluster of several roles, and see to it that it leaves no process behind."""
    async with _running(lambda: Cluster(roles=roles, **settings)) as both:
        yield both


@asynccontextmanager
async def _running(make: Callable[[], Cluster]) -> AsyncIterator[tuple[Cluster, Heard]]:
    before = set(psutil.Process().children(recursive=True))
    async with make() as cluster:
        yield cluster, Heard(cluster)
    assert set(psutil.Process().children(recursive=True)) <= before


def first(cluster: Cluster) -> WorkerHandle:
    """Return the worker with the lowest id."""
    return cluster.workers[min(cluster.workers)]


def url_of(cluster: Cluster, path: str = "/", *, nth: int = 1) -> str:
    """Return the URL of `path` at the cluster's first (or `nth`) address."""
    host, port = cluster.addresses[nth - 1]
    return f"http://{host}:{port}{path}"


async def ask(cluster: Cluster | str, path: str = "/") -> str:
    """Return the answer to a GET on a connection of its own."""
    url = cluster + path if isinstance(cluster, str) else url_of(cluster, path)
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(url, headers={"Connection": "close"}) as response,
    ):
        return await response.text()


async def who_answers(cluster: Cluster | str) -> dict[str, int]:
    """Return id, slot and pid of the worker that gets the next connection."""
    answer: dict[str, int] = json.loads(await ask(cluster, "/who"))
    return answer


async def end(cluster: Cluster, path: str) -> WorkerHandle:
    """Ask for something that ends its worker before or after it answers; return the worker."""
    async with asyncio.timeout(PATIENCE), await Client.connect(cluster) as client:
        worker = cluster.workers[json.loads(await client.get("/who"))["id"]]
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await client.get(path)
    return worker


class Client:
    """One plain connection that can ask, wait, and ask again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, where: Cluster | str) -> Self:
        """Connect to a cluster, or to a URL."""
        url = where if isinstance(where, str) else url_of(where)
        host, _, port = url.removeprefix("http://").rstrip("/").rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    def send(self, path: str) -> None:
        """Send a GET and do not wait for its answer."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())

    async def answer(self) -> str:
        """Return the body of the next answer."""
        async with asyncio.timeout(PATIENCE):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next(
                int(line.split(":")[1])
                for line in head.splitlines()
                if line.startswith("content-length:")
            )
            return (await self._reader.readexactly(length)).decode()

    async def get(self, path: str) -> str:
        """Send a GET and return the body of its answer."""
        self.send(path)
        return await self.answer()

    async def closed(self) -> None:
        """Wait until the other side has closed."""
        async with asyncio.timeout(PATIENCE):
            await self._reader.read()


async def logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Wait until a line with `text` is in the log of this process."""
    await until(lambda: text in caplog.text, f"{text!r} is not in the log:\n{caplog.text}")


def program_of(
    folder: Path, *, app: str = "make_app", more: str = "", command: str = "", **settings: Any
) -> Program:
    """A program that runs one of the apps of these tests and prints what it hears.

    `more` is source that runs before `run`; `command` a shell command before the interpreter's.
    """
    given = {"workers": 2, "bind": "127.0.0.1:0", **settings}
    source = (
        "import aiocluster\n"
        f"from tests.support.apps import {app}\n"
        "from tests.support.printing import print_events\n"
        "on_start = print_events\n"
        'if __name__ == "__main__":\n'
        f"    {more or 'pass'}\n"
        f"    aiocluster.run({app}, on_start=on_start, **{given!r})\n"
    )
    program = Program(folder, source, env={"PYTHONPATH": str(_REPOSITORY)})
    if command:
        program._command = ["sh", "-c", f"{command}; exec {' '.join(program._command)}"]
    return program


async def gone(processes: Iterable[psutil.Process]) -> None:
    """Wait until none of these processes runs any more."""
    processes = [*processes]
    await until(lambda: not any(is_running(process) for process in processes), "a process lives on")


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal from outside the cluster, as an operator or the kernel would."""
    os.kill(pid, number)

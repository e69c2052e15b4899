"""What Node and PM2 get wrong, and goes well here. E2 to E5 and E7 are in tests/e2e."""

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.census import fds_of
from tests.support.cluster import Client, ask, program_of
from tests.support.program import PATIENCE, Program, until
from tests.support.reloading import Deployment
from tests.support.wire import Wire

KILLS = 55

# Answers that the old workers give while the new one boots, and the new ones afterwards.
ANSWERS = 100

# The boot of version 2 waits for two files, one in its import and one in its factory.
SLOW = """
def _wait_for(name):
    pathlib.Path(f"{name}ing").touch()
    while not pathlib.Path(name).exists():
        time.sleep(0.01)

_make_app = make_app

def make_app():
    _wait_for("make")
    return _make_app()

_wait_for("import")
"""

# A waiting client costs nothing, a busy loop nearly a whole core, or half of one that is shared.
_MAX_CPU_SHARE = 0.05
_MEASURED_SECONDS = 2.0

# Of that a quarter is what a primary needs in which nothing happens.
_MAX_CPU_SHARE_BY_LIMITS = 0.01

# Seconds between two clients, in which the first can be accepted.
_PACE = 0.005

# Who has not connected after so many seconds is probably left waiting.
_LONG_WAIT = 0.5

# Nobody is replaced for being blocked, and few can wait where they need not be accepted.
CROWDED: dict[str, Any] = {"hang_timeout": 0, "lag_warning": 0, "backlog": 64}


# node: E1
async def test_the_client_of_a_killed_worker_never_hangs_and_leaves_no_socket(
    tmp_path: Path,
) -> None:
    """55 workers are killed in the middle of a request: each client sees the end, at once."""
    async with program_of(tmp_path, max_failures=1e6) as program:
        url = (await program.url()).rstrip("/")
        # The primary may keep a connection for a moment after its response.
        before = fds_of(program.pid)
        await ask(url, "/who")
        for _ in range(KILLS):
            await _kill_in_a_request(program, url)
        await until(lambda: fds_of(program.pid) == before, "the primary keeps a socket")
        assert await program.stop() == 0
        assert program.left_behind() == []


async def _kill_in_a_request(program: Program, url: str) -> None:
    seen = len(program.lines)
    async with await Client.connect(url) as client:
        client.send("/hold")
        told = await program.line("event WorkerMessage .* message='holding'", after=seen)
        match = re.search(r"slot=(\d+) pid=(\d+)", told)
        assert match is not None
        os.kill(int(match[2]), signal.SIGKILL)
        await client.closed()
    await program.line(f"event WorkerListening .* slot={match[1]} ", after=seen)


# node: E6
async def test_a_slow_boot_at_a_reload_costs_no_request(tmp_path: Path) -> None:
    """However long import and factory take, the old serve: nobody is refused, cut or kept."""
    async with Deployment(tmp_path) as program, Wire(await program.url()) as kept:
        assert json.loads((await kept.get()).body)[0] == 1
        program.release_code(2, SLOW)
        async with _asking(program) as answers:
            program.send_signal(signal.SIGHUP)
            for step in ("import", "make"):
                await program.until_exists(f"{step}ing")
                assert {await answers.get() for _ in range(answers.qsize() + ANSWERS)} == {1}
                assert json.loads((await kept.get()).body)[0] == 1
                program.write(step)
            await program.reloaded(2)
            async with asyncio.timeout(PATIENCE):
                while await answers.get() == 1:
                    pass
            await until(lambda: len(program.descendants()) == 3, "the old are gone")
            after = {await answers.get() for _ in range(answers.qsize() + ANSWERS)}
            assert 2 in after
        assert json.loads((await kept.get()).body)[0] == 2
        assert await program.stop() == 0


@asynccontextmanager
async def _asking(program: Deployment) -> AsyncIterator["asyncio.Queue[int]"]:
    """Ask on and on, each time on a new connection; a request that is lost fails the test."""
    answers: asyncio.Queue[int] = asyncio.Queue()

    async def ask_on() -> None:
        while True:
            version, _ = await program.who()
            answers.put_nowait(version)

    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(ask_on()) for _ in range(4)]
        yield answers
        for client in clients:
            client.cancel()


# node: E8
async def test_while_all_workers_are_full_who_waits_costs_nothing(tmp_path: Path) -> None:
    """Both are at their limit of descriptors; who waits is not polled for, and is served."""
    async with program_of(tmp_path, command="ulimit -n 64", **CROWDED) as program:
        url = (await program.url()).rstrip("/")
        async with _Crowd(url) as crowd:
            share = await crowd.cpu_share_while_one_waits(program)
            assert await crowd.clients[0].get("/who")  # it is among those that were taken
            waiting = crowd.clients.pop()
        async with waiting:
            assert await waiting.get("/who")
        assert await program.stop() == 0

    assert share < _MAX_CPU_SHARE


# node: E8
async def test_while_all_queues_are_full_who_waits_costs_nothing(tmp_path: Path) -> None:
    """The only worker is blocked, and the kernel takes no more connections for it."""
    async with program_of(tmp_path, **{**CROWDED, "workers": 1}) as program:
        url = (await program.url()).rstrip("/")
        async with await Client.connect(url) as blocker, _Crowd(url) as crowd:
            await blocker.get("/block")
            share = await crowd.cpu_share_while_one_waits(program)

    assert share < _MAX_CPU_SHARE


# node: E8
@pytest.mark.parametrize(
    "limits",
    [
        {"max_connections": 2},
        {"max_connections_total": 3},
        {"max_requests_in_flight": 1},
        {"max_connections": 2, "policy": "shared"},
    ],
    ids=str,
)
async def test_while_all_have_what_they_may_have_who_waits_costs_nothing(
    tmp_path: Path, limits: dict[str, Any]
) -> None:
    """By limits of the user's: the primary, idle figures included, stays under a hundredth."""
    async with program_of(tmp_path, **CROWDED, **limits) as program:
        url = (await program.url()).rstrip("/")
        async with AsyncExitStack() as stack:
            for _ in range(7):
                client = await stack.enter_async_context(await Client.connect(url))
                client.send("/hold")
            await program.line("event WorkerMessage .* message='holding'")
            share = await _cpu_share(program)

    assert share < _MAX_CPU_SHARE_BY_LIMITS


class _Crowd:
    """Clients that connect and ask nothing; a context manager, which closes them.

    The backlog is short, so who is left waiting when it is full cannot even connect.
    """

    def __init__(self, url: str) -> None:
        self.clients: list[Client] = []
        self._url = url
        self._waiting: asyncio.Task[Client] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._waiting is not None and not self._waiting.cancel():
            self.clients.append(self._waiting.result())  # it has come in after all
        for client in self.clients:
            await client.__aexit__()

    async def cpu_share_while_one_waits(self, program: Program) -> float:
        """Connect until one is left waiting; return what share of a core the primary uses then."""
        async with asyncio.timeout(PATIENCE):
            while True:
                self._waiting = await self._grow_until_one_waits()
                share = await _cpu_share(program)
                if not self._waiting.done():
                    return share
                # On a busy machine it took its time, and that was all.
                self.clients.append(self._waiting.result())

    async def _grow_until_one_waits(self) -> asyncio.Task[Client]:
        while True:
            connecting = asyncio.create_task(Client.connect(self._url))
            await asyncio.wait({connecting}, timeout=_LONG_WAIT)
            if not connecting.done():
                return connecting
            self.clients.append(connecting.result())
            await asyncio.sleep(_PACE)  # or the backlog were full before anybody is


async def _cpu_share(program: Program) -> float:
    """Return what share of a core the primary uses."""
    loop = asyncio.get_running_loop()
    began, before = loop.time(), _cpu_seconds(program.pid)
    await asyncio.sleep(_MEASURED_SECONDS)
    return (_cpu_seconds(program.pid) - before) / (loop.time() - began)


def _cpu_seconds(pid: int) -> float:
    """By the scheduler's own count, since that of /proc/PID/stat has ticks of 10 ms."""
    times = (task / "schedstat" for task in Path(f"/proc/{pid}/task").iterdir())
    return sum(int(time.read_text().split()[0]) for time in times) / 1e9

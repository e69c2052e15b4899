"""With `shared` connections never pass through the primary, and all else is as before."""

import asyncio
import signal
import socket
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from aiocluster import Cluster, WorkerExited
from tests.support.cluster import (
    Client,
    ask,
    end,
    first,
    gone,
    kill,
    program_of,
    serving,
    who_answers,
)
from tests.support.program import PATIENCE, until
from tests.support.upgrading import Upgradable
from tests.support.wire import Wire

WORKERS = 4
CONNECTIONS = 300

# Turns of an idle worker's loop in a second: heartbeats and looks, 10 of each, with some to spare.
IDLE_TURNS = 30


def switches(cluster: Cluster) -> int:
    """How often a worker has gone to sleep, all together: once for each time it was woken."""
    processes = [psutil.Process(worker.pid) for worker in cluster.workers.values()]
    return sum(process.num_ctx_switches().voluntary for process in processes)


def place_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


async def test_a_connection_wakes_one_worker_and_every_worker_serves() -> None:
    """One by one they go around; with a wake-up of all of them there would be four for each."""
    async with serving(workers=WORKERS, policy="shared") as (cluster, _):
        await ask(cluster, "/who")
        began, before = time.monotonic(), switches(cluster)
        seen = Counter([(await who_answers(cluster))["id"] for _ in range(CONNECTIONS)])
        woken, seconds = switches(cluster) - before, time.monotonic() - began

    assert len(seen) == WORKERS
    # A request that comes a moment after its connection is a wake-up of its own.
    assert woken - seconds * WORKERS * IDLE_TURNS < 2.5 * CONNECTIONS


async def test_what_workers_accept_is_counted() -> None:
    """Connections, open and in total, as if they had been handed over."""
    async with serving(workers=2, policy="shared") as (cluster, _):
        snapshots = cluster.subscribe(0.05)
        async with AsyncExitStack() as clients:
            for _ in range(20):
                client = await clients.enter_async_context(await Client.connect(cluster))
                await client.get("/who")
            async with asyncio.timeout(PATIENCE):
                async for snapshot in snapshots:
                    total = snapshot.total
                    if (total.connections_open, total.connections_total) == (20, 20):
                        break


async def test_with_no_worker_left_connections_wait_for_the_next() -> None:
    """In the kernel's backlog; who replaces the dead one serves them."""
    async with serving(workers=1, policy="shared") as (cluster, heard):
        worker = first(cluster)
        kill(worker.pid, signal.SIGSTOP)
        waiting = [asyncio.create_task(who_answers(cluster)) for _ in range(5)]
        kill(worker.pid)
        await heard.replacement_of(worker)

        answers = await asyncio.gather(*waiting)

    assert {answer["id"] for answer in answers} == {worker.id + 1}


async def test_a_blocked_worker_accepts_nothing() -> None:
    """The others serve, and a worker that hangs is found and replaced as ever."""
    async with serving(workers=2, policy="shared", hang_timeout=0.5) as (cluster, heard):
        async with await Client.connect(cluster) as client:
            blocked = cluster.workers[int(await client.get("/block"))]
            others = {(await who_answers(cluster))["id"] for _ in range(20)}
            exited = await heard.exit_of(blocked)
        await heard.replacement_of(blocked)
        assert (await who_answers(cluster))["id"] != blocked.id
        exits = heard.of_kind(WorkerExited)

    assert exited.reason == "hang"
    assert blocked.id not in others
    assert [event.worker.id for event in exits if event.reason == "hang"] == [blocked.id]


async def test_a_worker_that_dies_is_replaced_by_one_that_accepts() -> None:
    """It gets the same sockets."""
    async with serving(workers=1, policy="shared") as (cluster, heard):
        dead = await end(cluster, "/end/_exit/3")
        await heard.replacement_of(dead)

        assert (await who_answers(cluster))["id"] == dead.id + 1


async def test_each_of_several_addresses_is_served(tmp_path: Path) -> None:
    """Every worker has all the sockets."""
    bind = ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"]
    async with program_of(tmp_path, policy="shared", bind=bind) as program:
        for url in await program.urls():
            async with Wire(url) as wire:
                assert (await wire.get("/who")).status == 200
        assert await program.stop() == 0


async def test_the_port_is_free_when_it_has_stopped(tmp_path: Path) -> None:
    """Nobody keeps a socket: not a worker, not the zygote."""
    async with program_of(tmp_path, policy="shared") as program:
        place = place_of(await program.url())
        assert await program.stop() == 0

    with socket.create_server(place):
        pass


async def test_workers_go_when_the_primary_is_killed(tmp_path: Path) -> None:
    """They do not hold the port, either."""
    async with program_of(tmp_path, policy="shared") as program:
        place = place_of(await program.url())
        family = program.descendants()
        program.send_signal(signal.SIGKILL)
        await gone(family)

    with socket.create_server(place):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_under_load_loses_nobody(tmp_path: Path, number: int) -> None:
    """Of clients with one connection a request: who has connected is answered."""
    async with program_of(tmp_path, workers=3, policy="shared") as program:
        url = await program.url()
        crowd = Crowd(url)
        clients = [asyncio.create_task(crowd.ask_until_refused()) for _ in range(16)]
        await until(lambda: crowd.answers >= 300, "no answers")
        assert await program.stop(number) == 0
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*clients)

    assert crowd.lost == []


async def test_workers_at_their_limit_leave_connections_to_wait(tmp_path: Path) -> None:
    """More clients than two workers have descriptors for: all are answered, none is lost."""
    command = "ulimit -n 64"
    async with program_of(tmp_path, policy="shared", command=command) as program:
        url = (await program.url()).rstrip("/")
        clients = [await Client.connect(url) for _ in range(200)]
        for client in clients:
            client.send("/who")
        await asyncio.gather(*(_answered(client) for client in clients))
        assert await program.stop() == 0
        output = await program.all_output()

    assert "failed" not in output
    assert "Traceback" not in output


async def _answered(client: Client) -> None:
    async with client:
        await client.answer()


@pytest.mark.parametrize(
    ("before", "after"), [("round_robin", "shared"), ("shared", "round_robin"), ("shared",) * 2]
)
async def test_an_upgrade_may_change_the_policy(tmp_path: Path, before: str, after: str) -> None:
    """Old workers are served by who can accept, and a reload brings workers as they should be."""
    async with Upgradable(tmp_path, policy=before) as program:
        old = {await program.who() for _ in range(20)}
        program.release(policy=after)
        await program.upgrade()
        still = {await program.who() for _ in range(20)}
        program.send_signal(signal.SIGHUP)
        await program.line("generation 2 serves")
        new = {await program.who() for _ in range(20)}
        assert await program.stop() == 0

    assert still <= old
    assert not new & old


class Crowd:
    """Clients with one connection a request."""

    def __init__(self, url: str) -> None:
        self.answers = 0
        self.lost: list[str] = []
        self._url = url

    async def ask_until_refused(self) -> None:
        """Ask until nobody listens any more."""
        while True:
            try:
                async with Wire(self._url) as wire:
                    await self._ask(wire)
            except ConnectionRefusedError:
                return

    async def _ask(self, wire: Wire) -> None:
        try:
            assert (await wire.get("/who")).status == 200
            self.answers += 1
        except (OSError, EOFError) as error:
            self.lost.append(repr(error))

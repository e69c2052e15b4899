"""A draining worker's idle connections go on at another worker, and their clients see nothing."""

import asyncio
import contextlib
import gzip
import json
import os
import signal
import time

import pytest

from aiocluster import Cluster, WorkerHandle
from aiocluster.ipc.scoreboard import CONNECTIONS_CLOSED
from tests.support.cluster import OBEDIENT_APP, Client, kill, serving, url_of
from tests.support.program import PATIENCE
from tests.support.wire import Response, Wire

CLIENTS = 50

# So that what holds a drain up, or closes a connection, is never a timeout.
PATIENT = {"graceful_timeout": 3600.0, "keepalive_timeout": 3600.0}


async def connect(cluster: Cluster, count: int) -> list[Client]:
    return [await Client.connect(cluster) for _ in range(count)]


async def who(client: Client) -> int:
    """Return the pid that answers on this connection."""
    pid: int = json.loads(await client.get("/who"))["pid"]
    return pid


async def close(clients: list[Client]) -> None:
    for client in clients:
        await client.__aexit__()


def pid_in(response: Response) -> int:
    assert response.status == 200
    assert response.headers.get("connection") != "close"
    pid: int = json.loads(response.body)["pid"]
    return pid


@pytest.mark.parametrize("asked", [True, False], ids=["used", "fresh"])
async def test_every_client_goes_on_on_its_connection(asked: bool) -> None:
    """Fifty connections over two workers; one drains, and the other answers them all."""
    async with serving(restart="never", **PATIENT) as (cluster, _):
        clients = await connect(cluster, CLIENTS)
        if asked:
            pids = [await who(client) for client in clients]
            assert len(set(pids)) == 2
        drained, other = cluster.workers.values()
        exited = await drained.drain()
        answers = {await who(client) for client in clients}
        again = {await who(client) for client in clients}
        await close(clients)

    assert answers == again == {other.pid}
    assert (exited.code, drained.cut) == (0, [])


@pytest.mark.parametrize("by", ["its own code", "TERM", "max_requests"])
async def test_whoever_asked_for_the_drain(by: str) -> None:
    """A worker that wants to go, or is told to from outside, leaves its clients to others."""
    limit = {"max_requests": 20} if by == "max_requests" else {}
    async with serving(OBEDIENT_APP, **PATIENT, **limit) as (cluster, heard):
        clients = await connect(cluster, 10)
        before = {await who(client) for client in clients}
        old = next(iter(cluster.workers.values()))
        if by == "its own code":
            await old.send(["drain"])
        elif by == "TERM":
            kill(old.pid, signal.SIGTERM)
        else:
            pids = {await who(clients[number % 10]) for number in range(40)}
            assert pids <= before | {worker.pid for worker in cluster.workers.values()}
        exited = await heard.exit_of(old)
        answers = {await who(client) for client in clients}
        await close(clients)

    assert exited.code == 0
    assert old.pid not in answers


async def test_under_load_nobody_notices() -> None:
    """Clients that ask without a pause, one drain after the other: each is answered each time."""
    stop = False

    async def ask_on(number: int) -> int:
        async with Wire(url_of(cluster, "")) as wire:
            asked = 0
            while not stop:
                asked += 1
                await wire.ask("/who", method="GET")
                pid_in(await wire.response())
                await asyncio.sleep(0)
            return asked

    async with serving(**PATIENT) as (cluster, heard):
        asking = [asyncio.create_task(ask_on(number)) for number in range(20)]
        for _ in range(4):
            old = next(iter(cluster.workers.values()))
            exited = await old.drain()
            assert (exited.code, old.cut) == (0, [])
            await heard.replacement_of(old)
        stop = True
        counts = await asyncio.gather(*asking)

    assert min(counts) > 0


def all_given_back(cluster: Cluster, worker: WorkerHandle, count: int) -> None:
    """Wait until it has given so many back, without a turn of the primary's loop."""
    assert cluster._primary is not None
    scoreboard, deadline = cluster._primary.reporter.scoreboard, time.monotonic() + PATIENCE
    while scoreboard.read(worker.row, CONNECTIONS_CLOSED) < count:
        assert time.monotonic() < deadline
        os.sched_yield()


async def test_what_a_killed_worker_had_given_back_is_not_lost() -> None:
    """It dies before the primary has read any of it, and all of its clients are answered."""
    async with serving(restart="never", **PATIENT) as (cluster, _heard):
        clients = await connect(cluster, CLIENTS)
        before = [await who(client) for client in clients]
        drained, other = cluster.workers.values()
        exiting = drained.drain()
        all_given_back(cluster, drained, before.count(drained.pid))
        with contextlib.suppress(ProcessLookupError):  # it had nothing left to do
            kill(drained.pid)
        answers = {await who(client) for client in clients}
        await exiting
        await close(clients)

    assert answers == {other.pid}


HEAD = b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n"


async def of(wire: Wire, cluster: Cluster) -> WorkerHandle:
    """Return the worker that has this connection."""
    worker: WorkerHandle = cluster.workers[json.loads((await wire.get("/who")).body)["id"]]
    return worker


async def begun(cluster: Cluster, *, other: WorkerHandle) -> None:
    """Wait until a drain is so far that new clients reach only the other worker."""
    for _ in range(3):
        async with await Client.connect(cluster) as client:
            assert await who(client) == other.pid


async def test_half_a_head_is_read_to_its_end_where_it_began() -> None:
    """The old worker answers, and then the connection moves."""
    async with (
        serving(restart="never", **PATIENT) as (cluster, _),
        Wire(url_of(cluster, "")) as wire,
    ):
        old = await of(wire, cluster)
        (other,) = {*cluster.workers.values()} - {old}
        await wire.send(HEAD[:9])
        exiting = old.drain()
        await begun(cluster, other=other)
        assert not exiting.done()
        await wire.send(HEAD[9:])
        assert pid_in(await wire.response()) == old.pid
        exited = await exiting
        assert pid_in(await wire.get("/who")) == other.pid

    assert (exited.code, old.cut) == (0, [])


async def test_half_a_body_is_read_to_its_end_where_it_began() -> None:
    """A POST that was half sent is answered, and then the connection moves."""
    async with (
        serving(restart="never", **PATIENT) as (cluster, _),
        Wire(url_of(cluster, "")) as wire,
    ):
        old = await of(wire, cluster)
        (other,) = {*cluster.workers.values()} - {old}
        await wire.send(b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        exiting = old.drain()
        await begun(cluster, other=other)
        assert not exiting.done()
        await wire.send(b"67890")
        response = await wire.response()
        assert (response.body, response.headers.get("connection")) == (b"10", None)
        exited = await exiting
        assert pid_in(await wire.get("/who")) == other.pid

    assert (exited.code, old.cut) == (0, [])


async def test_a_slow_reader_gets_all_of_its_response_and_moves() -> None:
    """What waits in the old worker to be sent is sent by it."""
    size = 1 << 25
    async with (
        serving(restart="never", **PATIENT) as (cluster, _),
        Wire(url_of(cluster, "")) as wire,
    ):
        old = await of(wire, cluster)
        (other,) = {*cluster.workers.values()} - {old}
        await wire.ask(f"/large/{size}")
        head = await wire.until(b"\r\n\r\n")
        exiting = old.drain()
        await begun(cluster, other=other)
        assert not exiting.done()
        body = await wire.exactly(size)
        exited = await exiting
        assert pid_in(await wire.get("/who")) == other.pid

    assert b"onnection: close" not in head
    assert body == b"x" * size
    assert (exited.code, old.cut) == (0, [])


async def test_a_moved_connection_is_not_kept_for_ever() -> None:
    """It has the whole keepalive_timeout again, and no more."""
    async with serving(restart="never", keepalive_timeout=0.5) as (cluster, _):
        clients = await connect(cluster, 2)
        drained, other = cluster.workers.values()
        await drained.drain()
        assert {await who(client) for client in clients} == {other.pid}
        for client in clients:
            await client.closed()
        await close(clients)


async def test_a_stop_during_a_drain_closes_what_is_idle() -> None:
    """What may hold half a head holds up a drain in which connections move, and not a stop."""
    body = gzip.compress(b"hello")
    head = "POST /length HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
    async with serving(**PATIENT) as (cluster, _), Wire(url_of(cluster, "")) as wire:
        old = await of(wire, cluster)
        (other,) = {*cluster.workers.values()} - {old}
        await wire.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert (await wire.response()).body == b"5"
        exiting = old.drain()
        await begun(cluster, other=other)
        assert not exiting.done()
        assert await cluster.stop() == []
        assert await wire.rest() == b""


async def test_a_stop_during_a_drain_reads_half_a_head_to_its_end() -> None:
    """It is answered where it began, and told to go."""
    async with serving(**PATIENT) as (cluster, _), Wire(url_of(cluster, "")) as wire:
        old = await of(wire, cluster)
        (other,) = {*cluster.workers.values()} - {old}
        await wire.send(HEAD[:9])
        exiting = old.drain()
        await begun(cluster, other=other)
        stopping = asyncio.create_task(cluster.stop())
        await other.exited
        assert not exiting.done()
        await wire.send(HEAD[9:])
        assert (await wire.response()).headers["connection"] == "close"
        assert await stopping == []

"""Clients that connect and say nothing, where a sticky policy waits for what they will say."""

import asyncio
import os
import re
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aiocluster import Cluster
from aiocluster.primary.ingress.pending_limit import MAX_HELD
from tests.support.cluster import ask, program_of, serving
from tests.support.looks import Looks
from tests.support.mirror import (
    MIRROR_APP,
    door_of,
    peeker_of,
    place_in,
    soon_true,
    visitors,
    visits,
)
from tests.support.program import PATIENCE
from tests.support.wire import Wire

# The promise is for 5,000. Each is a descriptor here, and one in the primary, which is the same
# process, or in a worker.
SILENT = int(os.environ.get("AIOCLUSTER_SILENT_CLIENTS") or 5000)

BOUND = MAX_HELD

POLICY = {"workers": 4, "policy": "sticky:header:x-session-id"}


@pytest.fixture(autouse=True)
def _many_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A quarter of all that the primary may have is for those who have not spoken yet.
    needed = max(2 * SILENT + 500, 4 * BOUND)
    if hard < needed:
        pytest.skip(f"{SILENT} silent clients take {needed} descriptors, and {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))


@asynccontextmanager
async def silent_clients(
    cluster: Cluster, count: int = SILENT
) -> AsyncIterator[list[socket.socket]]:
    """Connect so many that say nothing."""
    loop, socks = asyncio.get_running_loop(), list[socket.socket]()
    try:
        async with asyncio.timeout(PATIENCE):
            for _ in range(count):
                socks.append(sock := socket.socket())
                sock.setblocking(False)
                await loop.sock_connect(sock, cluster.addresses[0])
        yield socks
    finally:
        for sock in socks:
            sock.close()


def fallbacks(cluster: Cluster) -> dict[str, int]:
    return door_of(cluster).counts().fallbacks


async def test_others_are_served_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by the worker that knows it, also those whose head comes in two pieces."""
    looks = Looks(monkeypatch)
    async with serving(MIRROR_APP, peek_timeout=3600.0, **POLICY) as (cluster, _):
        clients = visitors(cluster, 50)
        homes = await visits(clients)
        async with silent_clients(cluster):
            inspector = peeker_of(cluster)
            held = min(SILENT, BOUND)
            await soon_true(lambda: inspector.held == held)
            assert await visits(clients) == homes
            for client in clients[:10]:
                before, request = looks.count, client.request()
                async with client.connect() as wire:
                    await wire.send(request[:30])
                    await soon_true(lambda: looks.count > before)  # noqa: B023
                    await wire.send(request[30:])
                    assert place_in(await wire.response()) == homes[client.name]
            assert inspector.held <= BOUND


async def test_who_has_been_silent_for_longest_goes_on_where_there_are_too_many() -> None:
    """No more than so many are held; the others have a worker, by their address."""
    more = 100
    async with serving(MIRROR_APP, peek_timeout=3600.0, **POLICY) as (cluster, _):
        inspector = peeker_of(cluster)
        async with silent_clients(cluster, BOUND) as first, silent_clients(cluster, more):
            await soon_true(lambda: fallbacks(cluster) == {"crowded": more})
            # The first ones to come are a worker's: when they speak no fewer are held.
            assert len({await slot_of(sock) for sock in first[:more]}) == 1
            assert inspector.held == BOUND


async def test_all_are_passed_on_after_their_time() -> None:
    """None is lost: each is answered when it speaks after all."""
    async with serving(MIRROR_APP, peek_timeout=0.2, **POLICY) as (cluster, _):
        async with silent_clients(cluster) as socks:
            await soon_true(lambda: sum(fallbacks(cluster).values()) == SILENT)
            assert peeker_of(cluster).held == 0
            assert {*fallbacks(cluster)} <= {"timeout", "crowded"}
            slots = await asyncio.gather(*map(slot_of, socks))
        # They have one address.
        assert len({*slots}) == 1


async def slot_of(sock: socket.socket) -> int:
    """Let one speak that was silent; return which slot answers."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE):
        await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await loop.sock_recv(sock, 4096)
    return int(answer.lower().partition(b"x-slot:")[2].split()[0])


async def test_the_descriptors_of_the_primary_are_not_used_up(tmp_path: Path) -> None:
    """Where it may have few of them fewer are held: it accepts on, and others are served."""
    settings: dict[str, Any] = {"policy": "sticky:path:1", "peek_timeout": 3600.0}
    async with program_of(tmp_path, command="ulimit -n 256", **settings) as program:
        url = await program.url()
        async with AsyncExitStack() as stack:
            # Of two addresses, so that each worker has room for its own.
            for number in range(300):
                source = f"127.0.0.{2 + number % 2}"
                await stack.enter_async_context(Wire(url, source=source))
            for _ in range(10):
                await ask(url.rstrip("/"), "/who")
        assert await program.stop() == 0
        assert "failed: [Errno 24]" not in await program.all_output()


async def test_at_many_addresses_no_more_are_held_than_at_one(tmp_path: Path) -> None:
    """All share one bound: each held as many as that, the primary could accept nobody."""
    sticky = [f"127.0.0.{number}:0" for number in range(1, 5)]
    policy = {address: f"sticky:path:{nth}" for nth, address in enumerate(sticky, 1)}
    settings: dict[str, Any] = {"bind": [*sticky, "127.0.0.5:0"], "peek_timeout": 3600.0}
    async with program_of(tmp_path, command="ulimit -n 256", policy=policy, **settings) as program:
        *silent, served = re.findall(r"http://[0-9.:]+", await program.line("serving on"))
        async with AsyncExitStack() as stack:
            for number in range(280):
                source = f"127.0.0.{2 + number % 2}"
                await stack.enter_async_context(Wire(silent[number // 70], source=source))
            for _ in range(10):
                await ask(served, "/who")
        assert await program.stop() == 0
        assert "failed: [Errno 24]" not in await program.all_output()


async def test_a_stop_does_not_wait_for_them() -> None:
    """They have a second; nothing is cut."""
    async with (
        serving(MIRROR_APP, peek_timeout=3600.0, graceful_timeout=3600.0, **POLICY) as (
            cluster,
            _,
        ),
        silent_clients(cluster, 500),
    ):
        await soon_true(lambda: peeker_of(cluster).held == 500)
        async with asyncio.timeout(PATIENCE):
            assert await cluster.stop() == []


async def test_they_leave_nothing_when_they_go() -> None:
    """All close at once; each is forgotten, and others are served as before."""
    async with serving(MIRROR_APP, peek_timeout=3600.0, **POLICY) as (cluster, _):
        clients = visitors(cluster, 10)
        homes = await visits(clients)
        async with silent_clients(cluster):
            await soon_true(lambda: peeker_of(cluster).held == min(SILENT, BOUND))
        await soon_true(lambda: peeker_of(cluster).held == 0)
        assert await visits(clients) == homes
        for worker in cluster.workers.values():
            await soon_true(lambda: worker.backend.open_connections == 0)  # noqa: B023

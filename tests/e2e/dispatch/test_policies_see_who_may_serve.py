"""No policy is offered a worker that is draining, not ready or full."""

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest

from aiocluster import Cluster, WorkerMessage
from aiocluster.policies.base import C, Candidate
from aiocluster.primary.workers.phases import Phase
from tests.support.choosing import EXACT
from tests.support.cluster import Client, kill, serving, url_of, who_answers
from tests.support.program import until
from tests.support.wire import Wire


class Watchful:
    """Takes each in turn, and notes who was offered that should not have been."""

    def __init__(self) -> None:
        self.cluster: Cluster | None = None
        self.limit = sys.maxsize
        self.asked = 0
        self.wrong: list[str] = []

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        self.asked += 1
        self.wrong += filter(None, map(self._fault, candidates))
        slots = [candidate.slot for candidate in candidates]
        if not slots or slots != sorted(slots):
            self.wrong.append(f"candidates in {slots}")
        return candidates[self.asked % len(candidates)]

    def _fault(self, candidate: Candidate) -> str:
        assert self.cluster is not None
        worker = self.cluster.workers.get(candidate.worker_id)
        if worker is None or worker.phase is not Phase.READY:
            return f"{worker or candidate.worker_id} is {worker and worker.phase}"
        if candidate.open_connections >= self.limit:
            return f"{worker} has {candidate.open_connections} connections"
        return ""


async def ask_until(cluster: Cluster, over: asyncio.Event) -> int:
    """Ask without a pause, with one connection a request; return how often."""
    asked = 0
    while not over.is_set():
        await who_answers(cluster)
        asked += 1
    return asked


async def test_no_policy_sees_a_worker_that_is_not_ready() -> None:
    """Over a reload, kills, drains and scaling, under load; and nobody is lost."""
    policy = Watchful()
    async with serving(workers=3, policy=policy, min_uptime=0.0) as (cluster, heard):
        policy.cluster, over = cluster, asyncio.Event()
        clients = [asyncio.create_task(ask_until(cluster, over)) for _ in range(4)]
        await cluster.reload()
        for victim in [*cluster.workers.values()]:
            await victim.drain()
            await heard.replacement_of(victim)
        await cluster.scale("+2")
        await cluster.scale(2)
        over.set()
        assert min(await asyncio.gather(*clients)) > 0
        asked = policy.asked
        for victim in [*cluster.workers.values()]:
            # What it had begun would be lost with it: nobody asks meanwhile.
            kill(victim.pid)
            await who_answers(cluster)
            await heard.replacement_of(victim)
            await who_answers(cluster)

    assert policy.wrong == []
    assert policy.asked > asked > 0


@pytest.mark.parametrize("limit", [1, 3])
async def test_no_policy_sees_a_full_worker(limit: int) -> None:
    """However many connections come at once: each choice is among those with a place left."""
    policy = Watchful()
    async with serving(workers=3, policy=policy, max_connections=limit, **EXACT) as (cluster, _):
        policy.cluster, policy.limit = cluster, limit
        for _ in range(3):
            clients = await asyncio.gather(*(Client.connect(cluster) for _ in range(3 * limit)))
            await asyncio.gather(*(client.get("/who") for client in clients))
            assert {one.backend.open_connections for one in cluster.workers.values()} == {limit}
            # They come while all are full, and are served as places get free.
            late = asyncio.gather(*(who_answers(cluster) for _ in range(10)))
            for client in clients:
                await client.__aexit__()
            await late
            for worker in cluster.workers.values():
                await until(lambda: worker.backend.open_connections == 0, "all closed")  # noqa: B023

    assert policy.wrong == []
    assert policy.asked == 3 * (3 * limit + 10)


async def test_who_handles_as_many_requests_as_it_may_gets_no_connection() -> None:
    """Also where they have come on connections that it had before: all go to the other."""
    settings = {"policy": "round_robin", "max_requests_in_flight": 3, **EXACT}
    async with serving(**settings) as (cluster, heard), AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await Client.connect(cluster)) for _ in range(6)]
        slots = [json.loads(await client.get("/who"))["slot"] for client in clients]
        for client, slot in zip(clients, slots, strict=True):
            if slot == 0:
                client.send("/hold")
        await heard.next(WorkerMessage, nth=3)
        busy = next(worker for worker in cluster.workers.values() if worker.slot == 0)

        assert [(await who_answers(cluster))["slot"] for _ in range(6)] == [1] * 6
        kill(busy.pid, signal.SIGUSR1)
        await until(lambda: busy.backend.has_room, "all are answered")
        assert {(await who_answers(cluster))["slot"] for _ in range(2)} == {0, 1}


async def test_a_worker_that_may_have_none_is_never_seen() -> None:
    """With max_connections=0 there is nothing to choose: who comes is turned away."""
    policy = Watchful()
    async with (
        serving(policy=policy, max_connections=0, when_full="503") as (cluster, _),
        Wire(url_of(cluster, "")) as wire,
    ):
        assert (await wire.get()).status == 503

    assert policy.asked == 0

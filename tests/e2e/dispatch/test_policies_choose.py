"""Who gets the next connection is what the policy says, for real connections and workers."""

import json
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from aiocluster import Role
from tests.support.choosing import EXACT, Failing, HighestSlot, counted, snapshot_where
from tests.support.cluster import (
    HTTP_APP,
    Client,
    kill,
    serving,
    serving_roles,
    who_answers,
)
from tests.support.mirror import MIRROR_APP, visitors
from tests.support.program import until

# ---- by name


@pytest.mark.parametrize(
    "policy",
    ["round_robin", "least_connections", "least_loaded", "weighted", "sticky", "shared"],
)
async def test_every_name_serves(policy: str) -> None:
    """With one worker and with several, before and after a reload."""
    for workers in (1, 3):
        async with serving(workers=workers, policy=policy, min_uptime=0.0) as (cluster, _):
            before = await counted(cluster, 12)
            await cluster.reload()
            after = await counted(cluster, 12)
        assert before.total() == after.total() == 12


async def test_round_robin_is_exact() -> None:
    """Each in turn."""
    async with serving(workers=3, **EXACT) as (cluster, _):
        assert await counted(cluster, 30) == {0: 10, 1: 10, 2: 10}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("weighted:3,1", {0: 30, 1: 10}), ("weighted", {0: 20, 1: 20}), ("weighted:0,1", {1: 40})],
)
async def test_weights_are_exact(policy: str, expected: dict[int, int]) -> None:
    """Three to one is three to one; without weights all are equal; weight 0 gets nothing."""
    async with serving(policy=policy, **EXACT) as (cluster, _):
        assert await counted(cluster, 40) == expected


async def test_weights_are_by_slot() -> None:
    """A worker that replaces another has its weight."""
    async with serving(policy="weighted:3,1", **EXACT) as (cluster, heard):
        worker = next(one for one in cluster.workers.values() if one.slot == 0)
        kill(worker.pid)
        await heard.replacement_of(worker)

        assert await counted(cluster, 40) == {0: 30, 1: 10}


async def test_least_connections_evens_out() -> None:
    """Once those of one worker have been closed, the next ones all go to it."""
    async with (
        serving(workers=2, policy="least_connections", **EXACT) as (cluster, _),
        AsyncExitStack() as kept,
    ):
        clients = [await Client.connect(cluster) for _ in range(20)]
        slots = [json.loads(await client.get("/who"))["slot"] for client in clients]
        assert Counter(slots) == {0: 10, 1: 10}
        for client, slot in zip(clients, slots, strict=True):
            if slot == 1:
                await client.__aexit__()
            else:
                kept.push_async_exit(client)
        emptied = next(one for one in cluster.workers.values() if one.slot == 1)
        await until(lambda: emptied.backend.open_connections == 0, "they are closed")

        more = [await kept.enter_async_context(await Client.connect(cluster)) for _ in range(10)]
        assert {json.loads(await client.get("/who"))["slot"] for client in more} == {1}
        last = [await kept.enter_async_context(await Client.connect(cluster)) for _ in range(4)]
        slots = [json.loads(await client.get("/who"))["slot"] for client in last]
        assert Counter(slots) == {0: 2, 1: 2}


async def test_least_loaded_passes_over_a_worker_that_is_blocked() -> None:
    """Of two the other one gets every connection, though nothing else keeps them from it."""
    async with serving(policy="least_loaded", **EXACT) as (cluster, _):
        async with await Client.connect(cluster) as client:
            blocked = cluster.workers[int(await client.get("/block"))]
            (other,) = {*cluster.workers.values()} - {blocked}
            for _ in range(30):
                # What one connection leaves is not to be seen by the choice for the next.
                await until(lambda: not other.backend.requests_in_flight, "it is answered")
                await until(lambda: not other.backend.open_connections, "it is closed")
                assert (await who_answers(cluster))["id"] == other.id
        kill(blocked.pid)


# ---- for each address, for each role


async def test_each_address_has_its_own_policy() -> None:
    """One that is not named has round robin."""
    bind = ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"]
    policy = {bind[0]: HighestSlot(), bind[1]: "weighted:3,1"}
    async with serving(bind=bind, policy=policy, **EXACT) as (cluster, _):
        assert await counted(cluster, 8, nth=1) == {1: 8}
        assert await counted(cluster, 8, nth=2) == {0: 6, 1: 2}
        assert await counted(cluster, 8, nth=3) == {0: 4, 1: 4}


async def test_each_role_has_its_own_policy() -> None:
    """And what is counted, is by role."""
    roles = {
        "web": Role(HTTP_APP, workers=2, bind="127.0.0.1:0", policy="weighted:3,1"),
        "admin": Role(HTTP_APP, workers=3, bind="127.0.0.1:0", policy=Failing(None)),
        "chat": Role(MIRROR_APP, workers=3, bind="127.0.0.1:0", policy="sticky:path:1"),
    }
    async with serving_roles(roles, **EXACT) as (cluster, _):
        assert await counted(cluster, 8, nth=1) == {0: 6, 1: 2}
        assert await counted(cluster, 9, nth=2) == {0: 3, 1: 3, 2: 3}
        client = visitors(cluster, 1, nth=3)[0]
        assert len({await client.visit() for _ in range(5)}) == 1
        dispatch = (await snapshot_where(cluster, lambda one: True)).dispatch

    failures = {role: counts.policy_failures for role, counts in dispatch.items()}
    assert failures == {"web": 0, "admin": 9, "chat": 0}

"""Who gets the next connection is what the policy says, for real connections and workers."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from aiocluster import Cluster, ConfigError, Role, Snapshot
from aiocluster.policies.base import C, Candidate
from aiocluster.primary.lifecycle import Phase
from tests.e2e.mirror import MIRROR_APP, visitors
from tests.support.cluster import (
    HTTP_APP,
    Client,
    kill,
    logged,
    serving,
    serving_roles,
    url_of,
    who_answers,
)
from tests.support.program import PATIENCE, Program, until

# However busy the machine, nobody is passed over for being slow: only the policy chooses.
EXACT = {"behind_after": 3600.0, "steal_after": 3600.0, "hang_timeout": 0.0, "lag_warning": 0.0}


async def counted(cluster: Cluster, count: int, *, nth: int = 1) -> Counter[int]:
    """Let so many connections come, one after the other; return how many each slot got."""
    url = url_of(cluster, "", nth=nth)
    return Counter([(await who_answers(url))["slot"] for _ in range(count)])


async def snapshot_where(cluster: Cluster, holds: Callable[[Snapshot], bool]) -> Snapshot:
    """Return the first snapshot for which `holds` is true."""
    async with asyncio.timeout(PATIENCE):
        async for snapshot in cluster.subscribe(0.05):
            if holds(snapshot):
                return snapshot
    raise AssertionError


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
        await until(lambda: emptied.outbox.open_connections == 0, "they are closed")

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
                await until(lambda: not other.outbox.requests_in_flight, "it is answered")
                await until(lambda: not other.outbox.open_connections, "it is closed")
                assert (await who_answers(cluster))["id"] == other.id
        kill(blocked.pid)


# ---- of one's own


class HighestSlot:
    """What a user may write."""

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        return candidates[-1]


@pytest.mark.parametrize("policy", [HighestSlot, HighestSlot()], ids=["class", "object"])
async def test_a_policy_of_one_s_own_chooses(policy: object) -> None:
    """Given as a class, or as an object of it."""
    async with serving(workers=3, policy=policy, **EXACT) as (cluster, _):
        assert await counted(cluster, 10) == {2: 10}


OWN = """
class SecondSlot:
    def choose(self, candidates, affinity):
        return candidates[1]

second = SecondSlot()
"""

APP = """
import os
from aiohttp import web
import aiocluster

async def slot(request):
    return web.Response(text=str(aiocluster.current_worker().slot))

def make_app():
    app = web.Application()
    app.router.add_get("/", slot)
    return app
"""


def command(folder: Path, *options: str) -> Program:
    """Return a program that is the command line, in a folder with an app and a policy."""
    line = ["-m", "aiocluster", "run", "app:make_app", "-w", "3", *options]
    program = Program(folder, command=[sys.executable, *line])
    program.write("app.py", APP)
    program.write("own.py", OWN)
    return program


@pytest.mark.parametrize("name", ["own:SecondSlot", "own:second"])
async def test_a_policy_is_imported_by_the_command_line(tmp_path: Path, name: str) -> None:
    """From a module of the current folder; and it still chooses after a reload."""
    options = ["--bind", "127.0.0.1:0", "--policy", name, "--behind-after", "3600"]
    async with command(tmp_path, *options) as program:
        url = await program.url()
        assert {await ask_slot(url) for _ in range(8)} == {"1"}
        assert await program.stop() == 0


async def ask_slot(url: str) -> str:
    async with await Client.connect(url) as client:
        return await client.get("/")


@pytest.mark.parametrize(
    ("policy", "code", "cause"),
    [
        ("fastest", 2, "policy: 'fastest' is not allowed"),
        ("rond_robin", 2, "did you mean 'round_robin'?"),
        ("weighted:3,x", 2, "weighted:3,x"),
        ("sticky:cookie", 2, "by='cookie' is not allowed"),
        ("127.0.0.1:9=sticky", 2, "127.0.0.1:9 is not among the addresses of bind"),
        # What only importing can show.
        ("own:Missing", 3, "has no 'Missing'"),
        ("nowhere:Policy", 3, "there is no module 'nowhere'"),
        ("own:__name__", 3, "policy: 'own' is not allowed"),
    ],
)
async def test_a_policy_that_is_none_ends_the_start(
    tmp_path: Path, policy: str, code: int, cause: str
) -> None:
    """With the value named, and no traceback."""
    async with command(tmp_path, "--bind", "127.0.0.1:0", "--policy", policy) as program:
        assert await program.exit_code() == code
        output = " ".join((await program.all_output()).split())

    assert cause in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("policy", "cause"),
    [
        ("fastest", "policy: 'fastest' is not allowed"),
        ({"127.0.0.1:1": "sticky"}, "policy: 127.0.0.1:1 is not among the addresses of bind"),
        ({"127.0.0.1:0": "fastest"}, "policy: 'fastest' is not allowed"),
        ({}, "policy: {} is not allowed"),
        (object(), "is not allowed"),
    ],
)
async def test_a_mistake_is_told_before_anything_starts(policy: object, cause: str) -> None:
    """A ConfigError that names the value."""
    with pytest.raises(ConfigError, match=cause.replace("{", r"\{")):
        async with serving(policy=policy):
            raise AssertionError


class Failing:
    """Raises, or answers with something that is no candidate."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def choose(self, candidates: Sequence[Any], affinity: bytes) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (RuntimeError("no idea"), "raised"),
        (None, "chose None"),
        (17, "chose 17"),
        ("worker 1", "chose 'worker 1'"),
    ],
    ids=["raises", "none", "number", "text"],
)
async def test_round_robin_chooses_where_a_policy_fails(
    caplog: pytest.LogCaptureFixture, answer: object, what: str
) -> None:
    """Every connection is served, and each failure is counted; a few of them are logged."""
    async with serving(workers=3, policy=Failing(answer), **EXACT) as (cluster, _):
        assert await counted(cluster, 30) == {0: 10, 1: 10, 2: 10}
        snapshot = await snapshot_where(cluster, lambda one: True)
        await logged(caplog, what)

    assert snapshot.dispatch["web"].policy_failures == 30
    assert 1 <= caplog.text.count("round robin chooses instead") <= 6


class FailingNowAndThen:
    """Chooses the first, but raises for each third connection."""

    def __init__(self) -> None:
        self.asked = 0

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        self.asked += 1
        if self.asked % 3 == 0:
            raise KeyError("third")
        return candidates[0]


async def test_a_policy_that_fails_once_is_asked_again() -> None:
    """Round robin chooses for that connection alone."""
    async with serving(workers=2, policy=FailingNowAndThen(), **EXACT) as (cluster, _):
        slots = [(await who_answers(cluster))["slot"] for _ in range(12)]

    assert slots == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]


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


# ---- who is never a candidate


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
    async with (
        serving(workers=3, policy=policy, max_connections=limit, **EXACT) as (cluster, _),
        AsyncExitStack() as stack,
    ):
        policy.cluster, policy.limit = cluster, limit
        for _ in range(3):
            clients = await asyncio.gather(*(Client.connect(cluster) for _ in range(3 * limit)))
            for client in clients:
                stack.push_async_exit(client)
            await asyncio.gather(*(client.get("/who") for client in clients))
            assert {one.outbox.open_connections for one in cluster.workers.values()} == {limit}
            for client in clients[1:]:
                await client.__aexit__()
            waiting = asyncio.gather(*(who_answers(cluster) for _ in range(10)))
            await waiting
            await clients[0].__aexit__()

    assert policy.wrong == []

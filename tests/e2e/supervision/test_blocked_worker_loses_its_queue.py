"""A connection that a blocked worker does not take is given to another, in time."""

import asyncio
import json
import logging
from pathlib import Path

import pytest

from aiocluster import Cluster
from tests.support.cluster import Client, ask, first, kill, serving
from tests.support.program import until

# It is blocked for good, and nobody replaces it: who waits for it would wait for ever. What is
# given to it goes to others as it does where nothing else is asked for.
FOR_GOOD = {"hang_timeout": 0, "lag_warning": 0, "behind_after": 0.05, "steal_after": 0.25}


async def _who(cluster: Cluster) -> int:
    answer: int = json.loads(await ask(cluster, "/who"))["id"]
    return answer


# node: E3
@pytest.mark.parametrize("workers", [2, 4])
async def test_requests_one_by_one_are_all_answered_by_the_others(workers: int) -> None:
    """Also those that were given to the blocked worker before anybody could know."""
    async with (
        serving(workers=workers, **FOR_GOOD) as (cluster, _heard),
        await Client.connect(cluster) as blocker,
    ):
        blocked = int(await blocker.get("/block"))
        answers, longest = [], 0.0
        for _ in range(40):
            began = asyncio.get_running_loop().time()
            answers.append(await _who(cluster))
            longest = max(longest, asyncio.get_running_loop().time() - began)
        kill(cluster.workers[blocked].pid)

    assert blocked not in answers
    assert len({*answers}) == workers - 1
    assert longest < 4.0  # 0.25 on a machine that has nothing else to do


# node: E3
async def test_a_burst_is_answered_by_the_other(caplog: pytest.LogCaptureFixture) -> None:
    """Half of it had been given to the blocked worker: told once, with their number."""
    caplog.set_level(logging.INFO, "aiocluster.watchdog")
    async with (
        serving(**FOR_GOOD | {"behind_after": 3600.0}) as (cluster, _heard),
        await Client.connect(cluster) as blocker,
    ):
        blocked = int(await blocker.get("/block"))
        answers = await asyncio.gather(*(_who(cluster) for _ in range(40)))
        kill(cluster.workers[blocked].pid)

    assert blocked not in answers
    assert len(answers) == 40
    (told,) = (record.message for record in caplog.records if "go to others" in record.message)
    assert told.startswith(f"20 connections that worker {blocked} (pid ")


async def test_what_all_hold_up_goes_to_the_first_that_turns_again(tmp_path: Path) -> None:
    """While all are blocked their clients wait where they are; nobody is lost."""
    shared_listener = tmp_path / "gate"
    async with (
        serving(**FOR_GOOD) as (cluster, _heard),
        await Client.connect(cluster) as one,
        await Client.connect(cluster) as other,
    ):
        blocked = int(await one.get("/block"))
        freed = int(await other.get(f"/block_until?path={shared_listener}"))
        clients = [asyncio.create_task(_who(cluster)) for _ in range(10)]
        workers = cluster.workers.values()
        await until(lambda: sum(w.backend.queued for w in workers) == 10, "clients do not wait")
        shared_listener.touch()
        answers = await asyncio.gather(*clients)
        kill(cluster.workers[blocked].pid)

    assert blocked != freed
    assert answers == [freed] * 10


async def test_a_worker_that_turns_again_gets_its_share_again(tmp_path: Path) -> None:
    """What was held against it ends with its next turn."""
    shared_listener = tmp_path / "gate"
    async with (
        serving(**FOR_GOOD) as (cluster, _heard),
        await Client.connect(cluster) as blocker,
    ):
        blocked = int(await blocker.get(f"/block_until?path={shared_listener}"))
        assert await _who(cluster) != blocked
        assert await _who(cluster) != blocked
        shared_listener.touch()
        backend = cluster.workers[blocked].backend
        await until(lambda: not backend.is_stuck, "it is still passed over")
        answers = [await _who(cluster) for _ in range(10)]

    assert answers.count(blocked) == 5


async def test_a_single_blocked_worker_serves_what_waited(tmp_path: Path) -> None:
    """Nobody else is there: the connections stay, and looking at them spins nowhere."""
    shared_listener = tmp_path / "gate"
    async with (
        serving(workers=1, **FOR_GOOD) as (cluster, _heard),
        await Client.connect(cluster) as blocker,
    ):
        await blocker.get(f"/block_until?path={shared_listener}")
        clients = [asyncio.create_task(_who(cluster)) for _ in range(5)]
        await until(lambda: first(cluster).backend.is_stuck, "it is not seen")
        shared_listener.touch()

        assert await asyncio.gather(*clients) == [first(cluster).id] * 5

"""A connection that a dead worker had not taken is somebody else's, and nobody hangs."""

import asyncio
import json

from tests.support.cluster import HTTP_APP, Client, ask, first, kill, serving, url_of
from tests.support.program import until


async def test_clients_sent_to_a_blocked_worker_are_answered_after_its_death() -> None:
    """Six clients wait at a blocked worker; it is killed; all six are answered."""
    async with (
        serving() as (cluster, heard),
        await Client.connect(cluster) as blocker,
    ):
        blocked = cluster.workers[int(await blocker.get("/block"))]
        clients = [asyncio.create_task(ask(cluster, "/who")) for _ in range(12)]
        await until(lambda: blocked.backend.queued == 6, "the blocked worker got no clients")
        kill(blocked.pid)
        answers = [json.loads(answer)["id"] for answer in await asyncio.gather(*clients)]
        await heard.exit_of(blocked)
        await heard.replacement_of(blocked)

    assert len(answers) == 12
    assert blocked.id not in answers


# node: E4
async def test_all_workers_die_at_once_and_waiting_clients_are_served() -> None:
    """Every worker is blocked and killed; who waits is served by the replacements."""
    async with serving() as (cluster, _heard):
        dead = [*cluster.workers.values()]
        blockers = [await Client.connect(cluster) for _ in dead]
        assert {int(await blocker.get("/block")) for blocker in blockers} == {1, 2}
        clients = [asyncio.create_task(ask(cluster, "/who")) for _ in range(10)]
        await until(
            lambda: sum(worker.backend.queued for worker in dead) == 10, "clients do not wait"
        )
        for worker in dead:
            kill(worker.pid)
        answers = {json.loads(answer)["id"] for answer in await asyncio.gather(*clients)}
        for blocker in blockers:
            await blocker.closed()
            await blocker.__aexit__()

    assert answers <= {3, 4}


async def test_the_client_of_a_killed_worker_sees_the_end_of_its_connection() -> None:
    """A connection in the middle of a request dies with its worker, at once, not by a timeout."""
    async with serving() as (cluster, heard), await Client.connect(cluster) as client:
        client.send("/hold")
        await heard.message(lambda message: message == "holding")
        (dead,) = {event.worker for event in heard.about_workers()}
        kill(dead.pid)
        await client.closed()


async def test_clients_that_come_while_no_worker_lives_wait_for_one() -> None:
    """With one worker, killed again and again, each client in between is answered."""
    async with serving(HTTP_APP, workers=1, max_failures=100) as (cluster, heard):
        for _ in range(5):
            worker = first(cluster)
            kill(worker.pid)
            assert json.loads(await ask(url_of(cluster, ""), "/who"))["id"] > worker.id
            await heard.replacement_of(worker)

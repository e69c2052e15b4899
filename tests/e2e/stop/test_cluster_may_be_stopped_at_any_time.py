"""A Cluster that is stopped before it is up, or while something else is asked of it."""

import asyncio

import pytest

from aiocluster import BootError, Cluster, ClusterStopping, WorkerForked
from tests.support.cluster import HTTP_APP, serving


@pytest.mark.parametrize("kind", [None, WorkerForked])
async def test_a_stop_during_the_start_ends_it(kind: type[WorkerForked] | None) -> None:
    """Whoever starts it hears so; nothing is left that nobody would stop."""
    cluster = Cluster(HTTP_APP, workers=2, bind="127.0.0.1:0")
    reached = asyncio.Event()
    if kind is None:
        reached.set()
    else:
        cluster.on(kind, lambda event: reached.set())
    starting = asyncio.create_task(cluster.start())
    await reached.wait()
    await asyncio.sleep(0)

    await cluster.stop(0)

    with pytest.raises(BootError):
        await starting
    assert cluster.workers == {}


async def test_a_fork_during_the_stop_fails() -> None:
    """With an error of ours, and not as if its caller had been cancelled."""
    async with serving() as (cluster, _):
        forking = [asyncio.create_task(cluster.fork()) for _ in range(3)]
        await asyncio.sleep(0)
        await cluster.stop()
        for result in await asyncio.gather(*forking, return_exceptions=True):
            assert not isinstance(result, BaseException) or isinstance(result, ClusterStopping)


async def test_who_subscribes_is_let_go_at_the_stop() -> None:
    """Events and snapshots end; nobody waits for what cannot come."""
    async with serving() as (cluster, _):

        async def count_snapshots() -> int:
            return len([snapshot async for snapshot in cluster.subscribe(0.05)])

        async def count_events() -> int:
            return len([event async for event in cluster.events()])

        counting = [asyncio.create_task(count_snapshots()), asyncio.create_task(count_events())]
        async for _ in cluster.subscribe(0.05):
            break
        await cluster.stop()
        snapshots, events = await asyncio.wait_for(asyncio.gather(*counting), 60)

    assert snapshots >= 1
    assert events >= 2

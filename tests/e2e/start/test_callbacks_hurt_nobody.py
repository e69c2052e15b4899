"""What a subscriber of events does wrong is logged, and hurts neither the cluster nor others."""

import asyncio

import pytest

from aiocluster import Cluster, EventsMissed, WorkerExited, WorkerForked, WorkerMessage
from tests.support.cluster import ask, first, kill, logged, serving
from tests.support.program import PATIENCE


async def test_a_callback_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The worker is replaced all the same, and callbacks after it hear the event."""
    heard_after: list[WorkerExited] = []

    def fail(event: WorkerExited) -> None:
        raise RuntimeError("a bad callback")

    async with serving() as (cluster, heard):
        cluster.on(WorkerExited, fail)
        cluster.on(WorkerExited, heard_after.append)
        dead = first(cluster)
        kill(dead.pid)
        await heard.replacement_of(dead)
        assert [event.worker for event in heard_after] == [dead]

    assert "a callback for WorkerExited raised" in caplog.text
    assert "RuntimeError: a bad callback" in caplog.text


async def test_a_coroutine_callback_that_raises_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A coroutine function runs as a task; its failure is told too."""

    async def fail(event: WorkerExited) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("a bad coroutine")

    async with serving() as (cluster, heard):
        cluster.on(WorkerExited, fail)
        dead = first(cluster)
        kill(dead.pid)
        await heard.replacement_of(dead)
        await logged(caplog, "RuntimeError: a bad coroutine")


async def test_a_coroutine_callback_may_wait_for_the_cluster() -> None:
    """A callback can ask the cluster for more: here, a worker for each that died."""
    added: asyncio.Queue[int] = asyncio.Queue()

    async with serving(restart="never") as (cluster, _):

        async def fork_another(event: WorkerExited) -> None:
            added.put_nowait((await cluster.fork()).id)

        off = cluster.on(WorkerExited, fork_another)
        kill(first(cluster).pid)
        async with asyncio.timeout(PATIENCE):
            assert await added.get() == 3
        off()


async def test_on_returns_what_takes_the_callback_off() -> None:
    """After `off()` it hears nothing more; `off()` may be called twice."""
    heard_forks: list[WorkerForked] = []
    async with serving(workers=1) as (cluster, heard):
        off = cluster.on(WorkerForked, heard_forks.append)
        one = await cluster.fork()
        off()
        off()
        two = await cluster.fork()
        await heard.next(WorkerForked, lambda event: event.worker is two)

    assert [event.worker for event in heard_forks] == [one]


async def test_a_callback_hears_its_kind_only_and_the_root_all() -> None:
    """`on(Event, ...)` hears everything, `on(WorkerMessage, ...)` messages alone."""
    messages: list[WorkerMessage] = []
    async with serving(workers=1) as (cluster, heard):
        cluster.on(WorkerMessage, messages.append)
        await ask(cluster, "/tell/hello")
        await heard.message()
        kill(first(cluster).pid)
        await heard.next(WorkerExited)

    assert [event.message for event in messages] == ["hello"]


async def test_iterators_end_with_the_cluster() -> None:
    """Each iterator has every event from when it was made, and stops after the last."""

    async def kinds(cluster: Cluster) -> list[str]:
        return [type(event).__name__ async for event in cluster.events()]

    async with serving() as (cluster, _):
        listeners = [asyncio.create_task(kinds(cluster)) for _ in range(2)]
        await asyncio.sleep(0)
        await cluster.fork()
    one, two = await asyncio.gather(*listeners)

    assert one == two
    assert one[0] == "WorkerForked"
    assert one.count("WorkerExited") == 3
    assert one[-1] == "WorkerExited"


async def test_an_iterator_that_is_not_read_has_events_from_its_making() -> None:
    """What happened between `events()` and the first `anext` is not lost."""
    async with serving(workers=1) as (cluster, heard):
        events = cluster.events()
        added = await cluster.fork()
        await heard.next(WorkerForked)
        event = await anext(events)
        assert not isinstance(event, EventsMissed)

    assert isinstance(event, WorkerForked)
    assert event.worker is added

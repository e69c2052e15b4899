"""The number of workers follows a real load, within its bounds, and says why."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from aiocluster import (
    Autoscale,
    Cluster,
    ConfigError,
    Scaled,
    Snapshot,
    WorkerExited,
    WorkerMessage,
)
from tests.support.cluster import Heard, ask, first, kill, logged, serving, url_of
from tests.support.program import PATIENCE
from tests.support.wire import Wire

# A look at the load is taken each second: with these each of them may decide.
AT_ONCE: dict[str, Any] = {"up_after": 0, "down_after": 0, "cooldown": 0}
SETTINGS: dict[str, Any] = {"metrics_interval": 0.05, "graceful_timeout": 3600.0}


def by_requests(low: int, high: int, **more: Any) -> dict[str, Any]:
    """Settings by which a worker is for two requests at a time."""
    autoscale = Autoscale(low, high, metric="in_flight", target=2, **{**AT_ONCE, **more})
    return {"autoscale": autoscale, "workers": low, **SETTINGS}


def by(load: Callable[[], float], low: int, high: int) -> dict[str, Any]:
    """Settings by which all workers together have this load, and one is for 1."""

    def metric(snapshot: Snapshot) -> float:
        return load() / len(snapshot.workers)

    return {
        "autoscale": Autoscale(low, high, metric=metric, target=1, **AT_ONCE),
        "workers": low,
        **SETTINGS,
    }


@asynccontextmanager
async def burst(cluster: Cluster, heard: Heard, count: int) -> AsyncIterator[list[Wire]]:
    """So many requests, which last until they are released."""
    before = len(heard.of_kind(WorkerMessage))
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(Wire(url_of(cluster))) for _ in range(count)]
        for wire in wires:
            await wire.ask("/hold")
        await heard.next(WorkerMessage, nth=before + count)
        yield wires


async def release(heard: Heard, wires: list[Wire]) -> None:
    """Let all be answered; each is."""
    for pid in {event.worker.pid for event in heard.of_kind(WorkerMessage)}:
        kill(pid, signal.SIGUSR1)
    assert {(await wire.response()).body for wire in wires} == {b"released"}


async def decided(heard: Heard, *counts: int) -> list[Scaled]:
    """Wait for as many decisions, which must be these and no more; return them."""
    if counts:
        await heard.next(Scaled, nth=len(counts))
    decisions = heard.of_kind(Scaled)
    assert [event.workers for event in decisions] == [*counts], decisions
    return decisions


async def looks(cluster: Cluster, count: int) -> None:
    """Wait until the load has been looked at so often."""
    async with asyncio.timeout(PATIENCE):
        snapshots = cluster.subscribe(1.0)
        for _ in range(count + 1):  # the first comes at once
            await anext(snapshots)


async def test_up_with_a_burst_and_down_after_it() -> None:
    """Eight requests are for four workers; then one is enough. None of them is lost."""
    async with serving(**by_requests(1, 8)) as (cluster, heard):
        async with burst(cluster, heard, 8) as wires:
            await decided(heard, 2, 4)
            await looks(cluster, 2)
            await release(heard, wires)
        decisions = await decided(heard, 2, 4, 2, 1)
        await heard.next(WorkerExited, nth=3)
        await looks(cluster, 2)
        assert [worker.slot for worker in cluster.workers.values()] == [0]
        await decided(heard, 2, 4, 2, 1)
        ends = heard.of_kind(WorkerExited)

    assert [event.before for event in decisions] == [1, 2, 4, 2]
    for event in decisions[:2]:
        assert "in_flight" in event.reason
        assert "over 2" in event.reason
    for event in decisions[2:]:
        assert "under 2" in event.reason
    assert [(end.code, end.reason) for end in ends] == [(0, "scale_down")] * 3


async def test_the_bounds_are_kept() -> None:
    """Whatever the load."""
    async with serving(**by_requests(2, 3)) as (cluster, heard):
        async with burst(cluster, heard, 30) as wires:
            await decided(heard, 3)
            await looks(cluster, 2)
            await release(heard, wires)
        await decided(heard, 3, 2)
        await looks(cluster, 2)
        await decided(heard, 3, 2)


async def test_a_load_that_does_not_last_changes_nothing() -> None:
    """Up only after `up_after` seconds of it, down only after `down_after`."""
    settings = by_requests(1, 8, up_after=1000, down_after=1000)
    async with serving(**settings) as (cluster, heard), burst(cluster, heard, 8) as wires:
        await looks(cluster, 2)
        await release(heard, wires)
        await looks(cluster, 2)
        await decided(heard)


async def test_after_a_decision_it_rests() -> None:
    """However much more there is to do, until `cooldown` is over."""
    settings = by_requests(1, 8, cooldown=1000)
    async with serving(**settings) as (cluster, heard), burst(cluster, heard, 8) as wires:
        await decided(heard, 2)
        await looks(cluster, 2)
        await release(heard, wires)
        await looks(cluster, 2)
        await decided(heard, 2)


async def test_a_function_may_be_the_metric() -> None:
    """It is given the snapshot of the workers that have figures, and says the load of one."""
    load = 3.0
    async with serving(**by(lambda: load, 1, 8)) as (_, heard):
        decisions = await decided(heard, 2, 3)
        load = 0.5
        await decided(heard, 2, 3, 2, 1)

    assert "metric 3 over 1" in decisions[0].reason


@pytest.mark.parametrize("nonsense", [float("nan"), -1.0, "many", None])
async def test_a_metric_that_fails_decides_nothing(
    nonsense: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """That is logged once, and when it is well again it is obeyed."""
    load: Any = nonsense

    def metric(snapshot: Snapshot) -> Any:
        return load

    scale = Autoscale(1, 2, metric=metric, target=1, **AT_ONCE)
    async with serving(workers=1, autoscale=scale, **SETTINGS) as (cluster, heard):
        await logged(caplog, "no scaling: autoscale metric metric must return a finite number")
        await looks(cluster, 2)
        await decided(heard)
        load = 5.0
        await decided(heard, 2)

    assert caplog.text.count("no scaling") == 1


async def test_the_cpu_may_be_the_metric() -> None:
    """Clients that ask without a pause need more than a hundredth of a core."""
    scale = Autoscale(1, 2, target=1.0, up_after=0)
    async with serving(workers=1, autoscale=scale, **SETTINGS) as (cluster, heard):

        async def ask_on() -> None:
            while True:
                await ask(cluster, "/who")

        asking = asyncio.create_task(ask_on())
        (decision,) = await decided(heard, 2)
        asking.cancel()

    assert "cpu" in decision.reason
    assert "over 1%" in decision.reason.replace(" %", "%")


async def test_it_begins_within_the_bounds_and_comes_back_to_them() -> None:
    """Nobody scales it beyond them; what is forked beside them is one too many."""
    async with serving(**{**by(lambda: 2.0, 2, 3), "workers": 1}) as (cluster, heard):
        assert len(cluster.workers) == 2
        for beyond in (1, 4):
            with pytest.raises(ConfigError, match="give 2 to 3, the bounds of autoscale"):
                await cluster.scale(beyond)
        await cluster.scale(3)
        await cluster.fork()
        down = await heard.next(Scaled, lambda event: event.before == 4)
        assert (down.workers, down.reason) == (3, "more than max=3: 4 -> 3 workers")


async def test_workers_that_cannot_boot_are_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While those that are there serve."""
    app = "tests.support.apps:make_app_unless_told_to_crash"
    settings = {**by(lambda: 2.0, 1, 2), "env": {1: {"RAISE": "1"}}}
    async with serving(app, **settings) as (cluster, heard):
        await heard.next(Scaled, nth=2)
        assert await ask(cluster, "/env/RAISE") == "not set"
        await logged(caplog, "role web: no more workers than before")
        assert (first(cluster).slot, first(cluster).restarts) == (0, 0)


async def test_one_that_dies_is_replaced_as_ever() -> None:
    """That is no question of the load."""
    async with serving(**by(lambda: 2.0, 2, 4)) as (cluster, heard):
        worker = first(cluster)
        kill(worker.pid)
        await heard.replacement_of(worker)
        await looks(cluster, 2)
        await decided(heard)

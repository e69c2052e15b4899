"""Snapshots of the metrics: everywhere one can subscribe, whole, exact, never backwards."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aiocluster import Cluster, ConfigError, Snapshot
from tests.support.cluster import (
    OBEDIENT_APP,
    Client,
    ask,
    end,
    first,
    kill,
    program_of,
    serving,
)
from tests.support.program import PATIENCE

OFTEN = 0.05


async def snapshot_where(
    snapshots: AsyncGenerator[Snapshot, None], accept: Callable[[Snapshot], bool]
) -> Snapshot:
    """Return the first snapshot that `accept` takes."""
    async with asyncio.timeout(PATIENCE):
        async for snapshot in snapshots:
            if accept(snapshot):
                return snapshot
    raise AssertionError


async def settled(cluster: Cluster, requests: int) -> Snapshot:
    """Return the first snapshot in which so many requests are done and reported."""
    return await snapshot_where(
        cluster.subscribe(OFTEN),
        lambda snapshot: (
            snapshot.total.latency.count >= requests and snapshot.total.requests_in_flight == 0
        ),
    )


async def test_a_snapshot_has_all_figures_of_each_worker_and_of_all() -> None:
    """Each figure is there and makes sense, for a cluster that served ten requests."""
    began = time.time()
    async with serving(metrics_interval=OFTEN) as (cluster, _):
        for _ in range(10):
            await ask(cluster, "/who")
        snapshot = await settled(cluster, 10)
        pids = {worker.pid for worker in cluster.workers.values()}

    assert began <= snapshot.time <= time.time()
    assert snapshot.interval > 0
    assert snapshot.missed >= 0
    assert set(snapshot.workers) == {1, 2}
    assert {worker.pid for worker in snapshot.workers.values()} == pids
    for worker_id, worker in snapshot.workers.items():
        assert (worker.worker_id, worker.slot) == (worker_id, worker_id - 1)
        assert (worker.role, worker.phase, worker.generation) == ("web", "ready", 1)
        assert worker.requests_total == 5
        assert worker.connections_total == 5
        assert 0 < worker.latency.p50 <= worker.latency.p90 <= worker.latency.p99
        assert worker.latency.p99 <= worker.latency.p999 < PATIENCE
    for figures in (snapshot.total, *snapshot.workers.values()):
        assert figures.rss_bytes > 1_000_000
        assert figures.pss_bytes > 0
        assert figures.loop_lag_max >= figures.loop_lag_mean >= 0
        assert figures.cpu_percent >= 0
        assert figures.uptime > 0
        assert figures.restarts == 0
    assert snapshot.total.requests_total == 10
    assert snapshot.total.latency.count == 10


async def test_requests_and_errors_are_counted_exactly_by_class() -> None:
    """Seven 200, three 302, four 404, two 503, whatever worker served them."""
    asked = [200] * 7 + [302] * 3 + [404] * 4 + [503] * 2
    async with serving(workers=3, metrics_interval=OFTEN) as (cluster, _):
        await asyncio.gather(*(_ask_status(cluster, status) for status in asked))
        snapshot = await settled(cluster, len(asked))

    assert snapshot.total.requests_total == 16
    assert snapshot.total.responses == {"1xx": 0, "2xx": 7, "3xx": 3, "4xx": 4, "5xx": 2}
    assert snapshot.total.errors == {"4xx": 4, "5xx": 2}
    assert sum(worker.requests_total for worker in snapshot.workers.values()) == 16


async def _ask_status(cluster: Cluster, status: int) -> None:
    async with await Client.connect(cluster) as client:
        client.send(f"/status/{status}")
        await client.answer()


async def test_latency_is_what_the_client_sees_too() -> None:
    """For a handler that waits 30 ms p50 is no less, and not far from what the client measured."""
    seen: list[float] = []
    async with serving(workers=1, metrics_interval=OFTEN) as (cluster, _):
        async with await Client.connect(cluster) as client:
            for _ in range(11):
                began = time.perf_counter()
                await client.get("/wait/30")
                seen.append(time.perf_counter() - began)
        snapshot = await settled(cluster, 11)

    # A timer may fire a millisecond early. And the worker's clock may stop after its client's,
    # when it is not scheduled in between, but not after the next answer.
    assert 0.029 * 0.97 <= snapshot.total.latency.p50 <= 2 * max(seen) * 1.03


async def test_open_connections_and_requests_in_flight_are_those_of_now() -> None:
    """Five clients hold a request each, then are answered, then leave."""
    async with serving(metrics_interval=OFTEN, keepalive_timeout=3600) as (cluster, _heard):
        snapshots = cluster.subscribe(OFTEN)
        clients = [await Client.connect(cluster) for _ in range(5)]
        for client in clients:
            client.send("/hold")
        held = await snapshot_where(snapshots, lambda s: s.total.requests_in_flight == 5)
        for _ in cluster.workers:
            await ask(cluster, "/release")
        for client in clients:
            await client.answer()
        idle = await snapshot_where(snapshots, lambda s: s.total.requests_in_flight == 0)
        for client in clients:
            await client.__aexit__()
        left = await snapshot_where(snapshots, lambda s: s.total.connections_open == 0)

    assert held.total.connections_open == 5
    assert idle.total.connections_open >= 5
    assert left.total.connections_total == 7


async def test_totals_never_go_backwards_when_workers_are_killed() -> None:
    """SIGKILL after SIGKILL under load: each total of each snapshot is no less than before."""
    async with serving(metrics_interval=OFTEN, max_failures=100) as (cluster, heard):
        snapshots: list[Snapshot] = []

        async def watch() -> None:
            async for snapshot in cluster.subscribe(0.005):
                snapshots.append(snapshot)  # noqa: PERF401 (read before it ends)

        watching = asyncio.create_task(watch())
        for _ in range(6):
            for _ in range(10):
                await ask(cluster, "/who")
            worker = first(cluster)
            kill(worker.pid)
            await heard.replacement_of(worker)
        last = await settled(cluster, 0)
        watching.cancel()
        await asyncio.wait({watching})

    assert len(snapshots) > 6
    assert last.total.requests_total == 60
    assert last.total.restarts == 6
    for earlier, later in pairwise(snapshots):
        for name in ("requests_total", "connections_total", "restarts", "uptime"):
            assert getattr(later.total, name) >= getattr(earlier.total, name), name
        for kind, count in earlier.total.responses.items():
            assert later.total.responses[kind] >= count


async def test_the_request_that_killed_its_worker_is_counted() -> None:
    """A request that was begun counts, though nobody answered it; its slot's restarts too."""
    async with serving(workers=1, metrics_interval=OFTEN) as (cluster, heard):
        dead = await end(cluster, "/end/kill")
        replacement = await heard.replacement_of(dead)
        snapshot = await settled(cluster, 0)

    assert set(snapshot.workers) == {replacement.id}
    assert snapshot.workers[replacement.id].restarts == 1
    assert snapshot.workers[replacement.id].requests_total == 0
    assert snapshot.total.requests_total == 2
    assert snapshot.total.connections_open == 0


async def test_a_slow_subscriber_gets_the_newest_and_the_count_of_those_it_missed() -> None:
    """Nothing is queued for it: after a pause it sees the state of now, and what it missed."""
    async with serving(workers=1, metrics_interval=OFTEN) as (cluster, _):
        slow, quick = cluster.subscribe(0.01), cluster.subscribe(0.01)
        before = await anext(slow)
        for _ in range(10):
            await anext(quick)
            await ask(cluster, "/who")
        after = await anext(slow)

    assert before.total.requests_total == 0
    assert after.total.requests_total == 10
    assert after.missed >= 8
    assert after.interval >= (after.missed + 1) * 0.01 * 0.9


async def test_on_start_may_subscribe(tmp_path: Path) -> None:
    """A program reads snapshots in the function it gave as on_start.

    What the program has imported is nothing that the collector looks through meanwhile.
    """
    (tmp_path / "own.py").write_text(
        "import gc\n"
        "async def watch(cluster):\n"
        "    async for snapshot in cluster.subscribe(0.05):\n"
        "        if snapshot.total.requests_total == 3:\n"
        "            frozen = gc.get_freeze_count() > len(gc.get_objects())\n"
        "            print('three requests by', sorted(snapshot.workers), frozen)\n"
        "            return\n"
    )
    async with program_of(tmp_path, more="from own import watch as on_start") as program:
        url = (await program.url()).rstrip("/")
        for _ in range(3):
            await ask(url, "/who")
        line = await program.line("three requests by")
        assert await program.stop() == 0

    assert line == "three requests by [1, 2] True"


async def test_a_worker_may_subscribe_to_the_whole_cluster() -> None:
    """In a worker: all workers' figures, at the interval it asked for."""
    async with serving(OBEDIENT_APP, workers=3, metrics_interval=OFTEN) as (cluster, heard):
        for _ in range(4):
            await ask(cluster, "/who")
        await first(cluster).send(["subscribe", 0.05, 3])
        await heard.message(lambda message: len(heard.messages(first(cluster))) == 3)
        messages = heard.messages(first(cluster))

    for name, missed, interval, workers, requests, rss_bytes in messages:
        assert name == "snapshot"
        assert missed >= 0
        assert interval > 0
        assert workers == [1, 2, 3]
        assert requests == 4
        assert rss_bytes >= 0


async def test_a_bad_interval_is_refused_when_it_is_given() -> None:
    """ConfigError names the value, at `subscribe`, not at the first snapshot."""
    bad: list[Any] = [0, -1, float("nan"), float("inf"), "1", None]
    async with serving(workers=1) as (cluster, _):
        for interval in bad:
            with pytest.raises(ConfigError, match=f"interval .*{interval!r}"):
                cluster.subscribe(interval)


async def test_a_bad_interval_in_a_worker_is_refused_too() -> None:
    """The same error at the other end."""
    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):
        await first(cluster).send(["subscribe_badly"])
        _, error = await heard.message()

    assert "interval" in error
    assert "0" in error


async def test_a_snapshot_is_plain_data() -> None:
    """It can be written as JSON and read back, for who sends it elsewhere."""
    async with serving(workers=1, metrics_interval=OFTEN) as (cluster, _):
        snapshot = await anext(cluster.subscribe(OFTEN))

    assert msgspec.json.decode(msgspec.json.encode(snapshot), type=Snapshot) == snapshot

"""The totals of roles, beside that of the whole cluster."""

from typing import Any

import msgspec
import pytest

from aiocluster.metrics.aggregator import WorkerFacts
from aiocluster.metrics.instruments import bucket_of
from aiocluster.metrics.role_aggregators import RoleAggregators, RoleAggregatorsState
from aiocluster.metrics.snapshot import Counters, Dispatch, Metrics, Report, Snapshot

START = 100.0
MS = 1_000_000


def worker(
    worker_id: int, role: str, *, slot: int = 0, restarts: int = 0, **counters: int
) -> WorkerFacts:
    return WorkerFacts(
        worker_id=worker_id,
        slot=slot,
        role=role,
        generation=1,
        pid=4000 + worker_id,
        phase="ready",
        started_at=START,
        restarts=restarts,
        counters=Counters(**counters),
    )


def look(
    aggregators: RoleAggregators, *workers: WorkerFacts, now: float = 110.0, **more: Any
) -> Snapshot:
    known: dict[str, Any] = {"dispatch": {}}
    return aggregators.snapshot(workers, now=now, wall=1.7e9 + now, **known | more)


def took(milliseconds: int, times: int = 1) -> Report:
    return Report(latency={bucket_of(milliseconds * MS): times})


def each(snapshot: Snapshot, figure: str) -> tuple[Any, Any, Any]:
    """Return a figure of all, of the role web, and of the role jobs."""
    totals: tuple[Metrics, ...] = (snapshot.total, snapshot.roles["web"], snapshot.roles["jobs"])
    of_all, of_web, of_jobs = (getattr(total, figure) for total in totals)
    return of_all, of_web, of_jobs


@pytest.fixture
def aggregators() -> RoleAggregators:
    return RoleAggregators(START, ["web", "jobs"])


def test_each_role_has_the_total_of_its_own_workers(aggregators: RoleAggregators) -> None:
    """Beside that of all; each worker is listed once."""
    aggregators.report(1, "web", Report(cpu_percent=30.0, rss_bytes=10), now=105.0)
    aggregators.report(2, "jobs", Report(cpu_percent=50.0, rss_bytes=5), now=105.0)

    snapshot = look(
        aggregators,
        worker(1, "web", connections_open=2, requests_begun=30, requests_done=29),
        worker(2, "jobs", requests_begun=10, requests_done=8),
        worker(3, "web", slot=1, connections_open=1, requests_begun=20, requests_done=20),
    )

    assert {*snapshot.roles} == {"web", "jobs"}
    assert [*snapshot.workers] == [1, 2, 3]
    assert each(snapshot, "connections_open") == (3, 3, 0)
    assert each(snapshot, "requests_total") == (60, 50, 10)
    assert each(snapshot, "requests_in_flight") == (3, 1, 2)
    assert each(snapshot, "requests_per_second") == (6.0, 5.0, 1.0)
    assert each(snapshot, "cpu_percent") == (80.0, 30.0, 50.0)
    assert each(snapshot, "rss_bytes") == (15, 10, 5)
    assert each(snapshot, "uptime") == (10.0, 10.0, 10.0)


def test_a_roles_latency_is_of_its_own_requests(aggregators: RoleAggregators) -> None:
    """The percentiles of one role say nothing about those of another, nor of all."""
    aggregators.report(1, "web", took(2, times=98), now=105.0)
    aggregators.report(2, "jobs", took(500, times=2), now=105.0)

    latencies = each(look(aggregators, worker(1, "web"), worker(2, "jobs")), "latency")

    assert [one.count for one in latencies] == [100, 98, 2]
    assert [one.p50 for one in latencies] == pytest.approx([0.002, 0.002, 0.5], rel=0.02)
    assert [one.p99 for one in latencies] == pytest.approx([0.5, 0.002, 0.5], rel=0.02)


def test_slots_of_two_roles_are_not_the_same(aggregators: RoleAggregators) -> None:
    """Each role counts its slots from 0, and its restarts by itself."""
    snapshot = look(aggregators, worker(1, "web", restarts=2), worker(2, "jobs", restarts=3))

    assert each(snapshot, "restarts") == (5, 2, 3)


def test_a_role_without_workers_has_figures_too(aggregators: RoleAggregators) -> None:
    """Before the first has come, and while none is left."""
    snapshot = look(aggregators, worker(1, "web", requests_begun=10))

    assert each(snapshot, "requests_total") == (10, 10, 0)


def test_of_one_role_the_total_is_that_of_all() -> None:
    """The very object: it is neither counted nor kept twice."""
    aggregators = RoleAggregators(START, ["web"])
    aggregators.report(1, "web", took(2), now=105.0)

    snapshot = look(aggregators, worker(1, "web", requests_begun=10))

    assert [*snapshot.roles] == ["web"]
    assert snapshot.roles["web"] is snapshot.total


def test_what_a_dead_worker_had_done_stays_with_its_role(aggregators: RoleAggregators) -> None:
    """Told twice it counts once; its last report may come later still."""
    for _ in range(2):
        aggregators.retire(2, "jobs", Counters(connections_open=1, requests_begun=20))
    aggregators.report(2, "jobs", took(2), now=105.0)

    snapshot = look(aggregators, worker(1, "web", requests_begun=4, requests_done=4))

    assert [*snapshot.workers] == [1]
    assert each(snapshot, "requests_total") == (24, 4, 20)
    assert each(snapshot, "connections_open") == (0, 0, 0)
    assert each(snapshot, "requests_in_flight") == (0, 0, 0)
    assert [one.count for one in each(snapshot, "latency")] == [1, 0, 1]


def test_rates_are_since_the_same_subscribers_previous_snapshot(
    aggregators: RoleAggregators,
) -> None:
    """Of each role as of all."""
    first = look(
        aggregators,
        worker(1, "web", requests_begun=100),
        worker(2, "jobs", requests_begun=10),
        now=110.0,
    )
    workers = (worker(1, "web", requests_begun=150), worker(2, "jobs", requests_begun=30))

    after_one = look(aggregators, *workers, now=111.0, previous=first)
    after_ten = look(aggregators, *workers, now=120.0, previous=first)

    assert each(first, "requests_per_second") == (11.0, 10.0, 1.0)
    assert each(after_one, "requests_per_second") == (70.0, 50.0, 20.0)
    assert each(after_ten, "requests_per_second") == (7.0, 5.0, 2.0)


def test_a_snapshot_says_how_connections_were_given_out(aggregators: RoleAggregators) -> None:
    """And when it was taken, and what was missed: that is no role's affair."""
    dispatch = {"web": Dispatch(policy_failures=3), "jobs": Dispatch()}

    snapshot = look(aggregators, now=101.0, dispatch=dispatch, missed=3)

    assert snapshot.dispatch == dispatch
    assert (snapshot.time, snapshot.interval, snapshot.missed) == (1.7e9 + 101.0, 1.0, 3)


def test_others_go_on(aggregators: RoleAggregators) -> None:
    """Nothing goes backwards in another program, of any role; the state is plain data."""
    alive = (worker(1, "web", restarts=3), worker(3, "jobs", restarts=1))
    # When it was is forgotten: then it counts as old as can be.
    aggregators.report(1, "web", Report(rss_bytes=5), now=100.0)
    aggregators.retire(2, "jobs", Counters(requests_begun=7, connections_total=4))
    before = look(aggregators, *alive)
    others = RoleAggregators(200.0, ["web", "jobs"])

    others.adopt(msgspec.convert(msgspec.to_builtins(aggregators.state()), RoleAggregatorsState))

    assert look(others, *alive) == before
    assert each(before, "requests_total") == (7, 0, 7)
    assert each(before, "restarts") == (4, 3, 1)


def test_of_one_role_others_go_on_too() -> None:
    """Its total is still that of all."""
    aggregators, others = RoleAggregators(START, ["web"]), RoleAggregators(200.0, ["web"])
    aggregators.retire(1, "web", Counters(requests_begun=7))

    others.adopt(aggregators.state())
    snapshot = look(others)

    assert (snapshot.total.requests_total, snapshot.total.uptime) == (7, 10.0)
    assert snapshot.roles == {"web": snapshot.total}

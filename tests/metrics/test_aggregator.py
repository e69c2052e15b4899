from typing import Any

import msgspec
import pytest

from aiocluster.metrics.aggregator import Aggregator, WorkerFacts
from aiocluster.metrics.instruments import bucket_of
from aiocluster.metrics.snapshot import LATENCY_WINDOW, Counters, Latency, Report, Snapshot

START = 100.0
MS = 1_000_000


def worker(worker_id: int = 1, *, restarts: int = 0, slot: int = 0, **counters: int) -> WorkerFacts:
    return WorkerFacts(
        worker_id=worker_id,
        slot=slot,
        role="web",
        generation=1,
        pid=4000 + worker_id,
        phase="ready",
        started_at=START,
        restarts=restarts,
        counters=Counters(**counters),
    )


def look(
    aggregator: Aggregator, *workers: WorkerFacts, now: float = 110.0, **more: Any
) -> Snapshot:
    return aggregator.snapshot(workers, now=now, wall=1.7e9 + now, **more)


def took(milliseconds: int, times: int = 1) -> Report:
    return Report(latency={bucket_of(milliseconds * MS): times})


def test_a_workers_figures_are_its_counters_its_report_and_its_facts() -> None:
    """Each figure comes from where it is known best, and is found under its name."""
    aggregator = Aggregator(START)
    report = Report(lag_mean=0.1, lag_max=0.2, cpu_percent=30.0, rss_bytes=40, pss_bytes=20)
    aggregator.report(1, report, now=105.0)
    facts = worker(
        restarts=2,
        slot=5,
        connections_open=3,
        connections_total=9,
        requests_begun=50,
        requests_done=48,
        responses_2xx=40,
        responses_4xx=7,
        responses_5xx=1,
    )

    figures = look(aggregator, facts).workers[1]

    assert msgspec.to_builtins(figures) == {
        "worker_id": 1,
        "slot": 5,
        "role": "web",
        "generation": 1,
        "pid": 4001,
        "phase": "ready",
        "report_age": 5.0,
        "connections_open": 3,
        "connections_total": 9,
        "requests_total": 50,
        "requests_in_flight": 2,
        "requests_per_second": 5.0,
        "responses": {"1xx": 0, "2xx": 40, "3xx": 0, "4xx": 7, "5xx": 1},
        "errors": {"4xx": 7, "5xx": 1},
        "latency": msgspec.to_builtins(Latency()),
        "loop_lag_mean": 0.1,
        "loop_lag_max": 0.2,
        "cpu_percent": 30.0,
        "rss_bytes": 40,
        "pss_bytes": 20,
        "uptime": 10.0,
        "restarts": 2,
    }


def test_the_total_adds_up_its_workers() -> None:
    """Sums for what can be added, the mean for the mean lag, the worst for the worst."""
    aggregator = Aggregator(START - 10.0)
    one = Report(lag_mean=0.1, lag_max=0.9, cpu_percent=90.0, rss_bytes=10, pss_bytes=5)
    two = Report(lag_mean=0.3, lag_max=0.4, cpu_percent=60.0, rss_bytes=30, pss_bytes=7)
    aggregator.report(1, one, now=105.0)
    aggregator.report(2, two, now=105.0)

    total = look(
        aggregator,
        worker(1, connections_open=1, requests_begun=30, requests_done=29, restarts=1),
        worker(2, connections_open=2, requests_begun=10, requests_done=8, restarts=2, slot=1),
        worker(3, slot=2),
    ).total

    assert (total.connections_open, total.requests_total, total.requests_in_flight) == (3, 40, 3)
    assert total.loop_lag_mean == pytest.approx(0.2)
    assert total.loop_lag_max == 0.9
    assert (total.cpu_percent, total.rss_bytes, total.pss_bytes) == (150.0, 40, 12)
    assert (total.uptime, total.restarts, total.requests_per_second) == (20.0, 3, 2.0)


def test_the_totals_latency_is_of_all_requests_not_of_the_workers_quantiles() -> None:
    """One slow worker with few requests does not make the cluster slow."""
    aggregator = Aggregator(START)
    aggregator.report(1, took(2, times=98), now=105.0)
    aggregator.report(2, took(500, times=2), now=105.0)

    snapshot = look(aggregator, worker(1), worker(2))

    assert snapshot.workers[2].latency.p50 == pytest.approx(0.5, rel=0.02)
    assert snapshot.total.latency.count == 100
    assert snapshot.total.latency.p50 == pytest.approx(0.002, rel=0.02)
    assert snapshot.total.latency.p90 == pytest.approx(0.002, rel=0.02)
    assert snapshot.total.latency.p99 == pytest.approx(0.5, rel=0.02)
    assert snapshot.total.latency.mean == pytest.approx((98 * 0.002 + 2 * 0.5) / 100, rel=0.02)


def test_latency_is_that_of_the_last_minute() -> None:
    """A quiet moment does not blank it, and last week's peak does not hide today's."""
    aggregator = Aggregator(START)
    aggregator.report(1, took(500), now=200.0)
    aggregator.report(1, took(2), now=230.0)
    aggregator.report(1, Report(), now=250.0)

    before = look(aggregator, worker(), now=200.0 + LATENCY_WINDOW - 1)
    after = look(aggregator, worker(), now=200.0 + LATENCY_WINDOW)

    assert (before.workers[1].latency.count, before.total.latency.count) == (2, 2)
    assert after.workers[1].latency == after.total.latency
    assert after.total.latency.p999 == pytest.approx(0.002, rel=0.02)


def test_a_dead_workers_latency_ages_out_of_the_total() -> None:
    """The crash itself does not change what clients met in the last minute."""
    aggregator = Aggregator(START)
    aggregator.report(1, took(500), now=200.0)
    aggregator.retire(1, Counters())

    assert look(aggregator, now=201.0).total.latency.count == 1
    assert look(aggregator, now=200.0 + LATENCY_WINDOW).total.latency.count == 0


def test_what_a_dead_worker_had_done_stays_and_what_it_held_goes() -> None:
    """Its requests and responses were real; its connections and requests in flight are gone."""
    aggregator = Aggregator(START)
    last = Counters(
        connections_open=5,
        connections_total=7,
        requests_begun=20,
        requests_done=18,
        responses_5xx=1,
    )
    aggregator.report(1, Report(cpu_percent=90.0, rss_bytes=1), now=105.0)
    aggregator.retire(1, last)

    snapshot = look(aggregator, worker(2, requests_begun=4, requests_done=3))
    total = snapshot.total

    assert snapshot.workers.keys() == {2}
    assert (total.connections_total, total.requests_total, total.errors["5xx"]) == (7, 24, 1)
    assert (total.connections_open, total.requests_in_flight) == (0, 1)
    assert (total.cpu_percent, total.rss_bytes) == (0.0, 0)


def test_a_worker_counts_once_however_its_death_is_told() -> None:
    """Retired twice, or still listed for a moment: no request is counted twice."""
    aggregator = Aggregator(START)
    dead = worker(requests_begun=20)
    aggregator.retire(1, dead.counters)
    aggregator.retire(1, dead.counters)

    snapshot = look(aggregator, dead)

    assert snapshot.workers == {}
    assert snapshot.total.requests_total == 20


def test_a_report_that_comes_after_the_death_counts_for_the_total_alone() -> None:
    """The last report of a dead worker is not lost, and its worker does not come back."""
    aggregator = Aggregator(START)
    aggregator.retire(1, Counters())
    aggregator.report(1, took(2), now=105.0)

    snapshot = look(aggregator, now=106.0)

    assert snapshot.total.latency.count == 1
    assert snapshot.workers == {}


def test_rates_are_over_each_subscriptions_own_interval() -> None:
    """A fast and a slow subscription do not disturb each other."""
    aggregator = Aggregator(START)
    first = look(aggregator, worker(requests_begun=100), now=110.0)

    fast = look(aggregator, worker(requests_begun=150), now=111.0, previous=first)
    slow = look(aggregator, worker(requests_begun=500), now=120.0, previous=first)
    faster = look(aggregator, worker(requests_begun=500), now=120.0, previous=fast)

    assert [s.interval for s in (first, fast, slow, faster)] == [10.0, 1.0, 10.0, 9.0]
    for snapshot, rate in [(first, 10.0), (fast, 50.0), (slow, 40.0), (faster, 350 / 9)]:
        assert snapshot.total.requests_per_second == pytest.approx(rate)
        assert snapshot.workers[1].requests_per_second == pytest.approx(rate)


def test_a_new_workers_requests_count_from_zero() -> None:
    """The workers' rates add up to the total's, also in the interval in which one was started."""
    aggregator = Aggregator(START)
    previous = look(aggregator, worker(1, requests_begun=100), now=110.0)

    now = look(
        aggregator,
        worker(1, requests_begun=140),
        worker(2, requests_begun=20),
        now=112.0,
        previous=previous,
    )

    assert [each.requests_per_second for each in now.workers.values()] == [20.0, 10.0]
    assert now.total.requests_per_second == 30.0


def test_no_time_between_two_snapshots_is_no_rate() -> None:
    """Two snapshots at the same moment do not divide by zero."""
    aggregator = Aggregator(START)
    previous = look(aggregator, worker(requests_begun=1))

    assert (
        look(aggregator, worker(requests_begun=9), previous=previous).total.requests_per_second == 0
    )


def test_a_snapshot_tells_when_it_was_taken_and_what_was_missed() -> None:
    """The wall clock is only told; no figure depends on it."""
    snapshot = Aggregator(START).snapshot([], now=101.0, wall=1.7e9, missed=3)

    assert (snapshot.time, snapshot.interval, snapshot.missed) == (1.7e9, 1.0, 3)
    assert snapshot.total.uptime == 1.0

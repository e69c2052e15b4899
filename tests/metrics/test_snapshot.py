from typing import Any

import msgpack
import msgspec
import pytest
from msgspec.structs import asdict, replace

from aiocluster.metrics.instruments import FIRST_BUCKET, LAST_BUCKET, bucket_of
from aiocluster.metrics.snapshot import (
    Counters,
    Latency,
    Metrics,
    Report,
    Snapshot,
    WorkerMetrics,
    latency_of,
    metrics_of,
    since,
)

MS = 1_000_000


def figures(counters: Counters, report: Report | None = None) -> Metrics:
    return metrics_of(
        counters,
        report or Report(),
        latency=latency_of({bucket_of(2 * MS): 1}),
        per_second=5.0,
        uptime=10.0,
        restarts=2,
    )


def test_counts_are_told_by_what_they_mean() -> None:
    """What is in flight and what failed is worked out; nobody need know how."""
    told = figures(
        Counters(
            connections_open=3,
            connections_total=9,
            requests_begun=50,
            requests_done=48,
            responses_1xx=4,
            responses_2xx=30,
            responses_3xx=6,
            responses_4xx=7,
            responses_5xx=1,
        )
    )

    assert (told.connections_open, told.connections_total) == (3, 9)
    assert (told.requests_total, told.requests_in_flight) == (50, 2)
    assert told.responses == {"1xx": 4, "2xx": 30, "3xx": 6, "4xx": 7, "5xx": 1}
    assert told.errors == {"4xx": 7, "5xx": 1}


def test_more_done_than_begun_is_none_in_flight() -> None:
    """The worker counts on while it is read; no figure is negative for it."""
    assert figures(Counters(requests_begun=5, requests_done=6)).requests_in_flight == 0


def test_percentiles_are_in_seconds() -> None:
    """Of all that the histogram counts."""
    latency = latency_of({bucket_of(2 * MS): 98, bucket_of(500 * MS): 2})

    assert latency.count == 100
    assert latency.mean == pytest.approx((98 * 0.002 + 2 * 0.5) / 100, rel=0.02)
    assert [latency.p50, latency.p90] == pytest.approx([0.002] * 2, rel=0.02)
    assert [latency.p99, latency.p999] == pytest.approx([0.5] * 2, rel=0.02)


def test_no_request_is_no_latency() -> None:
    """Rather than none at all: a graph of it has no holes."""
    assert latency_of({}) == Latency()


def test_a_snapshot_survives_the_wire() -> None:
    """A worker that subscribes gets the same snapshot as the primary."""
    total = figures(Counters(requests_begun=7, responses_2xx=5), Report(lag_max=0.5, rss_bytes=9))
    worker = WorkerMetrics(
        **asdict(total), worker_id=1, slot=0, role="web", generation=2, pid=4001, phase="ready"
    )
    sent = Snapshot(time=1.7e9, interval=1.0, workers={1: worker}, total=total, missed=3)

    fields = msgpack.unpackb(msgpack.packb(msgspec.to_builtins(sent)), strict_map_key=False)

    assert msgspec.convert(fields, Snapshot) == sent


def test_a_report_survives_the_wire() -> None:
    """What a worker sends is what the primary gets."""
    sent = Report(latency={FIRST_BUCKET: 1, LAST_BUCKET: 2}, lag_max=0.5, pss_bytes=9)

    fields = msgpack.unpackb(msgpack.packb(msgspec.to_builtins(sent)), strict_map_key=False)

    assert msgspec.convert(fields, Report) == sent


@pytest.mark.parametrize(
    "latency", [{FIRST_BUCKET - 1: 1}, {LAST_BUCKET + 1: 1}, {2**60: 1}, {500: 0}, {500: -1}]
)
def test_a_report_with_impossible_latency_is_refused(latency: dict[int, int]) -> None:
    """A broken worker cannot make the primary count what no histogram holds."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"latency": latency}, Report)


def test_rates_of_who_missed_some_are_since_what_it_took_last() -> None:
    """Of all, of each worker and of each role; what came later counts from nothing."""

    def at(uptime: float, begun: int, missed: int = 0, workers: int = 1) -> Snapshot:
        counted = figures(Counters(requests_begun=begun), Report())
        total = replace(counted, uptime=uptime, requests_per_second=1.0)
        place: dict[str, Any] = {
            "slot": 0,
            "role": "web",
            "generation": 1,
            "pid": 1,
            "phase": "ready",
        }
        each = {n: WorkerMetrics(**asdict(total), worker_id=n, **place) for n in range(workers)}
        return Snapshot(
            time=uptime,
            interval=1.0,
            workers=each,
            total=total,
            roles={"web": total},
            missed=missed,
        )

    before, now = at(5.0, 10), at(9.0, 50, workers=2)

    late = since(now, before, 3)
    assert (late.interval, late.missed) == (4.0, 3)
    rates = [one.requests_per_second for one in (late.total, late.roles["web"])]
    assert rates == [10.0, 10.0]
    assert [one.requests_per_second for one in late.workers.values()] == [10.0, 12.5]

"""The snapshot of the workers' figures, and the records it is made of.

Figures reach the primary in two ways. Counters are in shared memory, where the primary reads
them at any time, also those of a worker that was killed. A worker measures its latency, its lag
and its CPU and memory, and reports them at intervals.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import replace

from aiocluster.metrics.instruments import FIRST_BUCKET, LAST_BUCKET, count, mean, quantiles

# A minute: long enough that a quiet moment does not blank the percentiles and that a p999 has
# enough requests, short enough that the percentiles are current.
LATENCY_WINDOW = 60.0

_Bucket = Annotated[int, Meta(ge=FIRST_BUCKET, le=LAST_BUCKET)]
_Hits = Annotated[int, Meta(ge=1, le=2**53)]
_Bytes = Annotated[int, Meta(ge=0, le=2**53)]
_Finite = Annotated[float, Meta(ge=0.0, le=1e12)]  # the bounds also refuse NaN


class Counters(Struct, frozen=True, kw_only=True):
    """A worker's row of the scoreboard; all counters but `connections_open` only ever grow."""

    connections_open: int = 0
    connections_total: int = 0
    requests_begun: int = 0
    requests_done: int = 0
    responses_1xx: int = 0
    responses_2xx: int = 0
    responses_3xx: int = 0
    responses_4xx: int = 0
    responses_5xx: int = 0


class Report(Struct, frozen=True, kw_only=True):
    """A report of what a worker measured since the last one; `latency` has only new requests."""

    latency: dict[_Bucket, _Hits] = {}
    lag_mean: _Finite = 0.0  # seconds
    lag_max: _Finite = 0.0  # seconds
    cpu_percent: _Finite = 0.0  # of one core
    rss_bytes: _Bytes = 0
    pss_bytes: _Bytes = 0


class Latency(Struct, frozen=True, kw_only=True):
    """The durations of requests over the last LATENCY_WINDOW, in seconds."""

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    p999: float = 0.0


class Metrics(Struct, frozen=True, kw_only=True):
    """The figures of one worker, or of all workers together."""

    connections_open: int
    connections_total: int
    requests_total: int  # begun
    requests_in_flight: int  # begun and not done
    requests_per_second: float  # since this subscription's previous snapshot
    responses: dict[str, int]  # by class: "1xx" to "5xx"
    errors: dict[str, int]  # the "4xx" and "5xx" of `responses`
    latency: Latency
    loop_lag_mean: float  # seconds, in the last report
    loop_lag_max: float  # seconds, in the last report
    cpu_percent: float  # of one core: a total may exceed 100
    rss_bytes: int  # pages shared by workers count in each of them
    pss_bytes: int  # shared pages are divided by the number of sharers, so that sums are right
    uptime: float  # seconds
    restarts: int


class WorkerMetrics(Metrics, frozen=True, kw_only=True):
    """The figures of one worker, with its identity."""

    worker_id: int
    slot: int
    role: str
    generation: int
    pid: int
    phase: str
    report_age: float = 0.0  # seconds since the last report of lag, CPU and memory; 0 before one


_M = TypeVar("_M", bound=Metrics)


class Dispatch(Struct, frozen=True, kw_only=True):
    """The counts of a role's connections for which the usual dispatch failed."""

    policy_failures: int = 0  # the policy raised or chose no candidate: round robin chose
    fallbacks: dict[str, int] = {}  # by reason: a sticky policy used the client's address
    refusals: dict[str, int] = {}  # by reason: closed for lack of a PROXY header to trust
    shed: int = 0  # answered 503 or closed: all workers were full, `when_full` is not "wait"


class Snapshot(Struct, frozen=True, kw_only=True):
    """The figures of all workers at one moment, their total, and the total of each role."""

    time: float  # unix, seconds
    interval: float  # seconds since this subscription's previous snapshot, or the cluster's start
    workers: dict[int, WorkerMetrics]
    total: Metrics  # of all workers, exited ones included
    roles: dict[str, Metrics] = {}  # the total of each role
    dispatch: dict[str, Dispatch] = {}  # by role
    missed: int  # snapshots that this subscriber was too slow for, since the last it took


def since(snapshot: Snapshot, previous: Snapshot, missed: int) -> Snapshot:
    """Return the snapshot with rates since `previous`; `missed` were not taken in between."""
    interval = snapshot.total.uptime - previous.total.uptime
    return replace(
        snapshot,
        interval=interval,
        workers={
            number: _rated(one, previous.workers.get(number), interval)
            for number, one in snapshot.workers.items()
        },
        total=_rated(snapshot.total, previous.total, interval),
        roles={
            name: _rated(one, previous.roles.get(name), interval)
            for name, one in snapshot.roles.items()
        },
        missed=missed,
    )


def _rated(figures: _M, before: Metrics | None, interval: float) -> _M:
    begun = figures.requests_total - (before.requests_total if before else 0)
    rate = max(begun, 0) / interval if interval > 0.0 else 0.0
    return replace(figures, requests_per_second=rate)


def metrics_of(
    counters: Counters,
    report: Report,
    *,
    latency: Latency,
    per_second: float,
    uptime: float,
    restarts: int,
) -> Metrics:
    """Return the figures of one worker, or of all, from its counters and its report."""
    errors = {"4xx": counters.responses_4xx, "5xx": counters.responses_5xx}
    return Metrics(
        connections_open=counters.connections_open,
        connections_total=counters.connections_total,
        requests_total=counters.requests_begun,
        # The worker may count while its row is read: then more requests are done than begun.
        requests_in_flight=max(counters.requests_begun - counters.requests_done, 0),
        requests_per_second=per_second,
        responses={
            "1xx": counters.responses_1xx,
            "2xx": counters.responses_2xx,
            "3xx": counters.responses_3xx,
            **errors,
        },
        errors=errors,
        latency=latency,
        loop_lag_mean=report.lag_mean,
        loop_lag_max=report.lag_max,
        cpu_percent=report.cpu_percent,
        rss_bytes=report.rss_bytes,
        pss_bytes=report.pss_bytes,
        uptime=uptime,
        restarts=restarts,
    )


def latency_of(buckets: dict[int, int]) -> Latency:
    """Return the count, mean and percentiles of a histogram."""
    p50, p90, p99, p999 = quantiles(buckets, (0.5, 0.9, 0.99, 0.999))
    return Latency(count=count(buckets), mean=mean(buckets), p50=p50, p90=p90, p99=p99, p999=p999)


def together(counts: Iterable[Dispatch]) -> Dispatch:
    """Return the sums of several records."""
    policy_failures = shed = 0
    fallbacks: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    for one in counts:
        policy_failures += one.policy_failures
        shed += one.shed
        fallbacks.update(one.fallbacks)
        refusals.update(one.refusals)
    return Dispatch(
        policy_failures=policy_failures,
        fallbacks={**fallbacks},
        refusals={**refusals},
        shed=shed,
    )

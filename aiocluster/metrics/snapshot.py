"""What the primary makes of its workers' numbers: one snapshot, each worker's and the total.

Numbers reach the primary in two ways. Counters lie in shared memory, where the primary reads
them at any time, also those of a worker that was killed. What a worker alone can measure, its
latency, its lag and its cost, it reports every now and then. The `Ledger` brings both together
and remembers the dead: the total counts what they did, so it never goes backwards.
"""

from collections import deque
from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import asdict, astuple, replace

from aiocluster.metrics.instruments import FIRST_BUCKET, LAST_BUCKET, Window, count, mean, quantiles

# A minute: long enough that a quiet moment does not blank the percentiles and that a p999 has
# requests to stand on, short enough that they speak of now.
LATENCY_WINDOW = 60.0

# A worker's last report may still be on its way when its death is known. It comes at once; so
# many others do not die meanwhile.
_MAX_REMEMBERED_DEAD = 256

_Bucket = Annotated[int, Meta(ge=FIRST_BUCKET, le=LAST_BUCKET)]
_Hits = Annotated[int, Meta(ge=1)]


class Counters(Struct, frozen=True, kw_only=True):
    """A worker's row of the scoreboard: all but `connections_open` only ever grow."""

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
    """What a worker measured since its last report; `latency` counts only what is new."""

    latency: dict[_Bucket, _Hits] = {}
    lag_mean: float = 0.0  # seconds
    lag_max: float = 0.0  # seconds
    cpu_percent: float = 0.0  # of one core
    rss_bytes: int = 0
    pss_bytes: int = 0


class WorkerFacts(Struct, frozen=True, kw_only=True):
    """What the primary knows of a worker that has not exited."""

    worker_id: int
    slot: int
    role: str
    generation: int
    pid: int
    phase: str
    started_at: float  # seconds, on the clock that also gives `now`
    restarts: int  # of its slot
    counters: Counters


class Latency(Struct, frozen=True, kw_only=True):
    """How long requests took over the last LATENCY_WINDOW, in seconds."""

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    p999: float = 0.0


class Metrics(Struct, frozen=True, kw_only=True):
    """The figures of one worker, or of all together."""

    connections_open: int
    connections_total: int
    requests_total: int  # begun
    requests_in_flight: int  # begun and not done
    requests_per_second: float  # since this subscription's previous snapshot
    responses: dict[str, int]  # by class: "1xx" to "5xx"
    errors: dict[str, int]  # those of the responses that are "4xx" and "5xx"
    latency: Latency
    loop_lag_mean: float  # seconds, in the last report
    loop_lag_max: float  # seconds, in the last report
    cpu_percent: float  # of one core: a total may exceed 100
    rss_bytes: int  # pages shared by workers count in each of them
    pss_bytes: int  # they are divided by the number of sharers: the one to add up
    uptime: float  # seconds
    restarts: int


class WorkerMetrics(Metrics, frozen=True, kw_only=True):
    """The figures of one worker, and which one it is."""

    worker_id: int
    slot: int
    role: str
    generation: int
    pid: int
    phase: str


class Snapshot(Struct, frozen=True, kw_only=True):
    """The figures of all workers at one moment, and their total."""

    time: float  # unix, seconds
    interval: float  # seconds since this subscription's previous snapshot, or the cluster's start
    workers: dict[int, WorkerMetrics]
    total: Metrics  # counts also what workers did that are gone
    missed: int  # snapshots this subscriber was too slow for, since the last it took


class LedgerState(Struct, frozen=True, kw_only=True):
    """What a ledger must not forget: all but the latencies."""

    started_at: float
    retired: Counters
    restarts: int
    restarts_of_slot: dict[int, int]
    reports: dict[int, Report]


class Ledger:
    """Remembers what workers reported and what the dead had done.

    A subscription is known by the snapshot it took last: from that one, and no state of ours,
    come the rates of its next. So any number of subscriptions, at any interval, share a ledger.
    """

    def __init__(self, started_at: float) -> None:
        self._started_at = started_at
        self._reports: dict[int, Report] = {}  # the last of each worker
        self._windows: dict[int, Window] = {}
        # Every report counts here as well: a dead worker's latency just ages out of it.
        self._window = Window(LATENCY_WINDOW)
        self._retired = Counters()
        self._dead: deque[int] = deque(maxlen=_MAX_REMEMBERED_DEAD)
        self._restarts = 0
        self._restarts_of_slot: dict[int, int] = {}

    def state(self) -> LedgerState:
        """What the next program must know, so that nothing goes backwards."""
        return LedgerState(
            started_at=self._started_at,
            retired=self._retired,
            restarts=self._restarts,
            restarts_of_slot=self._restarts_of_slot,
            reports=self._reports,
        )

    @classmethod
    def of(cls, state: LedgerState) -> "Ledger":
        """Go on where another left off."""
        ledger = cls(state.started_at)
        ledger._retired = state.retired
        ledger._restarts = state.restarts
        ledger._restarts_of_slot = state.restarts_of_slot
        ledger._reports = state.reports
        return ledger

    def report(self, worker_id: int, report: Report, now: float) -> None:
        """Take in what a worker measured; its last report may come after its death."""
        self._window.add(report.latency, now)
        if worker_id in self._dead:
            return
        self._reports[worker_id] = report
        window = self._windows.setdefault(worker_id, Window(LATENCY_WINDOW))
        window.add(report.latency, now)

    def retire(self, worker_id: int, counters: Counters) -> None:
        """Keep what a worker had done when it died. Idempotent."""
        if worker_id in self._dead:
            return
        self._dead.append(worker_id)
        # With it went its connections, and whatever requests it was still at.
        over = replace(counters, connections_open=0, requests_done=counters.requests_begun)
        self._retired = _sum([self._retired, over])
        self._reports.pop(worker_id, None)
        self._windows.pop(worker_id, None)

    def snapshot(
        self,
        workers: Iterable[WorkerFacts],
        *,
        now: float,
        wall: float,
        previous: Snapshot | None = None,
        missed: int = 0,
    ) -> Snapshot:
        """Return the figures at `now` of the workers that were not retired, and the total.

        A worker must be among `workers` until it is retired, or the total would miss it.
        Without a `previous` one, rates are over the cluster's whole life.
        """
        alive = [facts for facts in workers if facts.worker_id not in self._dead]
        self._count_restarts(alive)
        uptime = now - self._started_at
        interval = uptime - (previous.total.uptime if previous else 0.0)
        each = {facts.worker_id: self._of_worker(facts, now, interval, previous) for facts in alive}
        return Snapshot(
            time=wall,
            interval=interval,
            workers=each,
            total=self._total(alive, now, interval, previous),
            missed=missed,
        )

    def _of_worker(
        self, facts: WorkerFacts, now: float, interval: float, previous: Snapshot | None
    ) -> WorkerMetrics:
        window = self._windows.get(facts.worker_id)
        before = previous.workers.get(facts.worker_id) if previous else None
        figures = _metrics(
            facts.counters,
            self._reports.get(facts.worker_id, Report()),
            latency=_latency(window.buckets(now) if window else {}),
            per_second=_rate(facts.counters, before, interval),
            uptime=now - facts.started_at,
            restarts=facts.restarts,
        )
        return WorkerMetrics(
            **asdict(figures),
            worker_id=facts.worker_id,
            slot=facts.slot,
            role=facts.role,
            generation=facts.generation,
            pid=facts.pid,
            phase=facts.phase,
        )

    def _total(
        self, alive: list[WorkerFacts], now: float, interval: float, previous: Snapshot | None
    ) -> Metrics:
        counters = _sum([self._retired, *(facts.counters for facts in alive)])
        reports = [self._reports.get(facts.worker_id) for facts in alive]
        return _metrics(
            counters,
            _together([report for report in reports if report]),
            latency=_latency(self._window.buckets(now)),
            per_second=_rate(counters, previous.total if previous else None, interval),
            uptime=now - self._started_at,
            restarts=self._restarts,
        )

    def _count_restarts(self, alive: list[WorkerFacts]) -> None:
        """Count what is new: the restarts of a slot must not leave the total with the slot."""
        # A reload has two workers in one slot for a while; the one that restarted more counts.
        of_slot: dict[int, int] = {}
        for facts in alive:
            of_slot[facts.slot] = max(of_slot.get(facts.slot, 0), facts.restarts)
        for slot, restarts in of_slot.items():
            counted = self._restarts_of_slot.get(slot, 0)
            # Fewer than before: the slot had gone, and came back as a new one. (If it also
            # restarted as often before anybody looked, that is not seen.)
            self._restarts += restarts - counted if restarts >= counted else restarts
        self._restarts_of_slot |= of_slot


def _metrics(
    counters: Counters,
    report: Report,
    *,
    latency: Latency,
    per_second: float,
    uptime: float,
    restarts: int,
) -> Metrics:
    errors = {"4xx": counters.responses_4xx, "5xx": counters.responses_5xx}
    return Metrics(
        connections_open=counters.connections_open,
        connections_total=counters.connections_total,
        requests_total=counters.requests_begun,
        # The worker may count on while its row is read: for a moment, more done than begun.
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


def _sum(rows: list[Counters]) -> Counters:
    columns = zip(*(astuple(row) for row in rows), strict=True)
    return Counters(**dict(zip(Counters.__struct_fields__, map(sum, columns), strict=True)))


def _together(reports: list[Report]) -> Report:
    """Return what the workers cost together; their latency is merged elsewhere, over time."""
    if not reports:
        return Report()
    return Report(
        lag_mean=sum(report.lag_mean for report in reports) / len(reports),
        lag_max=max(report.lag_max for report in reports),
        cpu_percent=sum(report.cpu_percent for report in reports),
        rss_bytes=sum(report.rss_bytes for report in reports),
        pss_bytes=sum(report.pss_bytes for report in reports),
    )


def _latency(buckets: dict[int, int]) -> Latency:
    p50, p90, p99, p999 = quantiles(buckets, (0.5, 0.9, 0.99, 0.999))
    return Latency(count=count(buckets), mean=mean(buckets), p50=p50, p90=p90, p99=p99, p999=p999)


def _rate(counters: Counters, before: Metrics | None, interval: float) -> float:
    """Return the requests a second begun since `before`: since the start, when there is none."""
    begun = counters.requests_begun - (before.requests_total if before else 0)
    return max(begun, 0) / interval if interval > 0.0 else 0.0

"""The aggregator: makes one snapshot, of each worker and the total, from the workers' figures.

The `Aggregator` brings counters and reports together. It remembers what exited workers did, so
that the total never goes backwards.
"""

from collections import deque
from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import asdict, astuple, replace

from aiocluster.metrics.instruments import Window
from aiocluster.metrics.snapshot import (
    LATENCY_WINDOW,
    Counters,
    Metrics,
    Report,
    Snapshot,
    WorkerMetrics,
    latency_of,
    metrics_of,
)

# A worker's last report may still be on its way when the primary knows of its exit. The report
# comes at once; fewer than so many other workers exit meanwhile.
_MAX_REMEMBERED_DEAD = 256


class WorkerFacts(Struct, frozen=True, kw_only=True):
    """The facts that the primary knows of a worker that has not exited."""

    worker_id: int
    slot: int
    role: str
    generation: int
    pid: int
    phase: str
    started_at: float  # seconds, on the clock that also gives `now`
    restarts: int  # of the worker's slot
    counters: Counters


class AggregatorState(Struct, frozen=True, kw_only=True):
    """The state of an aggregator that an upgrade hands over: all but the latencies."""

    started_at: float
    retired: Counters
    restarts: int
    restarts_of_slot: dict[str, int]  # by role and number
    reports: dict[int, Report]


class Aggregator:
    """The keeper of the workers' reports and of what exited workers did.

    A subscription passes the snapshot it took last, from which the rates of its next snapshot
    are calculated. So any number of subscriptions, at any interval, share one aggregator.
    """

    def __init__(self, started_at: float) -> None:
        self._started_at = started_at
        self._reports: dict[int, Report] = {}  # the last of each worker
        self._reported_at: dict[int, float] = {}  # the time of that report
        self._windows: dict[int, Window] = {}
        # Every report counts here as well: the latency of an exited worker just ages out of it.
        self._window = Window(LATENCY_WINDOW)
        self._retired = Counters()
        self._dead: deque[int] = deque(maxlen=_MAX_REMEMBERED_DEAD)
        self._restarts = 0
        self._restarts_of_slot: dict[str, int] = {}

    def state(self) -> AggregatorState:
        """Return the state that the next program needs, so that no total goes backwards."""
        return AggregatorState(
            started_at=self._started_at,
            retired=self._retired,
            restarts=self._restarts,
            restarts_of_slot=self._restarts_of_slot,
            reports=self._reports,
        )

    @classmethod
    def of(cls, state: AggregatorState) -> "Aggregator":
        """Return an aggregator that continues from the state of another."""
        aggregator = cls(state.started_at)
        aggregator._retired = state.retired
        aggregator._restarts = state.restarts
        aggregator._restarts_of_slot = state.restarts_of_slot
        aggregator._reports = state.reports
        # The times of the reports are not handed over, so all reports count as old.
        aggregator._reported_at = dict.fromkeys(state.reports, state.started_at)
        return aggregator

    def report(self, worker_id: int, report: Report, now: float) -> None:
        """Add a worker's report; its last report may come after its exit."""
        self._window.add(report.latency, now)
        if worker_id in self._dead:
            return
        self._reports[worker_id] = report
        self._reported_at[worker_id] = now
        window = self._windows.setdefault(worker_id, Window(LATENCY_WINDOW))
        window.add(report.latency, now)

    def retire(self, worker_id: int, counters: Counters) -> None:
        """Add the counters of a worker that exited to the total. Idempotent."""
        if worker_id in self._dead:
            return
        self._dead.append(worker_id)
        # The worker's connections and open requests ended with it.
        over = replace(counters, connections_open=0, requests_done=counters.requests_begun)
        self._retired = _sum([self._retired, over])
        self._reports.pop(worker_id, None)
        self._reported_at.pop(worker_id, None)
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
        Without `previous`, rates are over the cluster's whole life.
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
        figures = metrics_of(
            facts.counters,
            self._reports.get(facts.worker_id, Report()),
            latency=latency_of(window.buckets(now) if window else {}),
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
            report_age=now - self._reported_at.get(facts.worker_id, now),
        )

    def _total(
        self, alive: list[WorkerFacts], now: float, interval: float, previous: Snapshot | None
    ) -> Metrics:
        counters = _sum([self._retired, *(facts.counters for facts in alive)])
        reports = [self._reports.get(facts.worker_id) for facts in alive]
        return metrics_of(
            counters,
            _together([report for report in reports if report]),
            latency=latency_of(self._window.buckets(now)),
            per_second=_rate(counters, previous.total if previous else None, interval),
            uptime=now - self._started_at,
            restarts=self._restarts,
        )

    def _count_restarts(self, alive: list[WorkerFacts]) -> None:
        """Add new restarts to the total, which keeps them when the slot goes."""
        # During a reload a slot has two workers for a while; the larger count holds.
        of_slot: dict[str, int] = {}
        for facts in alive:
            slot = f"{facts.role} {facts.slot}"
            of_slot[slot] = max(of_slot.get(slot, 0), facts.restarts)
        for slot, restarts in of_slot.items():
            counted = self._restarts_of_slot.get(slot, 0)
            # Fewer than before: the slot went, and a new one took its number. (If the new slot
            # restarted as often before the next snapshot, those restarts are missed.)
            self._restarts += restarts - counted if restarts >= counted else restarts
        self._restarts_of_slot |= of_slot


def _sum(rows: list[Counters]) -> Counters:
    columns = zip(*(astuple(row) for row in rows), strict=True)
    return Counters(**dict(zip(Counters.__struct_fields__, map(sum, columns), strict=True)))


def _together(reports: list[Report]) -> Report:
    """Return the lag and cost of all workers; a `Window` merges their latency, over time."""
    if not reports:
        return Report()
    return Report(
        lag_mean=sum(report.lag_mean for report in reports) / len(reports),
        lag_max=max(report.lag_max for report in reports),
        cpu_percent=sum(report.cpu_percent for report in reports),
        rss_bytes=sum(report.rss_bytes for report in reports),
        pss_bytes=sum(report.pss_bytes for report in reports),
    )


def _rate(counters: Counters, before: Metrics | None, interval: float) -> float:
    """Return the requests begun a second since `before`, or since the start if it is None."""
    begun = counters.requests_begun - (before.requests_total if before else 0)
    return max(begun, 0) / interval if interval > 0.0 else 0.0

"""Snapshots of workers that never were, for what decides by snapshots."""

from collections.abc import Iterable
from typing import Any

from aiocluster.metrics.snapshot import (
    Counters,
    Latency,
    Report,
    Snapshot,
    WorkerMetrics,
    metrics_of,
)
from aiocluster.primary.workers.phases import Phase

_NOTHING = metrics_of(
    Counters(), Report(), latency=Latency(), per_second=0.0, uptime=0.0, restarts=0
)


def worker(number: int, **figures: Any) -> WorkerMetrics:
    """A worker that is ready and has reported `figures`."""
    of_all: dict[str, Any] = {name: getattr(_NOTHING, name) for name in _NOTHING.__struct_fields__}
    known = {"role": "web", "phase": Phase.READY.value, "rss_bytes": 1 << 20}
    place = {"worker_id": number, "slot": number, "generation": 1, "pid": 1000 + number}
    return WorkerMetrics(**(of_all | known | place | figures))


def booting(number: int, phase: Phase = Phase.ONLINE) -> WorkerMetrics:
    """A worker of which nothing is known but its phase."""
    return worker(number, phase=phase.value, rss_bytes=0)


def snapshot_of(workers: Iterable[WorkerMetrics]) -> Snapshot:
    """What a subscriber would see of these workers."""
    each = {worker.worker_id: worker for worker in workers}
    return Snapshot(time=0.0, interval=1.0, workers=each, total=_NOTHING, missed=0)

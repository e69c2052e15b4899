"""The load of a role's workers, by the metric that their number follows.

Only workers that serve and have reported lately count. The zeroes of a worker that has just begun
say nothing about its load, nor do the old figures of a worker that reports no more. A draining
worker takes nothing new.
"""

import math
from collections.abc import Callable
from numbers import Real

from aiocluster.config.autoscale import Autoscale
from aiocluster.errors import ConfigError
from aiocluster.metrics.snapshot import Snapshot, WorkerMetrics
from aiocluster.primary.workers.phases import Phase

# A worker's figures, by their names in `Autoscale.metric`.
_FIGURES: dict[str, Callable[[WorkerMetrics], float]] = {
    "cpu": lambda worker: worker.cpu_percent,
    "lag": lambda worker: worker.loop_lag_mean,
    "in_flight": lambda worker: worker.requests_in_flight,
}


def measured(
    snapshot: Snapshot, role: str, longest_age: float = math.inf
) -> dict[int, WorkerMetrics]:
    """Return the role's workers with figures that were reported within `longest_age` seconds."""
    return {
        number: worker
        for number, worker in snapshot.workers.items()
        # A worker with a memory of 0 has not reported yet.
        if worker.role == role and worker.phase == Phase.READY and worker.rss_bytes
        if worker.report_age <= longest_age
    }


def is_booting(snapshot: Snapshot, role: str) -> bool:
    """Return True if workers of the role are starting."""
    phases = {worker.phase for worker in snapshot.workers.values() if worker.role == role}
    return not phases.isdisjoint({Phase.STARTING, Phase.ONLINE})


def load_of_one(config: Autoscale, snapshot: Snapshot) -> float:
    """Return the mean load of the workers; ConfigError if the user's metric gives none."""
    if isinstance(config.metric, str):
        figures = list(map(_FIGURES[config.metric], snapshot.workers.values()))
        return sum(figures) / len(figures)
    try:
        value: object = config.metric(snapshot)
    except Exception as error:
        raise ConfigError(f"autoscale metric {config.metric_name} raised {error!r}") from error
    load = _as_load(value)
    if load is None:
        raise ConfigError(
            f"autoscale metric {config.metric_name} must return a finite number from 0 on, "
            f"not {value!r}"
        )
    return load


def _as_load(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        load = float(value)
    except OverflowError:
        return None
    return load if 0.0 <= load < math.inf else None

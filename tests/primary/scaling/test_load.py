"""What the workers of a role are at."""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from aiocluster.config.autoscale import Autoscale
from aiocluster.errors import ConfigError
from aiocluster.metrics.snapshot import Snapshot
from aiocluster.primary.scaling.load import is_booting, load_of_one, measured
from aiocluster.primary.workers.phases import Phase
from tests.support.snapshots import booting, snapshot_of, worker


def test_only_who_serves_and_has_reported_counts() -> None:
    """Nobody's zeroes, nobody who leaves, and nobody of another role."""
    snapshot = snapshot_of(
        [
            worker(1),
            worker(2, rss_bytes=0),
            worker(3, phase=Phase.DRAINING.value),
            booting(4),
            worker(5, role="jobs"),
            worker(6),
        ]
    )

    assert list(measured(snapshot, "web")) == [1, 6]
    assert list(measured(snapshot, "jobs")) == [5]


def test_what_was_reported_long_ago_does_not_count() -> None:
    """It was so then: a worker whose loop is blocked reports nothing new."""
    snapshot = snapshot_of([worker(1, report_age=3.1), worker(2, report_age=3.0)])

    assert list(measured(snapshot, "web", 3.0)) == [2]
    assert list(measured(snapshot, "web")) == [1, 2]


@pytest.mark.parametrize(
    ("phase", "is_so"),
    [
        (Phase.STARTING, True),
        (Phase.ONLINE, True),
        (Phase.READY, False),
        (Phase.DRAINING, False),
        (Phase.EXITED, False),
    ],
)
def test_who_is_not_ready_yet_boots(phase: Phase, *, is_so: bool) -> None:
    """Of the role that is asked for."""
    snapshot = snapshot_of([worker(1), worker(2, phase=phase.value)])

    assert is_booting(snapshot, "web") is is_so
    assert not is_booting(snapshot, "jobs")


@pytest.mark.parametrize(("metric", "load"), [("cpu", 60.0), ("lag", 0.03), ("in_flight", 15.0)])
def test_a_named_metric_is_a_mean_over_workers(metric: Any, load: float) -> None:
    """In the unit of its target."""
    snapshot = snapshot_of(
        [
            worker(1, cpu_percent=90.0, loop_lag_mean=0.04, requests_in_flight=10),
            worker(2, cpu_percent=30.0, loop_lag_mean=0.02, requests_in_flight=20),
        ]
    )

    assert load_of_one(Autoscale(1, 2, metric=metric, target=1.0), snapshot) == pytest.approx(load)


@pytest.mark.parametrize("value", [0, 7, 7.5, Fraction(15, 2)])
def test_a_function_may_return_any_real_number(value: float) -> None:
    """It is given the workers and its answer is taken."""
    seen: list[Snapshot] = []

    def metric(snapshot: Snapshot) -> float:
        seen.append(snapshot)
        return value

    snapshot = snapshot_of([worker(1)])

    assert load_of_one(Autoscale(1, 2, metric=metric, target=1.0), snapshot) == float(value)
    assert seen == [snapshot]


@pytest.mark.parametrize(
    "value", [None, "7", True, -1.0, math.nan, math.inf, -math.inf, 10**400, 7j, [7], Decimal(7)]
)
def test_nonsense_of_a_function_is_an_error(value: Any) -> None:
    """That says whose it was, and what."""

    def queue_length(snapshot: Snapshot) -> Any:
        return value

    with pytest.raises(ConfigError, match="metric queue_length must return a finite number") as e:
        load_of_one(Autoscale(1, 2, metric=queue_length, target=1.0), snapshot_of([worker(1)]))

    assert repr(value) in str(e.value)


def test_what_a_function_raises_is_told() -> None:
    """With its cause, for the traceback."""

    def queue_length(snapshot: Snapshot) -> float:
        raise KeyError("depth")

    with pytest.raises(ConfigError, match=r"queue_length raised KeyError\('depth'\)") as caught:
        load_of_one(Autoscale(1, 2, metric=queue_length, target=1.0), snapshot_of([worker(1)]))

    assert isinstance(caught.value.__cause__, KeyError)

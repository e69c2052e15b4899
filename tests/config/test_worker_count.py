"""How many workers `workers` means."""

from typing import Any

import pytest

from aiocluster.config.worker_count import too_many_workers_warning, worker_count


@pytest.mark.parametrize(("workers", "count"), [("auto", 6), ("cpu", 6), ("io", 12), (4, 4)])
def test_workers_may_follow_the_cpus(workers: Any, count: int) -> None:
    """auto and cpu mean one worker for each CPU, io two, a number itself."""
    assert worker_count(workers, cpus=6) == count


def test_too_many_workers_are_warned_about_with_what_they_cost() -> None:
    """Beyond four for each CPU the warning says why that is not faster."""
    assert too_many_workers_warning(8, cpus=2) is None
    warning = too_many_workers_warning(9, cpus=2)
    assert warning is not None
    for word in ("9 workers", "2 CPUs", "memory", "context switches", "p99"):
        assert word in warning

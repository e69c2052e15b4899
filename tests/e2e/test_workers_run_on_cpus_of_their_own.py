"""With affinity="auto" each worker has a CPU of its own, where there are as many."""

import os

import psutil
import pytest

from aiocluster import WorkerHandle
from tests.support.cluster import first, kill, logged, serving

CPUS = sorted(os.sched_getaffinity(0))


def cpus_of(worker: WorkerHandle) -> list[int]:
    cpus: list[int] = psutil.Process(worker.pid).cpu_affinity()
    return sorted(cpus)


async def test_each_has_one_and_so_has_who_replaces_it() -> None:
    """By slot: the caches of the one before may be of use to it."""
    async with serving(workers=len(CPUS), affinity="auto") as (cluster, heard):
        pinned = {worker.slot: cpus_of(worker) for worker in cluster.workers.values()}
        worker = first(cluster)
        kill(worker.pid)
        successor = await heard.replacement_of(worker)
        assert cpus_of(successor) == pinned[worker.slot]

    assert pinned == {slot: [cpu] for slot, cpu in enumerate(CPUS)}
    assert sorted(os.sched_getaffinity(0)) == CPUS  # the primary runs where it did


async def test_where_there_are_not_as_many_none_is_pinned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two on one CPU would be worse than the kernel's own choice; and it is told."""
    count = len(CPUS) + 1
    async with serving(workers=count, affinity="auto") as (cluster, _):
        assert [cpus_of(worker) for worker in cluster.workers.values()] == [CPUS] * count
        await logged(caplog, f"{count} workers on {len(CPUS)} CPUs: none is pinned to one")


async def test_unless_asked_for_none_is_pinned() -> None:
    """The kernel knows best what else runs."""
    async with serving(workers=1) as (cluster, _):
        assert cpus_of(first(cluster)) == CPUS

"""With cpu_affinity="auto" each worker has a CPU of its own, where there are as many."""

import os

import psutil
import pytest

from aiocluster import Role, WorkerHandle
from tests.support.cluster import HTTP_APP, first, kill, logged, serving, serving_roles

CPUS = sorted(os.sched_getaffinity(0))


def cpus_of(worker: WorkerHandle) -> list[int]:
    cpus: list[int] = psutil.Process(worker.pid).cpu_affinity()
    return sorted(cpus)


async def test_each_has_one_and_so_has_who_replaces_it() -> None:
    """By slot: the caches of the one before may be of use to it."""
    async with serving(workers=len(CPUS), cpu_affinity="auto") as (cluster, heard):
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
    async with serving(workers=count, cpu_affinity="auto") as (cluster, _):
        assert [cpus_of(worker) for worker in cluster.workers.values()] == [CPUS] * count
        await logged(caplog, f"{count} workers on {len(CPUS)} CPUs: none is pinned to one")


async def test_unless_asked_for_none_is_pinned() -> None:
    """The kernel knows best what else runs."""
    async with serving(workers=1) as (cluster, _):
        assert cpus_of(first(cluster)) == CPUS


@pytest.mark.skipif(len(CPUS) < 2, reason="one CPU can be had by one worker alone")
async def test_those_of_several_roles_do_not_share_one() -> None:
    """Each role has as many as it has workers; those of neither are the other's."""
    others = len(CPUS) - 1
    roles = {
        "web": Role(HTTP_APP, workers=1, cpu_affinity="auto"),
        "other": Role(HTTP_APP, workers=others, cpu_affinity="auto"),
    }
    async with serving_roles(roles) as (cluster, _):
        pinned = {(one.role, one.slot): cpus_of(one) for one in cluster.workers.values()}

    assert pinned == {
        ("web", 0): [CPUS[0]],
        **{("other", slot): [CPUS[slot + 1]] for slot in range(others)},
    }


async def test_where_all_roles_together_are_too_many_none_is_pinned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However few each of them has."""
    roles = {
        "web": Role(HTTP_APP, workers=1, cpu_affinity="auto"),
        "other": Role(HTTP_APP, workers=len(CPUS), cpu_affinity="none"),
    }
    async with serving_roles(roles) as (cluster, _):
        assert [cpus_of(worker) for worker in cluster.workers.values()] == [CPUS] * (len(CPUS) + 1)
        count = len(CPUS) + 1
        await logged(caplog, f"{count} workers on {len(CPUS)} CPUs: none is pinned to one")


async def test_who_is_added_beyond_the_cpus_runs_on_any() -> None:
    """Those that were there before keep their own."""
    async with serving(workers=1, cpu_affinity="auto") as (cluster, _):
        await cluster.scale(len(CPUS) + 1)
        on = {worker.slot: cpus_of(worker) for worker in cluster.workers.values()}

    assert on == {**{slot: [cpu] for slot, cpu in enumerate(CPUS)}, len(CPUS): CPUS}

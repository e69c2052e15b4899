"""A cluster that has stopped leaves nothing behind in the program that ran it."""

import asyncio
import gc
import os

import pytest

from aiocluster import Cluster, ConfigError, WorkerOnline
from tests.support.cluster import HTTP_APP, first, kill, serving, who_answers


def open_files() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


async def test_no_descriptor_is_left_open() -> None:
    """Three clusters, one after another: no descriptor more each time."""
    counts = []
    for _ in range(3):
        async with serving() as (cluster, _heard):
            await who_answers(cluster)
        counts.append(open_files())

    assert counts[0] == counts[1] == counts[2]


async def test_no_task_is_left_pending(caplog: pytest.LogCaptureFixture) -> None:
    """Every task that a cluster made is over when it has stopped; the log is clean."""
    before = asyncio.all_tasks()
    async with serving() as (cluster, heard):
        dead = first(cluster)
        kill(dead.pid)
        await heard.replacement_of(dead)
    left = asyncio.all_tasks() - before
    gc.collect()

    assert left == set()
    assert "was destroyed but it is pending" not in caplog.text


async def test_callbacks_may_be_given_before_the_start() -> None:
    """Who wants to hear of the first workers too asks before there are any."""
    cluster = Cluster(HTTP_APP, workers=2, bind="127.0.0.1:0")
    online: list[int] = []
    cluster.on(WorkerOnline, lambda event: online.append(event.worker.id))
    async with cluster:
        pass

    assert sorted(online) == [1, 2]


async def test_a_cluster_that_has_not_started_has_no_workers() -> None:
    """`workers` and `addresses` are empty, and say so without an AttributeError."""
    cluster = Cluster(HTTP_APP, workers=2, bind="127.0.0.1:0")

    assert dict(cluster.workers) == {}
    assert cluster.addresses == ()


async def test_the_same_cluster_started_again_is_refused() -> None:
    """A Cluster object is for one life; a second start leaves no workers behind."""
    cluster = Cluster(HTTP_APP, workers=1, bind="127.0.0.1:0")
    async with cluster:
        pass

    with pytest.raises(ConfigError, match="was started or stopped before; make a new one"):
        await cluster.start()

    assert cluster.workers == {}

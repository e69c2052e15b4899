"""Each worker's events come in their order, whatever happens to it; its exit is the last."""

import pytest

from aiocluster import (
    WorkerDisconnected,
    WorkerExited,
    WorkerForked,
    WorkerListening,
    WorkerMessage,
    WorkerOnline,
)
from tests.support.cluster import OBEDIENT_APP, end, first, kill, serving

ORDER = [WorkerForked, WorkerOnline, WorkerListening, WorkerDisconnected, WorkerExited]
NAMES = [kind.__name__ for kind in ORDER]


@pytest.mark.parametrize("path", ["/end/kill", "/end/fault", "/end/_exit/3", "/end/exit/0"])
async def test_a_whole_life_is_told_in_order(path: str) -> None:
    """Forked, online, listening, disconnected, exited: each once, however it ends."""
    async with serving() as (cluster, heard):
        kill(first(cluster).pid)
        replacement = await heard.replacement_of(first(cluster))
        while (dead := await end(cluster, path)) is not replacement:
            await heard.exit_of(dead)
        await heard.exit_of(replacement)

    assert heard.kinds(replacement.id) == NAMES


async def test_a_stopped_cluster_tells_the_end_of_every_worker() -> None:
    """`stop` returns when all have exited, and each has told so, as asked for."""
    async with serving(workers=3) as (_, heard):
        pass

    assert sorted(heard.kinds(1)) == ["WorkerDisconnected", "WorkerExited"]
    assert len(heard.about_workers()) == 6
    assert [(e.code, e.signal, e.voluntary, e.reason) for e in heard.of_kind(WorkerExited)] == [
        (0, None, True, "stop")
    ] * 3
    assert all(event.voluntary for event in heard.of_kind(WorkerDisconnected))
    for worker_id in (1, 2, 3):
        assert heard.kinds(worker_id)[-1] == "WorkerExited"


async def test_what_a_worker_sent_before_it_died_comes_before_its_end() -> None:
    """Last words are heard: all that left the worker, then its exit, in this order."""
    async with serving(OBEDIENT_APP) as (cluster, heard):
        worker = first(cluster)
        await worker.send(["send_many_and_exit", 100, 42])
        exited = await heard.exit_of(worker)

    assert heard.messages(worker) == list(range(100))
    assert heard.kinds(worker.id)[-2:] == ["WorkerDisconnected", "WorkerExited"]
    assert (exited.code, exited.reason) == (42, "crash")


async def test_the_same_worker_is_in_all_its_events() -> None:
    """The event's worker is the cluster's handle itself."""
    async with serving() as (cluster, heard):
        added = await cluster.fork()
        await heard.next(WorkerListening, lambda event: event.worker is added)
        assert cluster.workers[added.id] is added
        added.kill(9)
        await heard.exit_of(added)

    assert all(
        event.worker is added for event in heard.about_workers() if event.worker.id == added.id
    )
    assert heard.kinds(added.id)[:2] == ["WorkerForked", "WorkerOnline"]


async def test_listening_carries_the_real_addresses() -> None:
    """Where port 0 was asked for, the event has the port that clients connect to."""
    async with serving(bind=["127.0.0.1:0", "127.0.0.1:0"]) as (cluster, heard):
        added = await cluster.fork()
        event = await heard.next(WorkerListening, lambda event: event.worker is added)

    assert event.addresses == cluster.addresses
    assert len({port for _, port in event.addresses}) == 2
    assert 0 not in {port for _, port in event.addresses}


async def test_a_worker_that_dies_at_its_start_leaves_out_what_it_did_not_reach() -> None:
    """Never online: forked, disconnected, exited."""
    app = "tests.support.apps:make_app_unless_told_to_crash"
    async with serving(app, workers=1, restart="never") as (cluster, heard):
        added = await cluster.fork(env={"CRASH": "6"})
        exited = await heard.exit_of(added)

    kinds = heard.kinds(added.id)
    assert (exited.code, exited.reason) == (6, "crash")
    assert kinds in (
        ["WorkerForked", "WorkerDisconnected", "WorkerExited"],
        ["WorkerForked", "WorkerOnline", "WorkerDisconnected", "WorkerExited"],
    )
    assert heard.of_kind(WorkerMessage) == []

"""Node's rows on how a worker's end is told."""

import pytest

from aiocluster import WorkerDisconnected, WorkerExited, WorkerMessage
from tests.support.cluster import (
    OBEDIENT_APP,
    Client,
    first,
    kill,
    logged,
    serving,
    who_answers,
)

ALONE = {"workers": 1, "restart": "never"}


# node: worker-exit
async def test_an_exit_with_a_code_is_one_disconnect_and_one_exit() -> None:
    """exit(42): involuntary, code 42, no signal, and the handle is dead."""
    async with serving(OBEDIENT_APP, **ALONE) as (cluster, heard):
        worker = first(cluster)
        await worker.send(["exit_at_once", 42])
        exited = await heard.exit_of(worker)
        assert dict(cluster.workers) == {}

    assert heard.kinds(worker.id) == ["WorkerDisconnected", "WorkerExited"]
    assert (exited.code, exited.signal, exited.voluntary) == (42, None, False)
    assert not heard.of_kind(WorkerDisconnected)[0].voluntary
    assert worker.is_dead
    assert not worker.is_connected


# node: worker-death
async def test_the_exit_event_has_the_handle_that_fork_returned() -> None:
    """Code 42, and one object from the first event to the last."""
    async with serving(OBEDIENT_APP, **ALONE) as (cluster, heard):
        added = await cluster.fork()
        await added.send(["exit", 42])
        exited = await heard.next(WorkerExited)

    assert exited.worker is added
    assert exited.code == 42


# node: worker-forced-exit
async def test_a_worker_keeps_its_own_exit_code_when_it_had_been_asked_to_go() -> None:
    """It was draining, and exits with 42 all the same: voluntary, code 42."""
    async with serving(OBEDIENT_APP, **ALONE) as (cluster, heard):
        worker = first(cluster)
        async with await Client.connect(cluster) as client:
            client.send("/hold")
            await heard.message(lambda message: message == "holding")
            exit_ = worker.drain()
            await worker.send(["exit_at_once", 42])
            exited = await exit_

    assert (exited.code, exited.voluntary, exited.reason) == (42, True, "drain")


# node: worker-kill
async def test_sigkill_is_one_disconnect_and_one_exit_without_a_code() -> None:
    """The signal is told, the code is None."""
    async with serving(**ALONE) as (cluster, heard):
        worker = first(cluster)
        kill(worker.pid)
        exited = await heard.exit_of(worker)

    assert heard.kinds(worker.id) == ["WorkerDisconnected", "WorkerExited"]
    assert (exited.code, exited.signal) == (None, 9)


# node: worker-isdead
async def test_is_dead_is_false_until_the_exit_event_and_true_in_it() -> None:
    """Not yet when it disconnects: the process may still run."""
    seen: list[tuple[str, bool]] = []
    async with serving(**ALONE) as (cluster, heard):
        worker = first(cluster)
        assert not worker.is_dead
        cluster.on(WorkerDisconnected, lambda _: seen.append(("disconnected", worker.is_dead)))
        cluster.on(WorkerExited, lambda _: seen.append(("exited", worker.is_dead)))
        kill(worker.pid)
        await heard.exit_of(worker)

    assert seen == [("disconnected", False), ("exited", True)]


# node: worker-isconnected
async def test_is_connected_ends_with_the_disconnect_event() -> None:
    """True while messages can cross, false in the event and after."""
    seen: list[bool] = []
    async with serving(**ALONE) as (cluster, _heard):
        worker = first(cluster)
        assert worker.is_connected
        cluster.on(WorkerDisconnected, lambda _: seen.append(worker.is_connected))
        await worker.drain()

    assert seen == [False]
    assert not worker.is_connected


# node: worker-disconnect-on-error (adapted: a worker does not bind; its start can fail)
async def test_a_worker_whose_start_fails_ends_by_itself() -> None:
    """It tells why, exits, and leaves nothing running."""
    app = "tests.support.apps:make_app_unless_told_to_crash"
    async with serving(app, **ALONE) as (cluster, heard):
        added = await cluster.fork(env={"RAISE": "1"})
        exited = await heard.exit_of(added)
        assert (await who_answers(cluster))["id"] == 1

    assert (exited.code, exited.reason) == (3, "boot_failed")


# node: ipc-throw, uncaught-exception (adapted: callbacks of the cluster's events)
async def test_an_exception_in_a_callback_leaves_the_channel_and_the_primary_alive(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged; the worker is heard on."""

    def fail(event: object) -> None:
        raise RuntimeError("thrown by a handler")

    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):
        cluster.on(WorkerMessage, fail)
        await first(cluster).send(["echo", 1])
        await first(cluster).send(["echo", 2])
        await heard.message(lambda message: message == 2)
        await logged(caplog, "thrown by a handler")

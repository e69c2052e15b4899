"""A loop that does not turn is seen, told with its stacks, and in the end replaced."""

import asyncio
import logging
import signal
from pathlib import Path
from typing import Any

import pytest

from aiocluster import WorkerBlocked, WorkerExited
from tests.support.cluster import Client, ask, first, kill, program_of, serving
from tests.support.program import is_running, until

HANG: dict[str, Any] = {"hang_timeout": 0.5, "lag_warning": 0}

SLOW_APP = "tests.support.apps:make_app_slowly"


@pytest.mark.parametrize(
    ("path", "function", "tells_tasks"),
    [("/spin", "in spin", True), ("/block", "in block", True), ("/grab", "in grab", False)],
)
async def test_it_is_killed_and_replaced_and_its_stack_is_told(
    path: str, function: str, tells_tasks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """In Python, in a call of the system, in C that keeps the interpreter: each is found."""
    async with serving(**HANG) as (cluster, heard), await Client.connect(cluster) as client:
        worker = cluster.workers[int(await client.get(path))]
        blocked = await heard.next(WorkerBlocked)
        exited = await heard.exit_of(worker)
        replacement = await heard.replacement_of(worker)

    assert blocked.worker is worker
    assert blocked.seconds >= 0.5
    assert function in blocked.stack
    assert ("tasks of the loop" in blocked.stack) == tells_tasks
    assert (exited.reason, exited.signal, exited.voluntary) == ("hang", signal.SIGKILL, False)
    assert exited.stack == blocked.stack
    assert replacement.slot == worker.slot
    assert function in caplog.text
    assert "its loop did not turn any more (hang)" in caplog.text
    assert heard.kinds(worker.id)[-3:] == ["WorkerBlocked", "WorkerDisconnected", "WorkerExited"]


async def test_the_clients_of_a_worker_that_hangs_are_let_go() -> None:
    """Its connections end with it, and who waited untaken at the only worker is served."""
    async with (
        serving(workers=1, **HANG) as (cluster, heard),
        await Client.connect(cluster) as client,
    ):
        worker = cluster.workers[int(await client.get("/block"))]
        waiting = asyncio.create_task(ask(cluster, "/who"))
        await client.closed()
        assert f'"id": {worker.id}' not in await waiting
        await heard.exit_of(worker)


async def test_a_stopped_worker_is_replaced_without_a_stack() -> None:
    """It can tell nothing, and is waited for no longer than the others."""
    async with serving(**HANG) as (cluster, heard):
        worker = first(cluster)
        kill(worker.pid, signal.SIGSTOP)
        exited = await heard.exit_of(worker)
        await heard.replacement_of(worker)

    assert (exited.reason, exited.stack) == ("hang", "")


async def test_a_long_block_is_told_once_and_kills_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The stack names the function, and when the loop turns again that is told too."""
    caplog.set_level(logging.INFO, "aiocluster.watchdog")
    shared_listener = tmp_path / "gate"
    async with (
        serving(lag_warning=0.2) as (cluster, heard),
        await Client.connect(cluster) as client,
    ):
        worker = cluster.workers[int(await client.get(f"/block_until?path={shared_listener}"))]
        blocked = await heard.next(WorkerBlocked)
        shared_listener.touch()
        await until(lambda: "its loop turns again" in caplog.text, "it is not told")
        assert worker.id in cluster.workers
        assert len(heard.of_kind(WorkerExited)) == 0

    assert blocked.worker is worker
    assert blocked.seconds > 0.2
    assert "in block_until" in blocked.stack
    assert "tasks of the loop" in blocked.stack
    assert len(heard.of_kind(WorkerBlocked)) == 1
    assert caplog.text.count("in block_until") == 1  # of its loop, and not once more of its task
    assert heard.kinds(worker.id).count("WorkerExited") == 1  # at the end, of the stop
    assert (await heard.exit_of(worker)).reason == "stop"


async def test_a_slow_start_is_no_hang() -> None:
    """A boot has a limit of its own, far above this one."""
    async with serving(SLOW_APP, **HANG) as (cluster, heard):
        await ask(cluster, "/who")

    assert [event.reason for event in heard.of_kind(WorkerExited)] == ["stop", "stop"]
    assert heard.of_kind(WorkerBlocked) == []


async def test_a_paused_machine_kills_nobody(tmp_path: Path) -> None:
    """All processes are stopped for longer than hang_timeout; the primary is last, and first."""
    async with program_of(tmp_path, **HANG | {"hang_timeout": 2.0}) as program:
        url = (await program.url()).rstrip("/")
        workers = program.workers()
        for worker in workers:
            worker.suspend()
        # No event tells that time has passed while nobody ran, or that nothing happens.
        await asyncio.sleep(0.2)
        program.signal_group(signal.SIGSTOP)
        await asyncio.sleep(2.5)
        program.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.2)
        program.signal_group(signal.SIGCONT)
        for _ in range(10):
            await ask(url, "/who")
            await asyncio.sleep(0.1)
        assert all(is_running(worker) for worker in workers)
        assert await program.stop() == 0
        output = await program.all_output()

    assert "WorkerBlocked" not in output
    assert "has not turned" not in output


async def test_a_primary_that_was_stopped_alone_kills_nobody(tmp_path: Path) -> None:
    """It does not know what the workers did meanwhile, and holds nothing against them."""
    async with program_of(tmp_path, **HANG) as program:
        url = (await program.url()).rstrip("/")
        workers = program.workers()
        program.send_signal(signal.SIGSTOP)
        await asyncio.sleep(1.5)  # as above
        program.send_signal(signal.SIGCONT)
        await ask(url, "/who")
        assert all(is_running(worker) for worker in workers)
        assert await program.stop() == 0
        output = await program.all_output()

    assert "WorkerBlocked" not in output

"""Node's rows on killing workers, and on the death of the primary."""

import asyncio
import signal
from pathlib import Path

import pytest

from aiocluster import Cluster, WorkerExited, WorkerMessage
from tests.support.cluster import OBEDIENT_APP, Client, first, gone, kill, program_of, serving

ALONE = {"workers": 1, "restart": "never"}


# node: worker-kill-signal
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
async def test_kill_sends_the_signal_that_was_asked_for(number: signal.Signals) -> None:
    """The exit tells that signal; the worker is in the map no more when the event comes."""
    async with serving(**ALONE) as (cluster, _heard):
        worker = first(cluster)
        left: list[int] = []
        cluster.on(WorkerExited, lambda _: left.append(len(cluster.workers)))
        exited = await worker.kill(number)

    assert (exited.code, exited.signal, exited.voluntary) == (None, number, True)
    assert exited.reason == "kill"
    assert left == [0]


# node: worker-kill-signal (without one: TERM, which drains)
async def test_kill_without_a_signal_lets_the_worker_finish() -> None:
    """What it serves is answered, and it exits with 0."""
    async with serving(OBEDIENT_APP, **ALONE) as (cluster, heard):
        worker = first(cluster)
        async with await Client.connect(cluster) as client:
            client.send("/hold")
            await heard.message(lambda message: message == "holding")
            exit_ = worker.kill()
            await worker.send(["release"])
            assert await client.answer() == "released"
        exited = await exit_

    assert (exited.code, exited.signal, exited.reason) == (0, None, "kill")


# node: kill-infinite-loop
@pytest.mark.parametrize("path", ["/spin", "/block"])
async def test_a_worker_in_an_endless_loop_dies_of_term(path: str) -> None:
    """Its loop never hears the signal; it dies of it all the same."""
    async with serving(**ALONE) as (cluster, _heard):
        worker = first(cluster)
        async with await Client.connect(cluster) as client:
            await client.get(path)
            exited = await worker.kill()

    assert (exited.code, exited.signal, exited.voluntary) == (None, signal.SIGTERM, True)


# node: kill-infinite-loop
async def test_an_operators_term_ends_an_endless_loop_too() -> None:
    """`kill PID` from a shell, where the primary was not asked."""
    async with serving(workers=1) as (cluster, heard):
        worker = first(cluster)
        async with await Client.connect(cluster) as client:
            await client.get("/spin")
            kill(worker.pid, signal.SIGTERM)
            exited = await heard.exit_of(worker)
        await heard.replacement_of(worker)

    assert exited.signal == signal.SIGTERM


# node: kill-disconnect
async def test_an_operators_term_lets_a_worker_finish_and_it_is_replaced() -> None:
    """TERM from outside is a drain that the worker asks for: code 0, voluntary."""
    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):
        worker = first(cluster)
        kill(worker.pid, signal.SIGTERM)
        exited = await heard.exit_of(worker)
        replacement = await heard.replacement_of(worker)

    assert (exited.code, exited.signal, exited.voluntary) == (0, None, True)
    assert replacement.slot == worker.slot


# node: primary-error
async def test_an_error_of_the_primary_takes_all_workers_with_it(tmp_path: Path) -> None:
    """The program dies of something it did not foresee: not 0, and no process lives on."""
    (tmp_path / "own.py").write_text(
        "import os\n"
        "async def crash(cluster):\n"
        "    cluster.on(__import__('aiocluster').WorkerMessage, lambda event: os._exit(1))\n"
    )
    async with program_of(tmp_path, more="from own import crash as on_start") as program:
        url = await program.url()
        others = program.descendants()
        async with await Client.connect(url) as client:
            client.send("/tell/die")
        assert await program.exit_code() == 1
        await gone(others)


# node: primary-error (adapted: what on_start raises is no reason to die)
async def test_an_exception_in_on_start_is_told_and_the_cluster_serves_on(tmp_path: Path) -> None:
    """The primary does not fall with the user's code in it."""
    (tmp_path / "own.py").write_text("async def fail(cluster):\n    raise RuntimeError('mine')\n")
    async with program_of(tmp_path, more="from own import fail as on_start") as program:
        url = await program.url()
        await program.line("RuntimeError: mine")
        async with await Client.connect(url) as client:
            assert '"id"' in await client.get("/who")
        assert await program.stop() == 0


# node: primary-kill
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL])
async def test_no_worker_outlives_the_primary(tmp_path: Path, number: signal.Signals) -> None:
    """However it goes."""
    async with program_of(tmp_path) as program:
        await program.url()
        others = program.descendants()
        program.send_signal(number)
        await gone(others)
        await program.exit_code()


# node: worker-events (adapted: one subject, the cluster; every subscriber hears)
async def test_a_message_is_seen_by_all_who_listen() -> None:
    """Two iterators and a callback each see the one message."""

    async def first_message(cluster: Cluster) -> object:
        async for event in cluster.events():
            if isinstance(event, WorkerMessage):
                return event.message
        return None

    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):
        listeners = [asyncio.create_task(first_message(cluster)) for _ in range(2)]
        await asyncio.sleep(0)
        await first(cluster).send(["echo", "seen"])
        assert await heard.message() == "seen"
        assert await asyncio.gather(*listeners) == ["seen", "seen"]

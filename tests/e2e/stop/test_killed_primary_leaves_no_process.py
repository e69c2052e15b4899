"""The primary is killed with SIGKILL: nothing survives it, and running requests may finish."""

import signal
from pathlib import Path

import psutil
import pytest

from tests.support.cluster import Client, gone, kill, program_of


async def test_every_process_goes_with_the_primary(tmp_path: Path) -> None:
    """Idle workers and the zygote end by themselves."""
    async with program_of(tmp_path, workers=3) as program:
        await program.url()
        others = program.descendants()
        kill(program.pid)
        await gone(others)
        assert await program.exit_code() == -signal.SIGKILL

    assert len(others) == 4


@pytest.mark.parametrize("path", ["/block", "/spin"])
async def test_a_blocked_worker_does_not_outlive_the_primary(tmp_path: Path, path: str) -> None:
    """A loop that never turns again cannot see the end; the zygote ends it."""
    async with program_of(tmp_path, graceful_timeout=0.2) as program:
        url = await program.url()
        others = program.descendants()
        async with await Client.connect(url) as client:
            await client.get(path)
            kill(program.pid)
            await gone(others)
            assert await program.exit_code() == -signal.SIGKILL


async def test_a_running_request_is_finished_first(tmp_path: Path) -> None:
    """Within graceful_timeout the worker answers what it had begun."""
    async with program_of(tmp_path, workers=1, graceful_timeout=60) as program:
        url = await program.url()
        others = program.descendants()
        (worker,) = program.workers()
        async with await Client.connect(url) as client:
            client.send("/hold")
            await program.line("message='holding'")
            kill(program.pid)
            await program.line("the channel to the primary is closed; finishing what is open")
            kill(worker.pid, signal.SIGUSR1)
            answer = await client.answer()
        await gone(others)
        assert await program.exit_code() == -signal.SIGKILL

    assert answer == "released"


async def test_a_request_that_does_not_end_is_cut_after_graceful_timeout(tmp_path: Path) -> None:
    """No handler holds a worker for longer than graceful_timeout."""
    async with program_of(tmp_path, workers=1, graceful_timeout=0.2) as program:
        url = await program.url()
        others = program.descendants()
        async with await Client.connect(url) as client:
            client.send("/hold")
            await program.line("message='holding'")
            kill(program.pid)
            await client.closed()
            await gone(others)
            assert await program.exit_code() == -signal.SIGKILL


async def test_workers_end_when_primary_and_zygote_are_killed(tmp_path: Path) -> None:
    """Without anybody to end them, workers see that their channel is closed and go."""
    async with program_of(tmp_path) as program:
        await program.url()
        zygote, workers = program.zygote(), program.workers()
        kill(zygote.pid)
        kill(program.pid)
        await gone([zygote, *workers])
        assert await program.exit_code() == -signal.SIGKILL

    assert len(workers) == 2


async def test_a_blocked_worker_of_an_earlier_zygote_is_ended_by_the_next(tmp_path: Path) -> None:
    """A new zygote also watches over the workers that it did not fork."""
    async with program_of(tmp_path, graceful_timeout=0.2) as program:
        url = await program.url()
        zygote, workers = program.zygote(), program.workers()
        async with await Client.connect(url) as client:
            await client.get("/spin")
            kill(zygote.pid)
            await program.line("starting a new one")
            # A replacement proves that the next zygote is ready, and so was told of the rest.
            kill(next(worker.pid for worker in workers if not _spins(worker)))
            await program.line("event WorkerListening id=3")
            everything = [*workers, *psutil.Process(program.pid).children(recursive=True)]
            kill(program.pid)
            await gone(everything)
            assert await program.exit_code() == -signal.SIGKILL


def _spins(worker: psutil.Process) -> bool:
    return bool(worker.net_connections("tcp"))

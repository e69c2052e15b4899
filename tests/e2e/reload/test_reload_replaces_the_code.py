"""A reload: every worker is replaced by one with the new code, and nothing else changes."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from aiocluster import Event, Reloaded
from tests.support.cluster import serving
from tests.support.program import until
from tests.support.reloading import Deployment
from tests.support.waiting import turns
from tests.support.wire import Wire


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
async def test_a_signal_reloads(tmp_path: Path, number: int) -> None:
    """The new code serves from all workers; the program is still the same process."""
    async with Deployment(tmp_path) as program:
        before = await program.serving()
        program.release_code(2)
        program.send_signal(number)
        await program.reloaded(2)
        after = await program.serving()

        assert {version for version, _ in before} == {1}
        assert {version for version, _ in after} == {2}
        await until(lambda: len(program.descendants()) == 3, "the old ones are gone")
        assert {process.pid for process in program.workers()} == {pid for _, pid in after}
        assert await program.stop() == 0
        assert program.left_behind() == []
        assert "Traceback" not in await program.all_output()


async def test_a_signal_to_all_processes_reloads_once(tmp_path: Path) -> None:
    """As `pkill -HUP` or a closed terminal sends it; workers leave it to the primary."""
    async with Deployment(tmp_path) as program:
        await program.serving()
        program.release_code(2)
        program.signal_group(signal.SIGHUP)
        await program.reloaded(2)

        assert {version for version, _ in await program.serving()} == {2}
        assert await program.stop() == 0


async def test_one_that_comes_while_it_starts_is_not_forgotten(tmp_path: Path) -> None:
    """The code may have changed since it was imported."""
    deployment = Deployment(tmp_path)
    slow = "import pathlib\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)"
    deployment.release_code(1, "pathlib.Path('importing').touch()\n" + slow)
    async with deployment as program:
        await program.until_exists("importing")
        program.release_code(2)
        program.send_signal(signal.SIGHUP)
        await program.line("will reload after the start")
        program.write("go")
        await program.reloaded(2)

        assert {version for version, _ in await program.serving()} == {2}
        assert await program.stop() == 0


async def test_the_old_serve_while_the_new_take_long_to_boot(tmp_path: Path) -> None:
    """However slow the import is; never is there no worker."""
    async with Deployment(tmp_path) as program:
        before = await program.serving()
        slow = "while not pathlib.Path('go').exists(): time.sleep(0.01)"
        program.release_code(2, "pathlib.Path('importing').touch()\n" + slow)
        program.send_signal(signal.SIGHUP)
        await program.until_exists("importing")
        assert await program.serving() == before

        program.write("go")
        await program.reloaded(2)
        assert {version for version, _ in await program.serving()} == {2}
        assert await program.stop() == 0


async def test_a_request_that_had_begun_is_answered_by_the_old(tmp_path: Path) -> None:
    """While it holds its worker up a crash elsewhere is replaced, and TERM stops."""
    async with Deployment(tmp_path) as program, Wire(await program.url()) as wire:
        await wire.ask("/hold")
        await program.until_exists("holding1")
        program.release_code(2)
        program.send_signal(signal.SIGHUP)
        await program.reloaded(2)

        _, victim = await program.who()
        os.kill(victim, signal.SIGKILL)
        await program.line(r"worker 5 .* is ready")
        program.send_signal(signal.SIGTERM)
        await program.line("stopping")
        program.write("release")
        assert (await wire.response()).body == b"held"
        assert await program.exit_code() == 0


async def test_a_second_reload_asked_for_follows_once(tmp_path: Path) -> None:
    """For all who asked during the first."""
    async with Deployment(tmp_path) as program, Wire(await program.url()) as wire:
        await wire.ask("/hold")
        await program.until_exists("holding1")
        program.send_signal(signal.SIGHUP)
        await program.reloaded(2)
        for _ in range(3):  # the first still waits for the request
            program.send_signal(signal.SIGHUP)
        program.release_code(9)
        program.write("release")
        assert (await wire.response()).body == b"held"
        await program.reloaded(3)
        await until(lambda: len(program.descendants()) == 3, "the old ones gone")

        assert {version for version, _ in await program.serving()} == {9}
        assert await program.stop() == 0
        assert "generation 4" not in program.output


async def test_a_cluster_in_a_loop_reloads_too() -> None:
    """`await cluster.reload()` returns when the old ones are gone; slots are kept."""
    async with serving(workers=2, min_uptime=0.05) as (cluster, heard):
        before = {worker.slot: worker.id for worker in cluster.workers.values()}
        await cluster.reload()
        after = {worker.slot: worker.id for worker in cluster.workers.values()}

        assert before.keys() == after.keys()
        assert not {*before.values()} & {*after.values()}
        assert {worker.generation for worker in cluster.workers.values()} == {2}
        assert {worker.restarts for worker in cluster.workers.values()} == {1}
        assert [event.generation for event in heard.of_kind(Reloaded)] == [2]


async def test_never_fewer_ready_workers_than_before() -> None:
    """Counted at every event of every reload."""
    async with serving(workers=2, min_uptime=0) as (cluster, _):
        fewest = 2

        def count(_: Event) -> None:
            nonlocal fewest
            ready = [w for w in cluster.workers.values() if w.phase.value == "ready"]
            fewest = min(fewest, len(ready))

        off = cluster.on(Event, count)
        for _ in range(3):
            await cluster.reload()
        off()

    assert fewest == 2


async def test_reloads_leave_nothing_behind() -> None:
    """No process, no descriptor, no zombie, after twenty of them."""
    strangers = {process.pid for process in psutil.Process().children(recursive=True)}
    async with serving(workers=1, min_uptime=0) as (cluster, _):
        await cluster.reload()
        before = await _fds_when_quiet(strangers)
        for _ in range(20):
            await cluster.reload()
        assert await _fds_when_quiet(strangers) == before


async def _fds_when_quiet(strangers: set[int]) -> int:
    """Return how many descriptors we have when one zygote and its worker are all there is."""

    def ours() -> set[int]:
        children = psutil.Process().children(recursive=True)
        return {process.pid for process in children} - strangers

    await until(lambda: len(ours()) == 2, "the old zygotes are gone")
    await turns()
    return len(os.listdir("/proc/self/fd"))

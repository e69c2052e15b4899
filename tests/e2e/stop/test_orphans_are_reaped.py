"""Like process 1 of a container: who loses his parent below us does not stay a zombie."""

import asyncio
from pathlib import Path

import psutil

from tests.support.cluster import ask, kill, program_of
from tests.support.program import until


async def test_an_orphan_that_a_handler_left_is_adopted_and_reaped(tmp_path: Path) -> None:
    """A process whose parent has gone becomes the zygote's, and leaves no zombie there."""
    async with program_of(tmp_path) as program:
        url = (await program.url()).rstrip("/")
        orphan = int(await ask(url, "/orphan"))
        zygote = program.zygote().pid
        await until(lambda: psutil.Process(orphan).ppid() == zygote, "nobody adopts it")
        kill(orphan)
        await until(lambda: not psutil.pid_exists(orphan), "it stays a zombie")
        assert await program.stop() == 0


async def test_the_child_of_a_killed_worker_ends_with_it(tmp_path: Path) -> None:
    """What a worker had started does not outlive its SIGKILL, and stays no zombie."""
    async with program_of(tmp_path, workers=1) as program:
        url = (await program.url()).rstrip("/")
        (worker,) = program.workers()
        child = int(await ask(url, "/child"))
        kill(worker.pid)
        await until(lambda: not psutil.pid_exists(child), "it lives, or stays a zombie")


async def test_orphans_that_outlive_the_zygote_are_reaped(tmp_path: Path) -> None:
    """They become the primary's, which is not their parent either."""
    async with program_of(tmp_path) as program:
        url = (await program.url()).rstrip("/")
        orphan = int(await ask(url, "/orphan"))
        kill(program.zygote().pid)
        await until(lambda: psutil.Process(orphan).ppid() == program.pid, "nobody adopts it")
        kill(orphan)
        await until(lambda: not psutil.pid_exists(orphan), "it stays a zombie")
        assert await program.stop() == 0


async def test_a_status_that_is_asked_for_late_is_not_taken(tmp_path: Path) -> None:
    """A child that `on_start` started may have been dead for long when it is asked for."""
    (tmp_path / "own.py").write_text(
        "import asyncio, subprocess\n"
        "async def run_child(cluster):\n"
        "    child = subprocess.Popen(['sh', '-c', 'exit 7'])\n"
        "    await asyncio.sleep(2.5)  # longer than a look at the children takes to come\n"
        "    print('ended with', child.wait())\n"
    )
    async with program_of(tmp_path, more="from own import run_child as on_start") as program:
        assert await program.line("ended with") == "ended with 7"


async def test_children_of_the_users_own_keep_their_exit_code(tmp_path: Path) -> None:
    """What `on_start` starts and waits for is not reaped under its feet."""
    (tmp_path / "own.py").write_text(
        "import asyncio\n"
        "async def run_children(cluster):\n"
        "    for code in range(3):\n"
        "        child = await asyncio.create_subprocess_exec('sh', '-c', f'exit {code}')\n"
        "        print('child', code, 'ended with', await child.wait())\n"
    )
    async with program_of(tmp_path, more="from own import run_children as on_start") as program:
        await program.url()
        lines = [await program.line(f"child {code} ended") for code in range(3)]

    assert lines == [f"child {code} ended with {code}" for code in range(3)]


async def test_no_zombie_is_left_by_many_deaths(tmp_path: Path) -> None:
    """After ten kills the primary and its zygote have living children only."""
    async with program_of(tmp_path, workers=2, max_failures=100) as program:
        await program.url()
        for number in range(10):
            (worker, *_) = program.workers()
            kill(worker.pid)
            await program.line(f"event WorkerExited .*pid={worker.pid} ")
            await program.line(f"event WorkerListening id={number + 3} ")
        await asyncio.sleep(0)
        statuses = {process.status() for process in program.descendants()}

    assert psutil.STATUS_ZOMBIE not in statuses

"""Out of file descriptors: accepting pauses and resumes, no connection is lost, nothing spins."""

import asyncio
import json
import resource
import signal
from pathlib import Path

import psutil

from tests.support.cluster import Client, ask, program_of
from tests.support.program import until

LOW = "ulimit -n 48"


async def test_every_process_raises_its_soft_limit_to_the_hard_one(tmp_path: Path) -> None:
    """Started with 64 of 128 allowed: primary, zygote and workers have 128.

    So has a zygote that is started while the primary has no more than 64 again.
    """
    limits = "ulimit -S -n 64; ulimit -H -n 128"
    async with program_of(tmp_path, command=limits, min_uptime=0.1) as program:
        url = (await program.url()).rstrip("/")
        told = json.loads(await ask(url, "/files"))
        processes = [psutil.Process(program.pid), *program.descendants()]
        seen = {process.rlimit(resource.RLIMIT_NOFILE) for process in processes}
        processes[0].rlimit(resource.RLIMIT_NOFILE, (64, 128))
        program.send_signal(signal.SIGHUP)
        await program.line("reload: generation 2 serves")
        await until(lambda: len(program.descendants()) == 3, "the old are still there")
        seen |= {process.rlimit(resource.RLIMIT_NOFILE) for process in program.descendants()}

    assert told == [128, 128]
    assert seen == {(128, 128)}


async def test_a_burst_beyond_the_limit_is_served_and_told_once(tmp_path: Path) -> None:
    """More connections at one wake-up than the primary has descriptors: each is answered."""
    async with program_of(tmp_path, command=LOW) as program:
        url = (await program.url()).rstrip("/")
        program.send_signal(signal.SIGSTOP)
        clients = [await Client.connect(url) for _ in range(60)]
        for client in clients:
            client.send("/who")
        program.send_signal(signal.SIGCONT)
        await asyncio.gather(*(_answered(client) for client in clients))
        await program.line("accepting on .* again")
        await ask(url, "/who")
        assert await program.stop() == 0
        output = await program.all_output()

    assert output.count("failed: [Errno 24] Too many open files") == 1
    assert output.count("connections lost") == 0


async def _answered(client: Client) -> None:
    async with client:
        await client.answer()


HOG = """
import asyncio, os
import aiocluster

async def hog(cluster):
    told = asyncio.Event()
    cluster.on(aiocluster.WorkerMessage, lambda event: told.set())
    for _ in range(2):
        await told.wait()
        told.clear()
        files = []
        try:
            while True:
                files.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            os.write(1, b"hogging\\n")
        await told.wait()
        told.clear()
        for file in files:
            os.close(file)
"""


# node: accept-fail
async def test_while_there_is_no_descriptor_nothing_spins_and_one_line_is_logged(
    tmp_path: Path,
) -> None:
    """Clients wait in the backlog, those connected are served, the primary costs next to nothing.

    Afterwards those who waited are answered; a second shortage is told again.
    """
    (tmp_path / "hog.py").write_text(HOG)
    async with program_of(
        tmp_path, command=LOW, more="from hog import hog as on_start", workers=1
    ) as program:
        url = (await program.url()).rstrip("/")
        async with await Client.connect(url) as friend:
            for round_ in range(2):
                seen = len(program.lines)
                await friend.get("/tell/start")
                await program.line("hogging", after=seen)
                waiting = asyncio.create_task(ask(url, "/who"))
                await program.line("connections wait in the backlog", after=seen)
                primary, (worker,) = psutil.Process(program.pid), program.workers()
                before = _cpu(primary), _cpu(worker)
                for _ in range(1000):
                    await friend.get("/who")
                spent = _cpu(primary) - before[0], _cpu(worker) - before[1]
                assert not waiting.done()
                await friend.get("/tell/stop")
                assert await waiting
                await program.line("accepting on .* again", after=seen)
                lines = program.lines[seen:]
                assert len([line for line in lines if "wait in the backlog" in line]) == 1, round_
                assert spent[0] <= spent[1] / 2 + 0.02, spent


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


# node: E2
async def test_a_worker_that_met_its_limit_gets_connections_again(tmp_path: Path) -> None:
    """Both are told. Meanwhile the other serves all, and nothing is lost."""
    async with program_of(tmp_path, command="ulimit -n 64") as program:
        url = (await program.url()).rstrip("/")
        async with await Client.connect(url) as friend:
            hogging = json.loads(await friend.get("/hog"))
            assert hogging["files"] > 10
            full = f"id={hogging['id']} "
            await program.line(f"event WorkerAtFdLimit {full}")
            meanwhile = [json.loads(await ask(url, "/who"))["id"] for _ in range(20)]
            assert await friend.get("/unhog") == "closed"
            await program.line(f"event WorkerBelowFdLimit {full}")
            afterwards = [json.loads(await ask(url, "/who"))["id"] for _ in range(20)]
        assert await program.stop() == 0
        output = await program.all_output()

    assert hogging["id"] not in meanwhile
    assert afterwards.count(hogging["id"]) == 10
    assert output.count("event WorkerAtFdLimit") == output.count("event WorkerBelowFdLimit") == 1
    assert "connections lost" not in output

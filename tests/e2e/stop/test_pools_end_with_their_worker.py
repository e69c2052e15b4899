"""What Python itself runs at an interpreter's end runs in a worker, too."""

from pathlib import Path

import psutil
import pytest

from tests.support.cluster import ask, gone, kill
from tests.support.program import Program, is_running

SOURCE = """
import asyncio, multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from aiohttp import web
import aiocluster

context = multiprocessing.get_context("fork")

async def pool(request):
    request.app["pool"] = ProcessPoolExecutor(2, context)
    loop = asyncio.get_running_loop()
    pids = {await loop.run_in_executor(request.app["pool"], os.getpid) for _ in range(2)}
    return web.Response(text=" ".join(map(str, pids)))

async def daemon(request):
    process = context.Process(target=time.sleep, args=(1000,), daemon=True)
    process.start()
    return web.Response(text=str(process.pid))

def make_app():
    app = web.Application()
    app["pool"] = None
    app.add_routes([web.get("/pool", pool), web.get("/daemon", daemon)])
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=1, bind="127.0.0.1:0")
"""


@pytest.mark.parametrize("path", ["/pool", "/daemon"])
@pytest.mark.parametrize("end", ["stop", "the primary is killed"])
async def test_no_process_of_a_pool_is_left(tmp_path: Path, path: str, end: str) -> None:
    """A process pool, and multiprocessing's daemons, end with the worker that made them."""
    async with Program(tmp_path, SOURCE) as program:
        url = (await program.url()).rstrip("/")
        pool = [psutil.Process(int(pid)) for pid in (await ask(url, path)).split()]
        assert pool
        if end == "stop":
            assert await program.stop() == 0
        else:
            kill(program.pid)
        await gone(pool)


async def test_what_a_dead_worker_leaves_ends_and_a_daemon_stays(tmp_path: Path) -> None:
    """Its pool, a helper that does not hear TERM; not what has made itself a session."""
    source = SOURCE.replace(
        "def make_app():",
        "async def helper(request):\n"
        "    command = 'trap \"\" TERM; sleep 1000'\n"
        "    own = request.query_string == 'own'\n"
        "    null = asyncio.subprocess.DEVNULL\n"
        "    child = await asyncio.create_subprocess_shell(\n"
        "        command, start_new_session=own, stdout=null, stderr=null\n"
        "    )\n"
        "    return web.Response(text=str(child.pid))\n"
        "\n"
        "def make_app():",
    ).replace("[web.get", "[web.get('/helper', helper), web.get", 1)
    async with Program(tmp_path, source) as program:
        url = (await program.url()).rstrip("/")
        pids = [*(await ask(url, "/pool")).split(), await ask(url, "/helper")]
        left = [psutil.Process(int(pid)) for pid in pids]
        daemon = psutil.Process(int(await ask(url, "/helper?own")))
        try:
            (worker,) = program.workers()
            kill(worker.pid)
            await gone(left)
            await program.line("worker 2 .* is ready")
            assert await program.stop() == 0
            assert is_running(daemon)
        finally:
            for process in [*daemon.children(), daemon]:
                process.kill()


async def test_a_program_keeps_its_own_children(tmp_path: Path) -> None:
    """A worker that ends does not take the program's daemons for its own."""
    source = SOURCE.replace(
        "    aiocluster.run(",
        "    own = context.Process(target=time.sleep, args=(1000,), daemon=True)\n"
        "    own.start()\n"
        "    print('own', own.pid, flush=True)\n"
        "    aiocluster.run(",
    )
    async with Program(tmp_path, source) as program:
        await program.url()
        own = psutil.Process(int((await program.line("^own")).split()[1]))
        worker = next(p for p in program.descendants() if p.ppid() != program.pid)
        kill(worker.pid, 15)
        await program.line("worker 2 .* is ready")
        assert own.is_running()
        assert await program.stop() == 0
        await gone([own])

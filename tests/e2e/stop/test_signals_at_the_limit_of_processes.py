"""Where neither a thread, a process nor a descriptor is to be had, a signal works as ever."""

import signal
from pathlib import Path

import pytest

from tests.support.program import Program
from tests.support.wire import Wire

REPOSITORY = str(Path(__file__).parents[3])

# As a user of its own, for whom alone the limit of processes holds; see
# test_start_that_the_kernel_refuses.py.
SOURCE = """
import asyncio, encodings.idna, os, resource, uvloop
from aiohttp import web
from aiocluster import run

def allow_nothing_new():
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    spare = os.dup(0)
    os.close(spare)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))

async def limit(request):
    asyncio.get_running_loop().call_soon(allow_nothing_new)
    return web.Response(text="limited")

def make_app():
    app = web.Application()
    app.router.add_get("/", limit)
    return app

async def on_start(cluster):
    await asyncio.to_thread(int)  # the loop has a pool of threads, which a stop waits for
    await cluster.workers[1].exited
    allow_nothing_new()
    print("limited", flush=True)

if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(54321, 54321, 54321)
    os.setresuid(54321, 54321, 54321)
run(make_app, workers=1, bind="127.0.0.1:0", on_start=on_start)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
async def test_a_worker_and_then_the_program_end(tmp_path: Path, number: int) -> None:
    """The first TERM ends the worker, and the first signal the program; nothing is left."""
    async with Program(tmp_path, SOURCE, env={"PYTHONPATH": REPOSITORY}) as program:
        url = await program.url()
        async with Wire(url) as wire:
            assert (await wire.get("/")).body == b"limited"
        (worker,) = program.workers()
        worker.send_signal(signal.SIGTERM)
        await program.line("worker 1 .* exited with code 0")
        await program.line("^limited$")
        assert await program.stop(number) == 0
        assert program.left_behind() == []
        assert "Traceback" not in await program.all_output()

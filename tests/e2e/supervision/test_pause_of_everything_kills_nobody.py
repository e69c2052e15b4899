"""A container that is paused as a whole: no deadline passes for those who could not run."""

import asyncio
import signal
from pathlib import Path

from tests.support.program import Program, is_running

SOURCE = """
import asyncio
import pathlib

import aiocluster
from aiohttp import web

async def exists(name):
    print("waiting for", name, flush=True)
    while not pathlib.Path(name).exists():
        await asyncio.sleep(0.01)

async def hold(request):
    await exists("response")
    return web.Response(text="done")

async def make_app():
    await exists("boot")
    aiocluster.current_worker().on_drain(lambda: print("draining", flush=True))
    app = web.Application()
    app.router.add_get("/hold", hold)
    return app

async def on_start(cluster):
    async for event in cluster.events():
        print(event, flush=True)

if __name__ == "__main__":
    aiocluster.run(
        make_app, workers=1, bind="127.0.0.1:0", on_start=on_start, boot_timeout=10.0,
        graceful_timeout=0.5,
    )
"""


async def pause(program: Program, seconds: float) -> None:
    """Stop all of it for so long: no event tells that time has passed while nobody ran."""
    children = program.descendants()
    for process in children:
        process.suspend()
    program.send_signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    program.send_signal(signal.SIGCONT)
    for process in children:
        process.resume()


async def test_a_boot_outlives_it(tmp_path: Path) -> None:
    """The pause alone is longer than `boot_timeout`."""
    async with Program(tmp_path, SOURCE) as program:
        await program.line("waiting for boot")
        await pause(program, 11.0)
        workers = program.descendants()
        (tmp_path / "boot").touch()
        await program.url()
        assert all(is_running(worker) for worker in workers)
        assert await program.stop() == 0


async def test_a_worker_that_drains_ends_by_itself(tmp_path: Path) -> None:
    """It cuts its requests in order, hooks and all, and is not killed for being late."""
    (tmp_path / "boot").touch()
    async with Program(tmp_path, SOURCE) as program:
        url = await program.url()
        host, port = url.removeprefix("http://").rstrip("/").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        await program.line("waiting for response")
        program.send_signal(signal.SIGTERM)
        await program.line("draining")
        await pause(program, 6.0)
        assert await program.exit_code() == 1
        output = await program.all_output()
        assert await reader.read() == b""
        writer.close()

    assert "GET /hold" in output
    assert "code=1, signal=None" in output

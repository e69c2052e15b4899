"""A service manager sends TERM to every process at once, the workers included."""

import signal
from pathlib import Path

from tests.support.program import Program
from tests.support.wire import Wire

SOURCE = """
import os, time
from aiohttp import web
import aiocluster

def say(what):
    os.write(1, f"{what}\\n".encode())

async def blocking(request):
    say("blocked")
    while not os.path.exists("gate"):
        time.sleep(0.01)  # as a driver that is not asynchronous would
    return web.Response(text="done")

def make_app():
    app = web.Application()
    app.router.add_get("/", blocking)
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=1, bind="127.0.0.1:0", graceful_timeout=60)
"""


async def test_a_request_that_blocks_its_worker_is_finished(tmp_path: Path) -> None:
    """The worker cannot hear the signal for now, and does not die of it for that."""
    async with Program(tmp_path, SOURCE) as program:
        async with Wire(await program.url()) as wire:
            await wire.ask()
            await program.line("blocked")
            program.signal_group(signal.SIGTERM)
            await program.line("stopping, within 63 s")

            program.write("gate")

            assert (await wire.response()).body == b"done"
        assert await program.exit_code() == 0


async def test_a_worker_killed_while_it_drains_is_told_by_the_exit_code(tmp_path: Path) -> None:
    """Its request is lost: that is no clean end."""
    async with Program(tmp_path, SOURCE) as program:
        async with Wire(await program.url()) as wire:
            await wire.ask()
            await program.line("blocked")
            (worker,) = program.workers()
            program.send_signal(signal.SIGTERM)
            await program.line("stopping, within 63 s")

            worker.send_signal(signal.SIGKILL)

            assert await program.exit_code() == 1
        assert "WARNING worker 1" in await program.all_output()
        # It may have died before it was told to drain.
        assert "was killed by signal 9 (Killed) (s" in program.output

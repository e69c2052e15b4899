"""A worker that is due for replacement at the very moment of the stop."""

import signal
from pathlib import Path

from tests.support.program import Program
from tests.support.wire import Wire

SOURCE = """
import os, time
from aiohttp import web
import aiocluster

async def block(request):
    os.write(1, b"blocked\\n")
    while not os.path.exists("gate"):
        time.sleep(0.01)
    time.sleep(0.2)  # the worker looks at max_requests every 0.05 s: let a look be due
    return web.Response(text="done")

def make_app():
    app = web.Application()
    app.router.add_get("/", block)
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=1, bind="127.0.0.1:0", max_requests=1)
"""


async def test_max_requests_reached_while_stopping_changes_nothing(tmp_path: Path) -> None:
    """The worker asks to be replaced when nobody is any more: no traceback, exit code 0."""
    async with Program(tmp_path, SOURCE) as program:
        async with Wire(await program.url()) as wire:
            await wire.ask()
            await program.line("blocked")
            program.send_signal(signal.SIGTERM)
            await program.line("stopping")
            program.write("gate")
            assert (await wire.response()).body == b"done"
        assert await program.exit_code() == 0
        assert "Traceback" not in await program.all_output()

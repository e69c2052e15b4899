"""Ctrl-C in a terminal."""

import signal
from pathlib import Path

from tests.support.program import Program
from tests.support.wire import Wire

SOURCE = """
from aiohttp import web
import aiocluster

async def hello(request):
    return web.Response(text="hello")

def make_app():
    app = web.Application()
    app.router.add_get("/", hello)
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=2, bind="127.0.0.1:0")
"""


async def test_ctrl_c_prints_no_traceback(tmp_path: Path) -> None:
    """INT to every process at once, twice, with an idle client: a clean end, exit code 0."""
    async with Program(tmp_path, SOURCE) as program:
        async with Wire(await program.url()) as idle:
            assert (await idle.get()).body == b"hello"
            program.signal_group(signal.SIGINT, times=2)
            assert await idle.rest() == b""
        assert await program.exit_code() == 0
        output = await program.all_output()
        assert program.left_behind() == []

    assert "Traceback" not in output
    assert "KeyboardInterrupt" not in output

"""The command line does what `run` does."""

import sys
from pathlib import Path

import aiohttp
import pytest

from tests.support.program import Program

MODULE = """
from aiohttp import web

async def hello(request):
    return web.Response(text="hello")

def make_app():
    app = web.Application()
    app.router.add_get("/", hello)
    return app
"""

COMMANDS = {
    "python -m aiocluster": [sys.executable, "-m", "aiocluster"],
    "aiocluster": [str(Path(sys.executable).with_name("aiocluster"))],
}


@pytest.mark.parametrize("command", COMMANDS)
async def test_the_command_serves_a_module_of_the_current_folder(
    tmp_path: Path, command: str
) -> None:
    """`aiocluster run mod:make_app -w 2 -b ADDRESS -b ADDRESS` serves, stops, and has options."""
    line = "run shop:make_app -w 2 -b 127.0.0.1:0 -b 127.0.0.1:0 --graceful-timeout 25"
    program = Program(tmp_path, command=[*COMMANDS[command], *line.split()])
    program.write("shop.py", MODULE)
    async with program:
        urls = await program.urls()
        assert len(set(urls)) == 2
        for url in urls:
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                assert await response.text() == "hello"
        assert len(program.workers()) == 2
        assert await program.stop() == 0
        output = await program.all_output()

    assert "stopping, within 28 s" in output
    assert "Traceback" not in output

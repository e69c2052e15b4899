"""Elsewhere than on Linux `run` and the command serve in one process, with one warning."""

import re
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.support.program import Program

ROOT = Path(__file__).parents[3]
ON_THE_PATH = {"PYTHONPATH": str(ROOT)}

PROGRAM = """
from tests.support.elsewhere import pretend
pretend({platform!r})

from aiohttp import web
import aiocluster

async def hello(request):
    worker = aiocluster.current_worker()
    await worker.send(request.path)
    return web.Response(text=repr(worker))

async def close(app):
    print("cleaned up", flush=True)

async def make_app():
    app = web.Application()
    app.on_cleanup.append(close)
    app.router.add_get("/{{name}}", hello)
    return app

async def listen(cluster):
    cluster.on(aiocluster.WorkerMessage, lambda event: print("heard", event.message, flush=True))

if __name__ == "__main__":
    {start}
"""

RUN = """aiocluster.run(
        make_app, workers=3, bind=["127.0.0.1:0", "127.0.0.1:0"], policy="sticky", on_start=listen
    )
    print("goes on", flush=True)"""

COMMAND = """
from tests.support.elsewhere import pretend
pretend("darwin")
from aiocluster.ui.cli import main
main(prog_name="aiocluster")
"""


async def fetch(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


@pytest.mark.parametrize("platform", ["darwin", "win32"])
async def test_run_serves_in_one_process(platform: str, tmp_path: Path) -> None:
    """The same program as on Linux: at all addresses, with messages, and with code 0 at TERM."""
    source = PROGRAM.format(platform=platform, start=RUN)
    async with Program(tmp_path, source, env=ON_THE_PATH) as program:
        for number, url in enumerate(urls := await program.urls()):
            assert await fetch(f"{url}/{number}") == "<WorkerContext id=1 slot=0 role='web'>"
            await program.line(f"heard /{number}")
        assert len(urls) == 2
        assert program.descendants() == []
        assert await program.stop() == 0
        warnings = re.findall(r"WARNING .*", await program.all_output())
    assert len(warnings) == 1
    assert "one process" in warnings[0]
    assert "without effect here: workers=3, policy='sticky'" in warnings[0]
    assert program.lines.index("cleaned up") < program.lines.index("goes on")


async def test_the_command_serves_in_one_process(tmp_path: Path) -> None:
    """`aiocluster run pkg.module:name`, with options, and a start that fails with code 3."""
    app = PROGRAM.format(platform="darwin", start="pass").replace("pretend('darwin')", "")
    (tmp_path / "shop.py").write_text(app)
    (tmp_path / "command.py").write_text(COMMAND)
    command = [sys.executable, "command.py", "run", "shop:make_app", "-w", "2", "-b"]
    async with Program(tmp_path, command=[*command, "127.0.0.1:0"], env=ON_THE_PATH) as program:
        url = await program.url()
        assert "id=1" in await fetch(f"{url}/x")
        async with Program(
            tmp_path, command=[*command, url.removeprefix("http://")], env=ON_THE_PATH
        ) as second:
            assert await second.exit_code() == 3
            assert "could not start: cannot listen on 127.0.0.1:" in await second.all_output()
        program.send_signal(2)
        assert await program.exit_code() == 0


SCRIPT = """
import sys
from aiohttp import web
async def hello(request):
    return web.Response(text=" ".join([__name__, *sys.argv]))
async def init():
    app = web.Application()
    app.router.add_get("/", hello)
    return app
web.run_app(init(), port=1, shutdown_timeout=7)
print("goes on", flush=True)
"""


async def test_the_command_serves_a_script_in_one_process(tmp_path: Path) -> None:
    """As the main module, with its arguments; options count, or the warning names them."""
    (tmp_path / "server.py").write_text(SCRIPT)
    (tmp_path / "command.py").write_text(COMMAND)
    command = [
        "command.py",
        "run",
        "server.py",
        "-w",
        "2",
        "-b",
        "127.0.0.1:0",
        "--",
        "--config",
        "x",
    ]
    async with Program(tmp_path, command=[sys.executable, *command], env=ON_THE_PATH) as program:
        assert await fetch(await program.url()) == "__main__ server.py --config x"
        assert program.descendants() == []
        assert await program.stop() == 0
        output = await program.all_output()
    warnings = re.findall(r"WARNING .*", output)
    assert len(warnings) == 1
    assert "without effect here: workers=2" in warnings[0]
    assert "stopping, within 10 s" in output
    assert "goes on" in program.lines


async def test_a_cluster_of_ones_own_needs_linux(tmp_path: Path) -> None:
    """It can be made, so that its module can be imported; its start says what to do instead."""
    start = """import asyncio
    cluster = aiocluster.Cluster(make_app, bind="127.0.0.1:0")
    asyncio.run(cluster.start())"""
    source = PROGRAM.format(platform="darwin", start=start)
    async with Program(tmp_path, source, env=ON_THE_PATH) as program:
        assert await program.exit_code() == 1
        assert "a Cluster needs Linux, and this is macOS; aiocluster.run" in (
            await program.all_output()
        )

"""`aiocluster run server.py` serves a script that ends in aiohttp's run_app, as it is."""

import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.support.program import Program

COMMAND = [sys.executable, "-m", "aiocluster", "run"]

# Unguarded, as aiohttp's own examples are; `{first}` is run before the app is made. Several
# processes write at the same time, so each writes its lines whole.
SERVER = """
import os, sys
from aiohttp import web
{first}
async def hello(request):
    return web.Response(text="{text}")

async def init():
    app = web.Application()
    app.router.add_get("/", hello)
    return app

def say(*words):  # in one piece: several processes write at a time
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

say("runs as", __name__, *sys.argv)
try:
    web.run_app(init(), {arguments})
    say("line after in", os.getpid())
    sys.exit({code})
finally:
    say("clean-up in", os.getpid())
"""

HERE = "host='127.0.0.1', port=0, shutdown_timeout=7"


def script(text: str = "hello", arguments: str = HERE, first: str = "", code: int = 0) -> str:
    return SERVER.format(text=text, arguments=arguments, first=first, code=code)


def program(folder: Path, source: str, line: str) -> Program:
    (folder / "server.py").write_text(source)
    return Program(folder, command=[*COMMAND, *line.split()])


async def answer(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


async def test_it_is_served_by_workers_and_ends_in_each(tmp_path: Path) -> None:
    """It runs once; what it gives counts, and the lines after run_app run once a process.

    The code with which they end is the program's, as under aiohttp.
    """
    async with program(tmp_path, script(code=7), "server.py -w 2 -- --config prod.yml") as served:
        assert await answer(await served.url()) == "hello"
        workers = [str(worker.pid) for worker in served.workers()]
        zygote = str(served.zygote().pid)
        assert await served.stop() == 7
        lines = (await served.all_output()).splitlines()

    assert lines.count("runs as __main__ server.py --config prod.yml") == 1
    assert "server.py: web.run_app gave host 127.0.0.1, port 0, shutdown_timeout 7" in lines
    assert "stopping, within 10 s" in served.output
    for what in ("line after in", "clean-up in"):
        found = [line.removeprefix(f"{what} ") for line in lines if line.startswith(what)]
        assert sorted(found) == sorted([*workers, zygote])


async def test_an_import_string_of_it_is_served_the_same_way(tmp_path: Path) -> None:
    """It never serves by itself; options come before what it gives to run_app."""
    source = script(arguments="port=1, path='/tmp/never.sock'")
    async with program(tmp_path, source, "server:init -w 1 -b 127.0.0.1:0") as served:
        assert await answer(await served.url()) == "hello"
        assert len(served.workers()) == 1
        assert await served.stop(signal.SIGINT) == 0
        output = await served.all_output()

    assert "path /tmp/never.sock, host 0.0.0.0, port 1 (given to aiocluster" in output
    assert output.count("line after in") == 2
    assert "Traceback" not in output


async def test_it_enters_a_folder_and_is_found_where_it_was_typed(tmp_path: Path) -> None:
    """By a relative path, also when it runs anew; what lies in either folder can be imported."""
    (data := tmp_path / "data").mkdir()
    (data / "there.py").write_text("text = 'there'")
    (tmp_path / "beside.py").write_text("import os\ntext = os.path.basename(os.getcwd())")
    source = script("{beside.text} {there.text}", first="import beside, there")
    source = source.replace('text="{', 'text=f"{')
    async with program(tmp_path, source, "server.py -w 1 --chdir data") as served:
        url = await served.url()
        assert await answer(url) == "data there"
        served.send_signal(signal.SIGHUP)
        await served.line("generation 2 serves")
        assert await answer(url) == "data there"
        assert await served.stop() == 0


async def test_a_reload_runs_the_script_anew(tmp_path: Path) -> None:
    """As it is now; one that fails changes nothing, and a new port takes a new start."""
    async with program(tmp_path, script(), "server.py -w 1") as served:
        url = await served.url()
        served.write("server.py", "raise ValueError('half written')")
        served.send_signal(signal.SIGHUP)
        await served.line("given up, nothing has changed: ValueError: half written")
        assert await answer(url) == "hello"
        served.write("server.py", script("again", "host='127.0.0.1', port=1"))
        served.send_signal(signal.SIGHUP)
        await served.line("bind stays 127.0.0.1:0: to make it 127.0.0.1:1 takes a stop")
        await served.line("generation 3 serves")
        assert await answer(url) == "again"
        assert await served.stop() == 0


async def test_what_no_fork_survives_is_run_in_each_worker(tmp_path: Path) -> None:
    """The whole script is, and serves on the loop that it gives."""
    first = "import asyncio\nloop = asyncio.new_event_loop()\nasyncio.set_event_loop(loop)\n"
    source = script(arguments=f"{HERE}, loop=loop", first=first)
    async with program(tmp_path, source, "server.py -w 2") as served:
        assert await answer(await served.url()) == "hello"
        assert await served.stop() == 0
        output = await served.all_output()

    assert output.count("runs as __main__") == 3
    assert output.count("line after in") == 2
    assert "left what no fork survives: an event loop" in output


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (
            "from aiohttp import web\nweb.run_app(web.Application(), ssl_context=object())",
            "server.py: web.run_app was given ssl_context",
        ),
        (
            "from aiohttp import web\napp = web.Application()\n",
            "server.py ended without a call of web.run_app; it has app: give server:app",
        ),
        (
            "import aiocluster, asyncio\nasync def main():\n    aiocluster.Cluster('a:b')\n"
            "asyncio.run(main())\n",
            "server.py makes a Cluster itself, so it is the program that serves: run it with "
            "python",
        ),
    ],
)
async def test_what_cannot_be_served_ends_the_start(
    tmp_path: Path, source: str, error: str
) -> None:
    """With code 2 and one line, which says what and why."""
    async with program(tmp_path, source, "server.py") as served:
        assert await served.exit_code() == 2
        output = await served.all_output()

    assert error in output
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize(("arguments", "code"), [("--help", 0), ("--prot 1", 2)])
async def test_a_script_may_exit_before_it_serves(
    tmp_path: Path, arguments: str, code: int
) -> None:
    """With its own code and its own words, beside one line of ours."""
    first = "import argparse\nargparse.ArgumentParser().parse_args()"
    async with program(tmp_path, script(first=first), f"server.py -- {arguments}") as served:
        assert await served.exit_code() == code
        output = await served.all_output()

    assert output.count("usage: server.py") == 1
    assert output.count(f"server.py exited with code {code} before it served") == 1
    assert "Traceback" not in output


async def test_a_script_that_calls_run_is_the_program(tmp_path: Path) -> None:
    """Its call counts, with its on_start; an option comes before what it gives."""
    source = """
import aiocluster
from aiohttp import web

async def on_start(cluster):
    print("on_start has", len(cluster.workers), "workers", flush=True)

if __name__ == "__main__":
    aiocluster.run(web.Application, workers=3, bind="127.0.0.1:0", on_start=on_start)
    print("the end", flush=True)
"""
    async with program(tmp_path, source, "server.py -w 1") as served:
        await served.line("on_start has 1 workers")
        assert await served.stop() == 0
        assert "the end" in await served.all_output()

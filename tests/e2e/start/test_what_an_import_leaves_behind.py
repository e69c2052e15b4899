"""What an import opened is not shared by accident, and what it started ends."""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.cluster import ask, gone, kill
from tests.support.program import Program, is_running, until

COMMAND = [sys.executable, "-m", "aiocluster", "run", "shop:make_app", "-b", "127.0.0.1:0"]


class Upstream:
    """A server that answers each line with the number of its connection."""

    def __init__(self) -> None:
        self.served = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            yield str(server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.served += 1
        number = self.served
        while await reader.readline():
            writer.write(f"{number}\n".encode())
        writer.close()


# A client that is bound to the loop in which it was made, as those of most databases are.
CONNECTED_APP = """
import asyncio, os
from aiohttp import web

async def init():
    app = web.Application()
    app["reader"], app["writer"] = await asyncio.open_connection("127.0.0.1", os.environ["PORT"])
    app.router.add_get("/", number)
    return app

async def number(request):
    request.app["writer"].write(b"which\\n")
    return web.Response(text=(await request.app["reader"].readline()).decode().strip())

make_app = asyncio.new_event_loop().run_until_complete(init())
"""

STOPPABLE_AFTER_FIRST = """
import os, time
from pathlib import Path
from aiohttp import web
make_app = web.Application
if Path("slow").exists():
    os.write(1, b"importing slowly\\n")
    time.sleep(1000)
"""

# One of multiprocessing's, and one that knows no exit hook.
WITH_CHILDREN = """
import multiprocessing, subprocess
from aiohttp import web

manager = multiprocessing.Manager()
helper = subprocess.Popen(["sleep", "1000"])
make_app = web.Application
"""


def program(tmp_path: Path, source: str, *options: str, **env: str) -> Program:
    started = Program(tmp_path, command=[*COMMAND, *options], env=env)
    started.write("shop.py", source)
    return started


async def test_a_connection_of_the_import_is_each_workers_own(tmp_path: Path) -> None:
    """On the loop that it was made in; the one warning names the peer, the cost, the ways out."""
    upstream = Upstream()
    async with (
        upstream.serving() as port,
        program(tmp_path, CONNECTED_APP, "-w", "2", PORT=port) as cluster,
    ):
        url = await cluster.url()
        answers = {await ask(url) for _ in range(4)}
        assert await cluster.stop() == 0
        output = await cluster.all_output()

    # The first was the zygote's, which tried, and has closed it.
    assert answers == {"2", "3"}
    assert output.count("left what no fork survives") == 1
    assert f"a connection to 127.0.0.1:{port} (descriptor " in output
    assert "an event loop (descriptors " in output
    assert "MiB more each" in output
    assert "preload=True" in output


@pytest.mark.parametrize("options", [(), ("--preload", "true"), ("--preload", "false")])
async def test_what_an_import_started_ends(tmp_path: Path, options: tuple[str, ...]) -> None:
    """With its generation after a reload, and at the stop; however the app was imported."""
    async with program(tmp_path, WITH_CHILDREN, "-w", "2", *options) as cluster:
        await cluster.url()
        old = _children_of_imports(cluster)
        assert len(old) >= 2
        cluster.send_signal(signal.SIGHUP)
        await cluster.line("generation 2 serves")
        await gone(old)
        assert len(_children_of_imports(cluster)) == len(old)
        assert await cluster.stop() == 0
        assert cluster.left_behind() == []


@pytest.mark.parametrize("options", [(), ("--preload", "true")])
async def test_what_an_import_started_ends_with_a_killed_primary(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """And with a killed worker, at the latest then."""
    async with program(tmp_path, WITH_CHILDREN, "-w", "2", *options) as cluster:
        await cluster.url()
        kill(_workers(cluster)[0])
        await cluster.line("worker 3 .* is ready")
        kill(cluster.pid)
        await until(lambda: cluster.left_behind() == [], "a process is left")


@pytest.mark.parametrize("end", ["it fails", "a stop"])
async def test_what_an_import_started_ends_though_it_came_to_nothing(
    tmp_path: Path, end: str
) -> None:
    """It raises, or is given up: nothing of it is left."""
    fails = "raise ValueError('no database')"
    rest = "import time; print('imported', flush=True); time.sleep(1000)"
    source = WITH_CHILDREN + (fails if end == "it fails" else rest)
    async with program(tmp_path, source) as cluster:
        if end == "it fails":
            assert await cluster.exit_code() == 3
        else:
            await cluster.line("^imported$")
            assert await cluster.stop() == 0
        assert cluster.left_behind() == []


async def test_a_stop_ends_the_import_of_a_worker(tmp_path: Path) -> None:
    """Though others serve, and have their time: it has begun nothing that could be finished."""
    async with program(tmp_path, STOPPABLE_AFTER_FIRST, "-w", "2", "--preload", "false") as cluster:
        await cluster.url()
        cluster.write("slow")
        kill(cluster.workers()[0].pid)
        await cluster.line("importing slowly")
        assert await cluster.stop() == 0
        output = await cluster.all_output()

    assert "worker 3" in output
    assert "exited with code 0 while it started (stop)" in output
    assert "Traceback" not in output


PROGRAM = """
import socket
from aiohttp import web
import aiocluster

server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())

if __name__ == "__main__":
    aiocluster.run(web.Application(), workers=1, bind="127.0.0.1:0")
"""


async def test_what_the_program_itself_opened_is_named(tmp_path: Path) -> None:
    """Its workers are forked from it, with the app that is there already."""
    async with Program(tmp_path, PROGRAM) as cluster:
        await cluster.url()
        assert await cluster.stop() == 0
        output = await cluster.all_output()

    assert output.count("the program holds what no fork survives: a listening socket on") == 1
    assert "a connection to 127.0.0.1:" in output


def _workers(cluster: Program) -> list[int]:
    """Return the pids of all workers that have become ready."""
    return [int(pid) for pid in re.findall(r"worker \d+ \(pid (\d+)\) is ready", cluster.output)]


def _children_of_imports(cluster: Program) -> list[psutil.Process]:
    """Return the processes that are neither the primary, nor its zygote, nor workers."""
    zygotes = psutil.Process(cluster.pid).children()
    ours = {cluster.pid, *_workers(cluster), *(zygote.pid for zygote in zygotes)}
    children = (one for one in cluster.descendants() if one.pid not in ours)
    return [one for one in children if is_running(one)]  # what is dead may be reaped later

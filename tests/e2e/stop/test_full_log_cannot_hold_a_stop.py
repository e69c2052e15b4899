"""A log that nobody reads blocks whoever writes to it; a stop ends the program all the same."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.program import Program, until
from tests.support.wire import Wire

SOURCE = """
import os
from aiohttp import web
import aiocluster

async def serving(cluster):
    with open("said.new", "w") as file:
        file.write("http://%s:%d" % cluster.addresses[0])
    os.rename("said.new", "said")

async def pid(request):
    return web.Response(text=str(os.getpid()))

def make_app():
    app = web.Application()
    app.router.add_get("/", pid)
    return app

if __name__ == "__main__":
    aiocluster.run(
        make_app, workers=2, bind="127.0.0.1:0", on_start=serving, access_log=True,
        graceful_timeout=1, hang_timeout=0,
    )
"""


def fill(pipe: int) -> None:
    """Write until there is no room for one byte more."""
    for size in (4096, 1):
        try:
            while True:
                os.write(pipe, b"x" * size)
        except BlockingIOError:
            pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
async def test_a_program_whose_log_is_full_can_be_stopped(tmp_path: Path, number: int) -> None:
    """All are blocked in a write: a timer ends the primary, and the zygote its workers."""
    os.mkfifo(tmp_path / "log")
    pipe = os.open(tmp_path / "log", os.O_RDWR | os.O_NONBLOCK)
    command = ["sh", "-c", f"exec {sys.executable} program.py >log 2>&1"]
    try:
        async with Program(tmp_path, SOURCE, command=command) as program:
            await until((tmp_path / "said").exists, "it does not serve")
            url = (tmp_path / "said").read_text()
            fill(pipe)
            pids: set[bytes] = set()
            while len(pids) < 2:  # each is blocked as soon as it logs what it has answered
                async with Wire(url) as wire:
                    pids.add((await wire.get("/")).body)
            assert await program.stop(number) == -signal.SIGALRM
            await until(lambda: program.left_behind() == [], "its workers do not end")
    finally:
        os.close(pipe)

"""As process 1, with a process namespace of its own: nobody else is there to reap."""

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.cluster import ask
from tests.support.program import Program, until

SOURCE = """
import os, subprocess, sys
from aiohttp import web
import aiocluster

async def pid(request):
    return web.Response(text=f"{os.getpid()} {os.getppid()}")

async def zombies(request):
    states = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with open(f"/proc/{name}/stat") as file:
            states.append(file.read().rpartition(")")[2].split()[0])
    return web.Response(text=str(states.count("Z")))

async def orphan(request):
    # A child that leaves a grandchild, which ends at once.
    subprocess.run([sys.executable, "-c", "import os; os.fork() or os._exit(0)"], check=True)
    return web.Response(text="left")

def make_app():
    app = web.Application()
    app.add_routes([web.get(f"/{f.__name__}", f) for f in (pid, zombies, orphan)])
    return app

async def say(cluster):
    print("the primary is", os.getpid(), flush=True)

if __name__ == "__main__":
    aiocluster.run(make_app, workers=2, bind="127.0.0.1:0", on_start=say)
"""

# `unshare` itself ignores the signals that its child gets from a terminal.
IN_A_NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.mark.parametrize("number", [2, 15])
async def test_it_serves_reaps_and_stops(tmp_path: Path, number: int) -> None:
    """The kernel gives process 1 no default action for a signal: the handlers do it all."""
    command = [*IN_A_NAMESPACE, sys.executable, "program.py"]
    async with Program(tmp_path, SOURCE, command=command) as program:
        url = (await program.url()).rstrip("/")
        assert await program.line("the primary is") == "the primary is 1"
        for _ in range(4):
            assert await ask(url, "/orphan") == "left"
        (primary,) = psutil.Process(program.pid).children()
        while await ask(url, "/zombies") != "0":
            continue
        primary.send_signal(number)
        assert await program.exit_code() == 0
        assert program.left_behind() == []


async def test_a_process_that_came_from_elsewhere_is_reaped(tmp_path: Path) -> None:
    """As `docker exec` leaves them: no child of ours, until its parent ends."""
    command = [*IN_A_NAMESPACE, sys.executable, "program.py"]
    async with Program(tmp_path, SOURCE, command=command) as program:
        url = (await program.url()).rstrip("/")
        (primary,) = psutil.Process(program.pid).children()
        before = {process.pid for process in primary.children(recursive=True)}
        enter = ["nsenter", "-t", str(primary.pid), "-p", "sh", "-c", "sleep 0.2 & exit 0"]
        assert await (await asyncio.create_subprocess_exec(*enter)).wait() == 0
        await until(
            lambda: {p.pid for p in primary.children(recursive=True)} == before, "a zombie stays"
        )
        assert await ask(url, "/zombies") == "0"
        primary.terminate()
        assert await program.exit_code() == 0


# In a network of its own, where port 8000 is free, once there is a loopback.
LOOPBACK = """
import fcntl, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    SIOCSIFFLAGS, IFF_UP = 0x8914, 1
    fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
"""


async def test_the_default_address_is_warned_of(tmp_path: Path) -> None:
    """In a container it can be reached from inside alone; the line says what to give."""
    source = LOOPBACK + SOURCE.replace(', bind="127.0.0.1:0", on_start=say', "")
    command = [*IN_A_NAMESPACE, "--net", sys.executable, "program.py"]
    async with Program(tmp_path, source, command=command) as program:
        await program.line("WARNING 127.0.0.1:8000, .* only from inside .*-b 0.0.0.0:8000")
        (primary,) = psutil.Process(program.pid).children()
        primary.terminate()
        assert await program.exit_code() == 0

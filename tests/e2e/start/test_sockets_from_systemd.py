"""The test plays systemd: it listens, hands the socket down, and keeps it (LISTEN_FDS)."""

# node: listen-fd-cluster

import asyncio
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.program import Program
from tests.support.wire import Wire

# What systemd does between fork and exec.
LAUNCHER = """
import os, socket, sys

with socket.socket(socket.AF_UNIX) as parent:
    parent.connect("handing_down")
    _, fds, _, _ = socket.recv_fds(parent, 1, 1)
os.dup2(fds[0], 3)
os.close(fds[0])
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
os.execv(sys.executable, [sys.executable, "program.py"])
"""

SOURCE = """
import os
from aiohttp import web
import aiocluster

async def env(request):
    return web.Response(text=" ".join(name for name in os.environ if name.startswith("LISTEN")))

def make_app():
    app = web.Application()
    app.router.add_get("/", env)
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=2, bind="127.0.0.1:1"{settings})
"""


@contextmanager
def handing_down(folder: Path, sock: socket.socket, settings: str = "") -> Iterator[Program]:
    """A program that is handed `sock`."""
    source = SOURCE.replace("{settings}", settings)
    (folder / "launcher.py").write_text(LAUNCHER)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "handing_down"))
        server.listen()

        def hand_down() -> None:
            connection, _ = server.accept()
            with connection:
                socket.send_fds(connection, [b"x"], [sock.fileno()])

        loop = asyncio.get_running_loop()
        loop.add_reader(server.fileno(), hand_down)
        yield Program(folder, source, command=[sys.executable, "launcher.py"])
        loop.remove_reader(server.fileno())
    (folder / "handing_down").unlink()


def has_socket(process: psutil.Process, port: int) -> bool:
    return any(
        connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        for connection in process.net_connections()
    )


async def test_a_socket_that_is_handed_down_is_served(tmp_path: Path) -> None:
    """Who connected before the program was up is served, and so is who does between two of them.

    Only the primary has the socket; neither app nor zygote is told of it.
    """
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        for _ in range(2):
            async with Wire(url) as early:
                await early.ask()
                with handing_down(tmp_path, sock) as program:
                    async with program:
                        response = await early.response()
                        assert (response.status, response.body) == (200, b"")
                        assert await program.url() == url
                        assert "handed down (LISTEN_FDS)" in program.output
                        assert has_socket(psutil.Process(program.pid), port)
                        assert not any(has_socket(child, port) for child in program.descendants())
                        assert await program.stop() == 0


async def test_a_socket_that_cannot_be_served_is_told(tmp_path: Path) -> None:
    """It did not come up, and why not."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        handing_down(tmp_path, sock) as program,
    ):
        async with program:
            assert await program.exit_code() == 3
            output = await program.all_output()
    assert "could not start: LISTEN_FDS: descriptor 3 ('web') is a SOCK_DGRAM" in output
    assert "Traceback" not in output


async def test_a_policy_of_another_socket_is_told(tmp_path: Path) -> None:
    """It would choose for nobody, and round robin in its place."""
    policy = ', policy={"127.0.0.1:1": "sticky"}'
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with handing_down(tmp_path, sock, policy) as program:
            async with program:
                assert await program.exit_code() == 3
                output = await program.all_output()
    assert f"policy: 127.0.0.1:1 has no listener; the role has 127.0.0.1:{port}" in output
    assert "Traceback" not in output

"""A request whose head is still on its way is a running request, on any connection."""

import signal
from pathlib import Path

import pytest

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
    aiocluster.run(make_app, workers=1, bind="127.0.0.1:0", **{settings})
"""

PARTS = [b"G", b"ET / HT", b"TP/1.1\r\n", b"Host: x\r", b"\n", b"\r\n"]


@pytest.mark.parametrize("requests", [0, 1, 3])
async def test_it_is_answered_though_its_end_comes_late(tmp_path: Path, requests: int) -> None:
    """Kept alive before or just connected: it is told to go, and nothing was cut."""
    async with Program(tmp_path, SOURCE.format(settings={})) as program:
        url = await program.url()
        async with Wire(url) as wire, Wire(url) as idle, Wire(url) as silent:
            for _ in range(requests):
                assert (await wire.get()).body == b"hello"
            await wire.send(PARTS[0])
            await idle.get()
            program.send_signal(signal.SIGTERM)
            assert await idle.rest() == b""
            assert await silent.rest() == b""  # it had its second

            for part in PARTS[1:]:
                await wire.send(part)

            response = await wire.response()
            assert (response.status, response.headers["connection"]) == (200, "close")
            assert await wire.rest() == b""
        assert await program.exit_code() == 0
        output = await program.all_output()
    assert "could not finish" not in output


async def test_one_whose_end_never_comes_is_cut_and_named(tmp_path: Path) -> None:
    """At the deadline, as a body would be."""
    settings = {"graceful_timeout": 1.5}
    async with Program(tmp_path, SOURCE.format(settings=settings)) as program:
        async with Wire(await program.url()) as wire:
            await wire.get()
            await wire.send(PARTS[0])
            program.send_signal(signal.SIGTERM)
            assert await wire.rest() == b""
        assert await program.exit_code() == 1
        output = await program.all_output()
    assert "cut: connection from" in output

"""The options of `web.run_app` that matter, given to `run`."""

from pathlib import Path

import pytest

from tests.support.program import Program
from tests.support.wire import Wire

SOURCE = """
import asyncio, os, socket
from aiohttp import web
import aiocluster

def say(what):
    os.write(1, f"{{what}}\\n".encode())

async def hello(request):
    return web.Response(text="hello", headers={{"X-Answer": "42"}})

async def wait(request):
    say("waiting")
    try:
        while request.transport is not None:
            await asyncio.sleep(0.01)
        # As many turns of the loop as a cancellation could need to get here.
        for _ in range(100):
            await asyncio.sleep(0)
        say("went on without its client")
    except asyncio.CancelledError:
        say("cancelled")
        raise
    return web.Response()

async def options(request):
    sock = request.transport.get_extra_info("socket")
    alive = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    no_delay = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    return web.json_response([bool(alive), bool(no_delay)])

def make_app():
    app = web.Application()
    app.add_routes([web.get("/wait", wait), web.get("/options", options)])
    app.add_routes([web.get("/{{tail:.*}}", hello)])
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=1, bind="127.0.0.1:0", {settings})
"""


async def test_keepalive_timeout_closes_idle_connections(tmp_path: Path) -> None:
    """An idle connection is closed by the server, used or not; others are still served."""
    source = SOURCE.format(settings="keepalive_timeout=0.2")
    async with Program(tmp_path, source) as program:
        url = await program.url()
        async with Wire(url) as used, Wire(url) as silent:
            assert (await used.get()).body == b"hello"
            assert await used.rest() == b""
            assert await silent.rest() == b""
        async with Wire(url) as another:
            assert (await another.get()).body == b"hello"
        assert await program.stop() == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("handler_cancellation=True", "cancelled"),
        ("handler_cancellation=False", "went on without its client"),
        ("", "went on without its client"),
    ],
)
async def test_handler_cancellation_decides_what_a_lost_client_means(
    tmp_path: Path, settings: str, said: str
) -> None:
    """A handler whose client has gone is cancelled only when that is asked for."""
    async with Program(tmp_path, SOURCE.format(settings=settings)) as program:
        async with Wire(await program.url()) as wire:
            await wire.ask("/wait")
            await program.line("waiting")
        assert await program.line("cancelled|went on") == said
        assert await program.stop() == 0


async def test_access_log_has_a_line_for_each_request(tmp_path: Path) -> None:
    """With access_log and a format of one's own, each request is one line of that format."""
    settings = "access_log=True, access_log_format='%a asked %r: %s, %{X-Answer}o'"
    async with Program(tmp_path, SOURCE.format(settings=settings)) as program:
        async with Wire(await program.url()) as wire:
            for number in range(3):
                await wire.get(f"/{number}")
        assert await program.stop() == 0
        output = await program.all_output()

    for number in range(3):
        assert output.count(f"127.0.0.1 asked GET /{number} HTTP/1.1: 200, 42") == 1
    assert output.count(" asked ") == 3


@pytest.mark.parametrize(("settings", "lines"), [("access_log=True", 1), ("", 0)])
async def test_access_log_is_off_unless_asked_for(
    tmp_path: Path, settings: str, lines: int
) -> None:
    """By default no request is logged; switched on, aiohttp's usual line is."""
    async with Program(tmp_path, SOURCE.format(settings=settings)) as program:
        async with Wire(await program.url()) as wire:
            await wire.get("/page")
        assert await program.stop() == 0
        assert (await program.all_output()).count('"GET /page HTTP/1.1" 200') == lines


async def test_sizes_of_a_request_head_are_limited(tmp_path: Path) -> None:
    """max_line_size, max_field_size and max_headers refuse more with 400, and take less."""
    settings = "max_line_size=1000, max_field_size=2000, max_headers=20"
    async with Program(tmp_path, SOURCE.format(settings=settings)) as program:
        url = await program.url()

        async def status(path: str = "/", fields: list[str] | None = None) -> int:
            lines = [f"GET {path} HTTP/1.1", "Host: x", *(fields or []), "", ""]
            async with Wire(url) as wire:
                await wire.send("\r\n".join(lines).encode())
                return (await wire.response()).status

        statuses = {
            "line": (await status("/" + "a" * 900), await status("/" + "a" * 1100)),
            "field": (
                await status(fields=["A: " + "b" * 1900]),
                await status(fields=["A: " + "b" * 2100]),
            ),
            "headers": (await status(fields=["A: b"] * 15), await status(fields=["A: b"] * 25)),
        }
        assert await program.stop() == 0

    assert statuses == dict.fromkeys(statuses, (200, 400))


@pytest.mark.parametrize(
    ("settings", "options"),
    [("", b"[true, true]"), ("tcp_keepalive=False", b"[false, true]")],
)
async def test_connections_are_probed_and_answer_at_once(
    tmp_path: Path, settings: str, options: bytes
) -> None:
    """SO_KEEPALIVE is as `tcp_keepalive` says, TCP_NODELAY is always set: as aiohttp has them."""
    async with Program(tmp_path, SOURCE.format(settings=settings)) as program:
        async with Wire(await program.url()) as wire:
            assert (await wire.get("/options")).body == options
        assert await program.stop() == 0

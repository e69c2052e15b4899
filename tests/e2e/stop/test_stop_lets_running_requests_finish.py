"""What a client has asked for it gets, though the service is stopping."""

import signal
from pathlib import Path

import pytest

from tests.support.program import Program
from tests.support.wire import Wire

SOURCE = """
import asyncio, os
from aiohttp import web
import aiocluster

def say(what):
    os.write(1, f"{what}\\n".encode())

async def gate():
    while not os.path.exists("gate"):
        await asyncio.sleep(0.01)

async def slow(request):
    say("slow began")
    await gate()
    return web.Response(body=b"slow" * 50_000)

async def stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"begin")
    await gate()
    for _ in range(100):
        await response.write(b"more" * 1000)
    await response.write(b"end")
    return response

async def upload(request):
    say("upload began")
    return web.Response(text=str(len(await request.read())))

async def quick(request):
    return web.Response(text="quick")

def make_app():
    app = web.Application()
    app.add_routes([web.get("/slow", slow), web.get("/stream", stream), web.get("/", quick)])
    app.router.add_post("/upload", upload)
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=2, bind="127.0.0.1:0")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_running_requests_finish_while_idle_connections_close(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Slow, streamed and half-sent requests end whole; idle and silent clients go first."""
    async with Program(tmp_path, SOURCE) as program:
        url = await program.url()
        async with (
            Wire(url) as slow,
            Wire(url) as stream,
            Wire(url) as upload,
            Wire(url) as idle,
            Wire(url) as silent,
            Wire(url) as half,
        ):
            await slow.ask("/slow")
            await program.line("slow began")
            await stream.ask("/stream")
            await stream.until(b"begin")
            await upload.send(
                b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345"
            )
            await program.line("upload began")
            assert (await idle.get()).body == b"quick"
            await half.send(b"GET / HTTP/1.1\r\nHo")

            program.send_signal(number)
            # Those that have nothing to wait for end now, while the others still run.
            for wire in (idle, silent):
                assert await wire.rest() == b""
            await half.send(b"st: x\r\n\r\n")
            assert (await half.response()).headers["connection"] == "close"
            program.send_signal(signal.SIGTERM)  # again: nobody minds

            program.write("gate")
            await upload.send(b"67890")
            assert (await slow.response()).body == b"slow" * 50_000
            assert await slow.rest() == b""
            assert (await stream.rest()).endswith(b"\r\nend\r\n0\r\n\r\n")
            assert (await upload.response()).body == b"10"
        assert await program.exit_code() == 0
        output = await program.all_output()
        assert program.left_behind() == []

    assert "Traceback" not in output
    assert "could not finish" not in output


async def test_nobody_can_connect_once_it_stops(tmp_path: Path) -> None:
    """While a request still runs, new connections are refused, so a client can go elsewhere."""
    async with Program(tmp_path, SOURCE) as program:
        url = await program.url()
        async with Wire(url) as slow, Wire(url) as idle:
            await slow.ask("/slow")
            await program.line("slow began")
            assert (await idle.get()).body == b"quick"
            program.send_signal(signal.SIGTERM)
            assert await idle.rest() == b""
            with pytest.raises(ConnectionRefusedError):
                await Wire(url).__aenter__()
            program.write("gate")
            assert (await slow.response()).status == 200
        assert await program.exit_code() == 0

"""A response that its client has not read yet is not lost when the service stops."""

import hashlib
import signal
from pathlib import Path

import pytest

from tests.support.program import Program
from tests.support.wire import Wire

# Far more than the kernel keeps for a connection, so that most of it waits in the worker.
SOURCE = """
import hashlib, os, random
from aiohttp import web
import aiocluster

BODY = random.Random(1).randbytes(1 << 20) * 32

async def whole(request):
    return web.Response(body=BODY)

async def stream(request):
    response = web.StreamResponse(headers={"Content-Length": str(len(BODY))})
    await response.prepare(request)
    for start in range(0, len(BODY), 1 << 16):
        await response.write(BODY[start : start + (1 << 16)])
    return response

async def digest(request):
    return web.Response(text=hashlib.sha256(BODY).hexdigest())

def make_app():
    app = web.Application()
    app.add_routes([web.get("/whole", whole), web.get("/stream", stream), web.get("/", digest)])
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=1, bind="127.0.0.1:0")
"""


@pytest.mark.parametrize("path", ["/whole", "/stream"])
async def test_a_slow_reader_gets_all_of_a_large_response(tmp_path: Path, path: str) -> None:
    """A client that begins to read only after TERM gets every byte, and the exit code is 0."""
    async with Program(tmp_path, SOURCE) as program:
        url = await program.url()
        async with Wire(url) as slow, Wire(url) as idle:
            expected = (await idle.get()).body.decode()
            await slow.ask(path)
            head = await slow.until(b"\r\n\r\n")
            program.send_signal(signal.SIGTERM)
            assert await idle.rest() == b""
            body = await slow.rest()
        assert b" 200 OK" in head
        assert hashlib.sha256(body).hexdigest() == expected
        assert await program.exit_code() == 0

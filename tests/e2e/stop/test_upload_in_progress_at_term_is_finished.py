"""A request whose body is still on its way is a running request."""

import signal
from pathlib import Path

from tests.support.program import Program
from tests.support.wire import Wire

SOURCE = """
import os
from aiohttp import web
import aiocluster

async def upload(request):
    os.write(1, b"upload began\\n")
    return web.Response(text=str(len(await request.read())))

async def draining(app):
    os.write(1, b"draining\\n")

def make_app():
    app = web.Application()
    app.router.add_post("/", upload)
    app.on_shutdown.append(draining)
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=1, bind="127.0.0.1:0", graceful_timeout=5)
"""


async def test_an_upload_in_progress_at_term_is_finished(tmp_path: Path) -> None:
    """The rest of its body is still read, it is answered, and the exit code is 0."""
    async with Program(tmp_path, SOURCE) as program:
        async with Wire(await program.url()) as wire:
            await wire.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
            await program.line("upload began")
            program.send_signal(signal.SIGTERM)
            await program.line("draining")
            await wire.send(b"67890")
            assert (await wire.response()).body == b"10"
        assert await program.exit_code() == 0

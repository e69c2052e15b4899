"""WebSockets, which never end by themselves."""

from pathlib import Path

import aiohttp

from tests.support.program import PATIENCE, Program

SOURCE = """
import os, weakref
from aiohttp import WSCloseCode, web
import aiocluster

open_sockets = web.AppKey("open_sockets", weakref.WeakSet)

async def echo(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    request.app[open_sockets].add(socket)
    async for message in socket:
        await socket.send_str(message.data + message.data)
    return socket

async def close_all(app):
    for socket in set(app[open_sockets]):
        await socket.close(code=WSCloseCode.GOING_AWAY, message=b"server stops")
        os.write(1, f"closed, client says {socket.close_code}\\n".encode())

def make_app():
    app = web.Application()
    app[open_sockets] = weakref.WeakSet()
    app.router.add_get("/", echo)
    app.on_shutdown.append(close_all)
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=2, bind="127.0.0.1:0")
"""


async def test_websockets_work_and_are_told_of_the_stop(tmp_path: Path) -> None:
    """They echo, and at TERM the app's on_shutdown closes each with its code and message."""
    async with Program(tmp_path, SOURCE) as program, aiohttp.ClientSession() as session:
        url = await program.url()
        sockets = [await session.ws_connect(url) for _ in range(6)]
        for socket in sockets:
            for text in ("ab", "x" * 100_000):
                await socket.send_str(text)
                assert await socket.receive_str(timeout=PATIENCE) == text + text
        program.send_signal(15)
        for socket in sockets:
            message = await socket.receive(timeout=PATIENCE)
            assert message.type is aiohttp.WSMsgType.CLOSE
            assert (message.data, message.extra) == (1001, "server stops")
            assert socket.close_code == 1001  # 1006 if its own close frame could not be sent
        assert await program.exit_code() == 0
        output = await program.all_output()

    # The client's own close frame has reached the app, too: 1006 would say it was not read.
    assert output.count("closed, client says 1000") == len(sockets)
    assert "could not finish" not in output

"""The app under load: every answer proves to which request it belongs, and names its worker.

Beside the answers it writes three files into the program's folder, for the tests to read:
`started` has the pid of each worker that made the app, `begun` the pid and token of each request
whose handler began, `trail` who had which connection (trail.py).
"""

import os
import time
from functools import partial
from pathlib import Path

from aiohttp import web

from tests.chaos import trail
from tests.chaos.content import large_body, receipt
from tests.support import breaking

# Names the worker that answered: the client can tell whose connections were lost.
WORKER = "X-Worker"

_BEGUN = web.AppKey("begun", int)

routes = web.RouteTableDef()


@routes.get("/echo/{token}")
async def echo(request: web.Request) -> web.Response:
    return web.Response(text=_begin(request), headers=_signed())


@routes.post("/post/{token}")
async def post(request: web.Request) -> web.Response:
    token = _begin(request)
    return web.Response(body=receipt(token, await request.read()), headers=_signed())


@routes.get("/large/{token}/{size}")
async def large(request: web.Request) -> web.Response:
    body = large_body(_begin(request), int(request.match_info["size"]))
    return web.Response(body=body, headers=_signed())


@routes.get("/websocket/{token}")
async def websocket(request: web.Request) -> web.WebSocketResponse:
    _begin(request)
    socket = web.WebSocketResponse()
    socket.headers.update(_signed())
    await socket.prepare(request)
    async for message in socket:
        if message.type is web.WSMsgType.TEXT:
            _write_begun(request, message.data.partition(" ")[0])
            await socket.send_str(message.data)
    return socket


@routes.get("/pid")
async def pid(request: web.Request) -> web.Response:
    return web.Response(text=str(os.getpid()))


@routes.get("/block/{gate}")
async def block(request: web.Request) -> web.Response:
    shared_listener = request.match_info["gate"]
    _write_begun(request, shared_listener)
    _wait_for_file(shared_listener)
    return web.Response(text=str(os.getpid()))


def make_app() -> web.Application:
    """Make the app and say so."""
    app = web.Application(client_max_size=2**22)
    app[_BEGUN] = _open("begun")
    app.add_routes(routes)
    app.add_routes(breaking.routes)
    trail.follow(partial(os.write, _open("trail")))
    started = _open("started")
    os.write(started, f"{os.getpid()}\n".encode())
    os.close(started)
    return app


def _begin(request: web.Request) -> str:
    token = request.match_info["token"]
    _write_begun(request, token)
    return token


def _wait_for_file(name: str) -> None:
    while not Path(name).exists():
        time.sleep(0.01)  # noqa: TID251 (to block the loop is what it is for)


def _write_begun(request: web.Request, token: str) -> None:
    # One write a line: appends of several processes do not mix.
    os.write(request.app[_BEGUN], f"{os.getpid()} {token}\n".encode())


def _signed() -> dict[str, str]:
    return {WORKER: str(os.getpid())}


def _open(name: str) -> int:
    return os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

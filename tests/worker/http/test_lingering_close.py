"""Connections that are closed while their client sends, over real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from random import Random

import pytest
from aiohttp import web

from aiocluster.config.settings import settings_from
from aiocluster.worker.http import lingering_close as module
from aiocluster.worker.http.lingering_close import is_lingering, let_linger
from aiocluster.worker.http.metered_server import MeteredHandler
from aiocluster.worker.http.service import AiohttpService
from tests.chaos.websocket import CLOSE, TEXT, close_code, frame, upgrade
from tests.support.connections import tcp_pair
from tests.support.waiting import soon, turns_until
from tests.worker.http.test_migration import GET, Stage

MANY_BYTES = b"x" * 100_000


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    await stage.start()
    yield stage
    await stage.close()


async def connected(stage: Stage) -> tuple[socket.socket, MeteredHandler]:
    (client,) = await stage.connect()
    (handler,) = stage.old.server.metered
    return client, handler


async def read_all(client: socket.socket) -> bytes:
    """Read to the end; a reset raises."""
    data, loop = b"", asyncio.get_running_loop()
    while part := await soon(loop.sock_recv(client, 10_000)):
        data += part
    return data


async def test_a_client_that_still_sends_reads_its_last_answer_and_the_end(stage: Stage) -> None:
    """Without a reset, though what it has sent since is in nobody's hands."""
    client, handler = await connected(stage)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, GET.replace(b"/ ", b"/wait "))
    await soon(stage.begun.wait())
    stage.old.server.begin_last_responses()
    await loop.sock_sendall(client, GET * 20 + GET[:10])
    await turns_until(lambda: handler.in_doubt)
    stage.go.set()

    await turns_until(lambda: is_lingering(handler))
    await loop.sock_sendall(client, MANY_BYTES)
    answers = await read_all(client)

    assert answers.startswith(b"HTTP/1.1 200 OK")
    assert answers.count(b"HTTP/1.1") == 1
    assert b"Connection: close" in answers
    assert stage.old.server.unfinished() == []
    client.close()
    await soon(stage.old.server.wait_empty())


async def test_what_lies_unread_in_the_kernel_is_no_reset(stage: Stage) -> None:
    """The handler had not even heard of it."""
    client, handler = await connected(stage)
    let_linger(handler)
    client.send(GET)
    handler.force_close()

    assert await read_all(client) == b""


async def test_a_client_that_sends_nothing_is_not_waited_for(stage: Stage) -> None:
    """Its socket is closed at once."""
    client, handler = await connected(stage)
    let_linger(handler)
    handler.force_close()

    await soon(stage.old.server.wait_empty())
    assert client.recv(1) == b""


async def test_a_client_that_never_closes_is_waited_for_a_moment(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds up nobody for longer, and `always` asks no question."""
    monkeypatch.setattr(module, "_LINGER", 0.01)
    _, handler = await connected(stage)
    let_linger(handler)
    let_linger(handler, always=True)
    assert handler.transport is not None
    handler.transport.close()
    handler.transport.close()
    assert is_lingering(handler)

    await soon(stage.old.server.wait_empty())


async def test_a_websocket_that_is_told_hears_it_though_its_client_sends() -> None:
    """What crosses the close code is dropped, and no reset comes after it."""
    opened = asyncio.Event()

    async def serve(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        opened.set()
        await ws.receive()
        return ws

    app = web.Application()
    app.router.add_get("/", serve)
    row = memoryview(bytearray(16 * 8)).cast("Q")
    service = AiohttpService(lambda: app, settings_from({}), row)
    await service.start()
    client, accepted = tcp_pair()
    with client:
        client.setblocking(False)
        service.adopt(accepted.detach(), accepted.family)
        await asyncio.get_running_loop().sock_sendall(client, upgrade("/", Random(1)))
        await soon(opened.wait())
        service.server.websockets.begin_telling(1.0)
        await turns_until(lambda: all(map(is_lingering, service.server.metered)))
        client.send(frame(TEXT, MANY_BYTES, Random(1)))
        data = await read_all(client)
        client.send(frame(CLOSE, b"", Random(1)))  # its answer; to a reset it could not be sent

    assert data.startswith(b"HTTP/1.1 101")
    closing = data.partition(b"\r\n\r\n")[2]
    assert (closing[0] & 0xF, close_code(closing[2:])) == (CLOSE, 1001)
    await soon(service.server.wait_empty())
    service.hurry(0.0, moving=False)
    await soon(service.drain())

"""Connections that are closed while their client sends, over real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from aiocluster.worker.http import lingering_close as module
from aiocluster.worker.http.lingering_close import is_lingering, let_linger
from aiocluster.worker.http.metered_server import MeteredHandler
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
    """It holds up nobody for longer."""
    monkeypatch.setattr(module, "_LINGER", 0.01)
    _, handler = await connected(stage)
    transport = let_linger(handler)
    assert let_linger(handler) is transport
    assert transport is not None
    transport.finish(in_doubt=True)
    transport.finish(in_doubt=False)
    assert is_lingering(handler)

    await soon(stage.old.server.wait_empty())

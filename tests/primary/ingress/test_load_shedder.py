"""Clients that are turned away, over real sockets."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from aiocluster.primary.ingress.load_shedder import LoadShedder, service_unavailable
from aiocluster.primary.sockets.connection import Connection
from tests.support.connections import open_fds, tcp_pair
from tests.support.waiting import soon, turns, turns_until

ANSWER = service_unavailable(3)


@pytest.fixture
async def make_refusal() -> AsyncIterator[Callable[[bytes], LoadShedder]]:
    made: list[LoadShedder] = []

    def make(answer: bytes) -> LoadShedder:
        made.append(LoadShedder(answer))
        return made[-1]

    yield make
    for refusal in made:
        refusal.close()
        refusal.close()


@pytest.fixture
async def refusal(make_refusal: Callable[[bytes], LoadShedder]) -> LoadShedder:
    return make_refusal(ANSWER)


def accepted() -> tuple[socket.socket, Connection]:
    """Return a client, and its connection, as `accept` gives it."""
    client, sock = tcp_pair()
    client.setblocking(False)
    sock.setblocking(False)
    return client, Connection(sock.detach(), 0)


async def read(client: socket.socket) -> bytes:
    """Return all that comes until the end."""
    data = b""
    while more := await soon(asyncio.get_running_loop().sock_recv(client, 4096)):
        data += more
    return data


def test_the_answer_says_when_to_come_again() -> None:
    """And that the connection ends."""
    head = service_unavailable(7).decode()

    assert head.startswith("HTTP/1.1 503 Service Unavailable\r\n")
    assert "\r\nRetry-After: 7\r\n" in head
    assert "\r\nConnection: close\r\n" in head
    assert head.endswith("Content-Length: 0\r\nConnection: close\r\n\r\n")


async def test_a_client_is_answered_and_let_go(refusal: LoadShedder) -> None:
    """Whether it had sent something or not."""
    quiet, talking = accepted(), accepted()
    talking[0].send(b"GET / HTTP/1.1\r\n\r\n")
    refusal.refuse([quiet[1], talking[1]])

    for client, _ in (quiet, talking):
        assert await read(client) == ANSWER
        client.close()
    assert refusal.count == 2


async def test_it_knows_who_has_not_read_its_answer_yet(refusal: LoadShedder) -> None:
    """An exec before that would reset the connection."""
    client, connection = accepted()
    refusal.refuse([connection])
    assert refusal.is_lingering
    client.close()

    await turns_until(lambda: not refusal.is_lingering)


async def test_what_a_client_sends_resets_nothing(refusal: LoadShedder) -> None:
    """A body of any size is thrown away, so that the answer is not overtaken by a reset."""
    client, connection = accepted()
    sending = asyncio.ensure_future(
        asyncio.get_running_loop().sock_sendall(client, b"x" * 5_000_000)
    )
    refusal.refuse([connection])
    await soon(sending)

    assert await read(client) == ANSWER
    client.close()


async def test_a_connection_is_closed_when_its_client_has(refusal: LoadShedder) -> None:
    """No descriptor is kept."""
    before = len(open_fds())
    client, connection = accepted()
    refusal.refuse([connection])
    assert await read(client) == ANSWER
    client.close()

    await turns_until(lambda: len(open_fds()) == before)


async def test_one_that_has_gone_hurts_nobody(refusal: LoadShedder) -> None:
    """By a reset, before it is answered."""
    before = len(open_fds())
    client, connection = accepted()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()
    other, second = accepted()
    refusal.refuse([connection, second])

    assert await read(other) == ANSWER
    other.close()
    await turns_until(lambda: len(open_fds()) == before)


async def test_without_an_answer_it_is_closed_at_once(
    make_refusal: Callable[[bytes], LoadShedder],
) -> None:
    """Nothing is waited for."""
    client, connection = accepted()
    refusal = make_refusal(b"")
    refusal.refuse([connection])

    assert await read(client) == b""
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(connection.fd)
    assert refusal.count == 1
    client.close()


async def test_a_client_that_stays_is_waited_for_a_moment(
    make_refusal: Callable[[bytes], LoadShedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then its connection is closed, and so is the next one's."""
    monkeypatch.setattr("aiocluster.primary.ingress.load_shedder._LINGERING", 0.02)
    refusal = make_refusal(ANSWER)
    before = len(open_fds())
    clients = []
    for _ in range(3):
        client, connection = accepted()
        clients.append(client)
        refusal.refuse([connection])
        await turns(2)

    await turns_until(lambda: len(open_fds()) == before + 3)

    for client in clients:
        assert await read(client) == ANSWER
        client.close()


async def test_no_more_than_a_bound_are_waited_for(
    make_refusal: Callable[[bytes], LoadShedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest goes first; all have been answered."""
    monkeypatch.setattr("aiocluster.primary.ingress.load_shedder._MAX_LINGERING", 2)
    refusal = make_refusal(ANSWER)
    before = len(open_fds())
    pairs = [accepted() for _ in range(5)]
    refusal.refuse([connection for _, connection in pairs])

    assert len(open_fds()) == before + 5 + 2
    for client, _ in pairs:
        assert await read(client) == ANSWER
        client.close()


async def test_closing_waits_for_nobody(make_refusal: Callable[[bytes], LoadShedder]) -> None:
    """And may come twice."""
    refusal = make_refusal(ANSWER)
    before = len(open_fds())
    clients = [accepted() for _ in range(3)]
    refusal.refuse([connection for _, connection in clients])
    refusal.close()

    assert len(open_fds()) == before + 3
    for client, _ in clients:
        client.close()

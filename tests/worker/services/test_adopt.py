"""An accepted descriptor becomes a connection of uvloop's."""

import asyncio
import socket
from typing import cast

import pytest

from aiocluster.worker.services.adopt import RejectProtocol, adopt
from tests.support.connections import open_fds, tcp_pair
from tests.support.waiting import soon, turns, turns_until


class Echo(asyncio.Protocol):
    """Sends back what comes, and tells when it is over."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.peer: object = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.peer = transport.get_extra_info("peername")

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


async def test_a_descriptor_is_served_and_closed_in_the_end() -> None:
    """It is the loop's from the call on, and nothing of it is left."""
    before = open_fds()
    client, accepted = tcp_pair()
    address, echo = client.getsockname(), Echo()
    adopt(asyncio.get_running_loop(), lambda: echo, accepted.detach(), socket.AF_INET)
    reader, writer = await asyncio.open_connection(sock=client)
    writer.write(b"hello")

    assert await soon(reader.readexactly(5)) == b"hello"
    assert echo.peer == address

    writer.close()
    await soon(echo.lost)
    await turns_until(lambda: open_fds() <= before)


async def test_who_is_refused_is_closed_at_once() -> None:
    """And nothing of it is left."""
    before = open_fds()
    client, accepted = tcp_pair()
    adopt(asyncio.get_running_loop(), RejectProtocol, accepted.detach(), socket.AF_INET)

    with client:
        client.setblocking(False)
        assert await soon(asyncio.get_running_loop().sock_recv(client, 1)) == b""

    await turns_until(lambda: open_fds() <= before)


async def test_many_descriptors_are_served_side_by_side() -> None:
    """One more costs nothing but itself."""
    before = open_fds()
    pairs = [tcp_pair() for _ in range(50)]
    echoes = [Echo() for _ in pairs]
    for (_, accepted), echo in zip(pairs, echoes, strict=True):
        adopt(
            asyncio.get_running_loop(),
            lambda echo=echo: echo,  # type: ignore[misc]
            accepted.detach(),
            socket.AF_INET,
        )
    await turns()
    for client, _ in pairs:
        client.close()

    await soon(asyncio.gather(*(echo.lost for echo in echoes)))

    await turns_until(lambda: open_fds() <= before)


async def test_when_the_protocol_cannot_be_made_the_descriptor_is_closed() -> None:
    """A connection that nobody serves does not stay open; the error comes through."""
    before = open_fds()
    client, accepted = tcp_pair()

    def broken() -> asyncio.Protocol:
        raise LookupError("no protocol")

    with pytest.raises(LookupError, match="no protocol"):
        adopt(asyncio.get_running_loop(), broken, accepted.detach(), socket.AF_INET)

    assert client.recv(1) == b""
    client.close()
    assert open_fds() <= before

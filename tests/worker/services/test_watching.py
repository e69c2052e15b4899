"""Hearing of the end of any connection."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiocluster.worker.services import watching
from aiocluster.worker.services.watching import Watched, watch
from tests.support.waiting import turns


class Plain(asyncio.Protocol):
    def __init__(self) -> None:
        self.told: list[Exception | None] = []

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append(exc)


class Slotted(asyncio.Protocol):
    __slots__ = ("told",)

    def __init__(self) -> None:
        self.told: list[Exception | None] = []

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append(exc)


class Raising(Plain):
    def connection_lost(self, exc: Exception | None) -> None:
        raise LookupError("no more")


class SlottedRaising(Slotted):
    __slots__ = ()

    def connection_lost(self, exc: Exception | None) -> None:
        raise LookupError("no more")


@pytest.mark.parametrize("kind", [Plain, Slotted])
def test_a_protocol_is_told_as_before_and_so_are_we(kind: Any) -> None:
    """Each by itself, though they are of one class; what it is shows as before."""
    lost: list[str] = []
    one, other = kind(), kind()
    watch(one, lambda: lost.append("one"))
    watch(other, lambda: lost.append("other"))
    error = ConnectionResetError()

    one.connection_lost(error)

    assert (one.told, other.told, lost) == ([error], [], ["one"])
    other.connection_lost(None)
    assert (one.told, other.told, lost) == ([error], [None], ["one", "other"])
    assert isinstance(one, kind)
    assert type(one).__name__ == kind.__name__
    assert not watching._in_slots


@pytest.mark.parametrize("kind", [Raising, SlottedRaising])
def test_we_are_told_whatever_the_protocol_does(kind: Any) -> None:
    """What it raises is the loop's to report."""
    lost: list[str] = []
    protocol = kind()
    watch(protocol, lambda: lost.append("lost"))

    with pytest.raises(LookupError, match="no more"):
        protocol.connection_lost(None)

    assert lost == ["lost"]


@pytest.fixture
async def transport() -> AsyncIterator[asyncio.Transport]:
    """One end of a socket pair, with a protocol of its own."""
    ours, theirs = socket.socketpair()
    made, _ = await asyncio.get_running_loop().create_connection(Plain, sock=ours)
    yield made
    made.abort()
    theirs.close()
    await turns()


async def test_an_end_is_told_once(transport: asyncio.Transport) -> None:
    """However often, and by whomever."""
    over: list[Watched] = []
    watched = Watched(over.append)
    watched.transport = transport
    protocol: Any = transport.get_protocol()
    watched.follow(protocol)

    protocol.connection_lost(None)
    watched.end()
    protocol.connection_lost(None)

    assert over == [watched]


async def test_a_transport_that_goes_to_another_protocol_is_followed(
    transport: asyncio.Transport,
) -> None:
    """As for a WebSocket: the first one is told nothing more."""
    over: list[Watched] = []
    watched = Watched(over.append)
    watched.follow(transport.get_protocol())
    watched.look()  # it is still being made
    watched.transport = transport
    watched.look()
    other = Slotted()
    transport.set_protocol(other)
    watched.look()
    assert over == []

    transport.abort()
    await turns()

    assert other.told == [None]
    assert over == [watched]


async def test_one_that_is_lost_before_we_look_is_seen_then(transport: asyncio.Transport) -> None:
    """Nobody told us, and nobody will."""
    over: list[Watched] = []
    watched = Watched(over.append)
    watched.transport = transport
    watched.follow(transport.get_protocol())
    transport.set_protocol(Plain())
    transport.abort()
    await turns()
    assert over == []

    watched.look()

    assert over == [watched]

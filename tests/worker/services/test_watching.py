"""Hearing of the end of any connection."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aiocluster.worker.services import watching
from aiocluster.worker.services.watching import Watched
from tests.support.waiting import turns, turns_until


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


KINDS = pytest.mark.parametrize("kind", [Plain, Slotted])


class Stage:
    """Connections, as a server makes them, and which of them are over."""

    def __init__(self) -> None:
        self.over: list[Watched] = []
        self.others: list[socket.socket] = []
        self._loop = asyncio.get_running_loop()

    async def connect(self, protocol: asyncio.Protocol) -> Watched:
        watched = Watched(self.over.append)

        def factory() -> asyncio.Protocol:
            watched.follow(protocol)
            return protocol

        watched.made(await self.transport(factory))
        return watched

    async def transport(self, factory: Callable[[], asyncio.Protocol]) -> Any:
        ours, theirs = socket.socketpair()
        self.others.append(theirs)
        return (await self._loop.create_connection(factory, sock=ours))[0]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    for other in stage.others:
        other.close()
    await turns(10)
    assert not watching._watched


def transport_of(watched: Watched) -> asyncio.Transport:
    assert watched.transport is not None
    return watched.transport


@KINDS
async def test_a_protocol_is_told_as_before_and_so_are_we(stage: Stage, kind: Any) -> None:
    """Each by itself, though they are of one class; what it is shows as before."""
    one, other = kind(), kind()
    first, second = await stage.connect(one), await stage.connect(other)

    transport_of(first).abort()
    await turns_until(lambda: bool(stage.over))

    assert (one.told, other.told, stage.over) == ([None], [], [first])
    assert isinstance(one, kind)
    assert type(one).__name__ == kind.__name__
    transport_of(second).abort()
    await turns_until(lambda: len(stage.over) == 2)
    assert (one.told, other.told, stage.over) == ([None], [None], [first, second])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", [Raising, SlottedRaising])
async def test_we_are_told_whatever_the_protocol_does(stage: Stage, kind: Any) -> None:
    """What it raises is the loop's to report."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    watched = await stage.connect(kind())

    transport_of(watched).abort()

    await turns_until(lambda: stage.over == [watched])
    assert [str(context["exception"]) for context in reported] == ["no more"]


@KINDS
async def test_of_one_protocol_with_many_connections_each_ends_by_itself(
    stage: Stage, kind: Any
) -> None:
    """Not one that closes and has still something to send, nor one that is none of ours."""
    shared = kind()
    stranger = await stage.transport(lambda: shared)
    connections = [await stage.connect(shared) for _ in range(3)]
    sending, aborted, open_ = connections
    transport_of(sending).write(bytes(2**24))
    transport_of(sending).close()

    stranger.abort()
    await turns_until(lambda: len(shared.told) == 1)
    await turns()
    assert stage.over == []
    transport_of(aborted).abort()
    await turns_until(lambda: len(shared.told) == 2)
    await turns()
    assert stage.over == [aborted]
    transport_of(sending).abort()
    await turns_until(lambda: stage.over == [aborted, sending])
    transport_of(open_).abort()
    await turns_until(lambda: stage.over == [aborted, sending, open_])
    assert len(shared.told) == 4


async def test_a_protocol_with_a_method_of_its_own_keeps_it(stage: Stage) -> None:
    """An attribute of the object, there before us; each connection is told to it."""
    protocol, heard = Plain(), list[object]()
    protocol.connection_lost = heard.append  # type: ignore[method-assign, assignment]
    for number in range(3):
        transport_of(await stage.connect(protocol)).abort()
        await turns_until(lambda number=number: len(stage.over) > number)  # type: ignore[misc]

    assert heard == [None] * 3
    assert protocol.__dict__["connection_lost"] == heard.append


@KINDS
async def test_one_protocol_may_have_one_connection_after_the_other(
    stage: Stage, kind: Any
) -> None:
    """However many: nothing of the ones before is left on it."""
    shared = kind()
    for number in range(5):
        watched = await stage.connect(shared)
        transport_of(watched).abort()
        await turns_until(lambda number=number: len(stage.over) > number)  # type: ignore[misc]

    assert len(shared.told) == 5
    assert type(shared).__mro__[-4:] == kind.__mro__[-4:]
    assert len(type(shared).__mro__) <= len(kind.__mro__) + 1


async def test_many_that_end_at_a_time_are_one_look(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a hundred of them would be ten thousand looks."""
    shared, looks = Plain(), 0
    connections = [await stage.connect(shared) for _ in range(5)]
    look = Watched.look

    def counted(watched: Watched) -> None:
        nonlocal looks
        looks += 1
        look(watched)

    monkeypatch.setattr(Watched, "look", counted)
    for watched in connections:
        transport_of(watched).abort()

    await turns_until(lambda: len(stage.over) == 5)
    assert looks == 5


async def test_one_that_could_not_be_made_ends_alone(stage: Stage) -> None:
    """As without TLS: its protocol, which has others, never hears of it."""
    shared = Plain()
    lives = await stage.connect(shared)
    failed = Watched(stage.over.append)
    failed.follow(shared)

    failed.made(None)
    failed.end()

    assert stage.over == [failed]
    transport_of(lives).abort()
    await turns_until(lambda: stage.over == [failed, lives])


async def test_one_that_is_lost_before_it_is_made_is_seen_then(stage: Stage) -> None:
    """As one whose protocol closes it at once: its transport is told of later."""
    protocol = Plain()
    transport = await stage.transport(lambda: protocol)
    watched = Watched(stage.over.append)
    watched.follow(protocol)
    transport.abort()
    await turns_until(lambda: protocol.told == [None])
    await turns()
    assert stage.over == []

    watched.made(transport)
    watched.made(transport)

    assert stage.over == [watched]
    assert watched.transport is None


async def test_an_end_is_told_once(stage: Stage) -> None:
    """However often, and by whomever; one that is not lost has not ended."""
    protocol: Any = Plain()
    watched = await stage.connect(protocol)
    transport = transport_of(watched)
    protocol.connection_lost(None)
    await turns()
    assert stage.over == []

    watched.end()
    watched.end()
    transport.abort()
    await turns()

    assert stage.over == [watched]


async def test_a_transport_that_goes_to_another_protocol_is_followed(stage: Stage) -> None:
    """As for a WebSocket: the first one is told nothing more."""
    first, other = Plain(), Slotted()
    watched = await stage.connect(first)
    watched.look()
    transport_of(watched).set_protocol(other)
    watched.look()
    assert stage.over == []

    transport_of(watched).abort()
    await turns_until(lambda: stage.over == [watched])

    assert (first.told, other.told) == ([], [None])


async def test_one_that_is_lost_before_we_look_is_seen_then(stage: Stage) -> None:
    """Nobody told us, and nobody will."""
    watched = await stage.connect(Plain())
    transport_of(watched).set_protocol(Plain())
    transport_of(watched).abort()
    await turns()
    assert stage.over == []

    watched.look()

    assert stage.over == [watched]

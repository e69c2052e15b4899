"""When and how much a worker accepts, whoever accepts for it: Python or uvloop."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from aiocluster.worker.accept import acceptor as module
from tests.support.connections import open_fds
from tests.support.entrance import Entrance, is_exclusive, is_watched, watching
from tests.support.waiting import soon, turns, turns_until


@pytest.fixture(params=["reading", "serving"])
async def entrance(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Entrance]:
    monkeypatch.setattr(module, "_PLENTY", 0)
    entrance = Entrance(is_limited=request.param == "reading")
    yield entrance
    entrance.close()


@pytest.fixture
def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is accepted was accepted in a wake-up."""
    monkeypatch.setattr(module, "_LOOK_INTERVAL", 1000.0)


# ---- when


async def test_it_accepts_nothing_until_told(entrance: Entrance) -> None:
    """A worker that boots, or is held back, leaves connections to the others."""
    entrance.add()
    entrance.connect()

    await turns(20)

    assert entrance.accepted == []


async def test_it_accepts_what_comes_and_says_by_which_listener(entrance: Entrance) -> None:
    """What had come before it was told to, too."""
    acceptor = entrance.add(index=7)
    entrance.connect(2)
    acceptor.resume()
    await entrance.until_accepted(2)
    entrance.connect(1)

    await entrance.until_accepted(3)

    assert {listener for _, listener in entrance.accepted} == {7}


async def test_a_pause_leaves_connections_in_the_backlog(entrance: Entrance) -> None:
    """At once, and until it is told to go on; both may be said twice."""
    acceptor = entrance.add()
    acceptor.resume()
    acceptor.resume()
    acceptor.pause()
    acceptor.pause()
    entrance.connect()
    await turns(20)
    assert entrance.accepted == []

    acceptor.resume()

    await entrance.until_accepted(1)


async def test_each_of_its_sockets_is_served(entrance: Entrance) -> None:
    """A worker shares all the listeners of its cluster."""
    other = Entrance(is_limited=False)
    acceptor = entrance.open(0, [(1, entrance.sock.dup()), (2, other.sock.dup())])
    acceptor.resume()
    entrance.connect()
    other.connect()

    await entrance.until_accepted(2)

    assert {listener for _, listener in entrance.accepted} == {1, 2}
    other.close()


async def test_without_sockets_it_does_nothing() -> None:
    """That is how it is with every other policy."""
    entrance = Entrance(is_limited=False)
    acceptor = entrance.open(0, [])

    acceptor.resume(3)
    acceptor.update()
    acceptor.accept_rest()
    assert not acceptor.accepts
    entrance.close()


@pytest.mark.parametrize("is_limited", [True, False])
async def test_closing_leaves_nothing_open(is_limited: bool) -> None:
    """Neither the sockets nor the loop's epoll are kept; it may be closed twice."""
    before = open_fds()
    entrance = Entrance(is_limited=is_limited)
    acceptor = entrance.add()
    acceptor.resume()
    await watching(entrance.sock)
    acceptor.close()
    acceptor.close()
    entrance.close()
    await turns()

    assert open_fds() - before == set()


async def test_the_loop_goes_on_after_it_was_closed(entrance: Entrance) -> None:
    """What it did to the loop's own epoll hurts nobody else there."""
    acceptor = entrance.add()
    acceptor.resume()
    await watching(entrance.sock)
    acceptor.close()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    theirs.send(b"x")

    assert await soon(asyncio.get_running_loop().sock_recv(ours, 1)) == b"x"
    ours.close()
    theirs.close()


async def test_the_rest_is_accepted_before_the_last_one_closes(entrance: Entrance) -> None:
    """Who waits there would be reset."""
    acceptor = entrance.add()
    acceptor.resume()
    entrance.connect(100)

    acceptor.accept_rest()

    assert len(entrance.accepted) == 100


async def test_one_that_does_not_accept_leaves_the_rest(entrance: Entrance) -> None:
    """It was not ready for them."""
    acceptor = entrance.add()
    entrance.connect()

    acceptor.accept_rest()

    assert entrance.accepted == []


# ---- who is woken


async def test_it_waits_exclusively(entrance: Entrance, nobody_looks: None) -> None:
    """In the epoll in which its loop sleeps, from the start, and after each time it was woken."""
    acceptor = entrance.add()
    acceptor.resume()
    await watching(entrance.sock)

    for count in range(1, 20):
        entrance.connect()
        await entrance.until_accepted(count)
        assert is_exclusive(entrance.sock)
    acceptor.pause()
    await turns()
    assert not is_watched(entrance.sock)
    acceptor.resume()
    await watching(entrance.sock)


# ---- how many


async def test_when_full_it_stops_and_goes_on_when_there_is_room(
    entrance: Entrance, nobody_looks: None
) -> None:
    """Exactly as many as there is room for; the others wait in the backlog, and nothing spins."""
    entrance.room.free = 3
    acceptor = entrance.add()
    acceptor.resume()
    entrance.connect(5)
    await entrance.until_accepted(3)
    assert entrance.room.is_awaited
    asked = entrance.sockets[0].asked
    await turns(20)
    assert (len(entrance.accepted), entrance.sockets[0].asked) == (3, asked)

    entrance.room.free = 1
    entrance.room.on_room()
    await entrance.until_accepted(4)
    await turns(20)

    assert len(entrance.accepted) == 4


async def test_one_that_is_told_to_pause_awaits_no_room(
    entrance: Entrance, nobody_looks: None
) -> None:
    """Else each connection that ends would have the room counted, for nobody."""
    entrance.room.free = 1
    acceptor = entrance.add()
    acceptor.resume()
    entrance.connect()
    await entrance.until_accepted(1)
    assert entrance.room.is_awaited

    acceptor.pause()
    assert not entrance.room.is_awaited


async def test_room_is_found_without_being_told(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptors that handlers close tell nobody."""
    monkeypatch.setattr(module, "_LOOK_INTERVAL", 0.01)
    entrance.room.free = 0
    entrance.add().resume()
    entrance.connect()
    await turns(20)
    assert entrance.accepted == []

    entrance.room.free = 1

    await entrance.until_accepted(1)


async def test_the_rest_is_bounded_by_the_room(entrance: Entrance) -> None:
    """A descriptor too many would be one that a handler misses."""
    entrance.room.free = 3
    acceptor = entrance.add()
    acceptor.resume()
    entrance.connect(5)

    acceptor.accept_rest()

    assert len(entrance.accepted) == 3


@pytest.mark.parametrize(
    ("free", "is_limited", "by_uvloop"),
    [(1025, False, True), (1024, False, False), (3, False, False), (1025, True, False)],
)
async def test_uvloop_accepts_where_there_is_plenty_of_room(
    nobody_looks: None, free: int, is_limited: bool, by_uvloop: bool
) -> None:
    """Without a descriptor it would close all who wait; and it asks nobody how many may come."""
    entrance = Entrance(is_limited=is_limited)
    entrance.room.free = free
    entrance.add().resume()
    entrance.connect()

    await entrance.until_accepted(1)

    assert bool(entrance.sockets[0].asked) is not by_uvloop
    entrance.close()


async def test_who_accepts_changes_with_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is seen when somebody looks: handlers open files, and close them."""
    monkeypatch.setattr(module, "_LOOK_INTERVAL", 0.01)
    entrance = Entrance(is_limited=False)
    acceptor = entrance.add()
    acceptor.resume()
    for count, free in ((1, 2000), (2, 500), (3, 2000)):
        entrance.room.free = free
        await turns_until(lambda: acceptor.has_plenty is (entrance.room.free > 1024))
        await watching(entrance.sock)
        entrance.connect()
        await entrance.until_accepted(count)

    assert len(entrance.batches) >= 1
    entrance.close()

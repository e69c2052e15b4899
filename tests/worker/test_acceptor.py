"""Accepting in a worker, with real sockets on loopback that several acceptors share."""

import asyncio
import errno
import logging
import os
import re
import select
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from aiocluster.worker import acceptor as module
from aiocluster.worker.acceptor import Accepted, Acceptor
from tests.support.connections import open_fds
from tests.support.waiting import soon, turns, turns_until


class FaultySocket(socket.socket):
    """A listening socket whose kernel has troubles: each is raised once, in its turn."""

    troubles: list[int]
    asked = 0  # how often somebody tried to accept
    missed = 0  # and nobody waited

    def _accept(self) -> tuple[int, object]:
        self.asked += 1
        try:
            if self.troubles and (number := self.troubles.pop(0)):
                raise OSError(number, os.strerror(number))
            accepted: tuple[int, object] = super()._accept()  # type: ignore[misc]
        except BlockingIOError:
            self.missed += 1
            raise
        return accepted


class RoomFor:
    """The room of all acceptors of a test."""

    def __init__(self, free: int, *, may_shrink: bool = False) -> None:
        self.free = free
        self.may_shrink = may_shrink
        self.is_awaited = False
        self.on_room: Callable[[], None] = lambda: None

    def count(self) -> int:
        return self.free


class Door:
    """A listening socket, its clients, and the acceptors that share it in this process."""

    def __init__(self) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.sock.setblocking(False)
        self.acceptors: list[Acceptor] = []
        self.sockets: list[FaultySocket] = []
        self.accepted: list[tuple[int, int, int]] = []  # who, fd, listener
        self.batches: list[int] = []
        self.room = RoomFor(1000)
        self._clients: list[socket.socket] = []
        self._grew = asyncio.Event()

    def add(self, index: int = 2) -> Acceptor:
        who = len(self.acceptors)
        sock = FaultySocket(fileno=os.dup(self.sock.fileno()))
        sock.troubles = []
        self.sockets.append(sock)
        self.acceptors.append(Acceptor([(index, sock)], self._hearer(who), self.room))
        return self.acceptors[-1]

    def _hearer(self, who: int) -> Callable[[list[Accepted]], None]:
        def hear(batch: list[Accepted]) -> None:
            self.batches.append(len(batch))
            self.room.free -= len(batch)
            self.accepted += [(who, fd, listener) for fd, listener, _ in batch]
            self._grew.set()

        return hear

    def connect(self, count: int = 1) -> None:
        address = self.sock.getsockname()
        self._clients += [socket.create_connection(address) for _ in range(count)]

    async def until_accepted(self, count: int) -> None:
        while len(self.accepted) < count:
            self._grew.clear()
            await soon(self._grew.wait())

    @property
    def counts(self) -> list[int]:
        """How many each acceptor has got."""
        who = [who for who, _, _ in self.accepted]
        return [who.count(number) for number in range(len(self.acceptors))]

    def close(self) -> None:
        for acceptor in self.acceptors:
            acceptor.close()
        for _, fd, _ in self.accepted:
            os.close(fd)
        for client in (*self._clients, self.sock):
            client.close()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    door = Door()
    yield door
    door.close()


@pytest.fixture
def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is accepted was accepted in a wake-up."""
    monkeypatch.setattr(module, "_LOOK_INTERVAL", 1000.0)


async def watching(acceptor: Acceptor, sock: socket.socket) -> None:
    """Wait until the acceptor is woken for this socket alone."""
    await turns_until(lambda: is_exclusive(sock))


def is_exclusive(sock: socket.socket) -> bool:
    """Is the loop's epoll to be woken for this socket as one of many?"""
    backend = asyncio.get_running_loop()._get_backend_id()  # type: ignore[attr-defined]
    info = Path(f"/proc/self/fdinfo/{backend}").read_text()
    watched = dict(re.findall(r"tfd:\s*(\d+) events:\s*([0-9a-f]+)", info))
    events = int(watched.get(str(sock.fileno()), "0"), 16)
    return bool(events & select.EPOLLEXCLUSIVE)


# ---- when


async def test_it_accepts_nothing_until_told(door: Door) -> None:
    """A worker that boots, or is held back, leaves connections to the others."""
    door.add()
    door.connect()

    await turns(20)

    assert door.accepted == []


async def test_it_accepts_what_comes_and_says_by_which_listener(door: Door) -> None:
    """What had come before it was told to, too."""
    acceptor = door.add(index=7)
    door.connect(2)
    acceptor.resume()
    await door.until_accepted(2)
    door.connect(1)

    await door.until_accepted(3)

    assert {listener for _, _, listener in door.accepted} == {7}


async def test_a_pause_leaves_connections_in_the_backlog(door: Door) -> None:
    """At once, and until it is told to go on; both may be said twice."""
    acceptor = door.add()
    acceptor.resume()
    acceptor.resume()
    acceptor.pause()
    acceptor.pause()
    door.connect()
    await turns(20)
    assert door.accepted == []

    acceptor.resume()

    await door.until_accepted(1)


async def test_each_of_its_sockets_is_served(door: Door) -> None:
    """A worker shares all the listeners of its cluster."""
    other = Door()
    acceptor = Acceptor(
        [(1, door.sock.dup()), (2, other.sock.dup())], door._hearer(0), RoomFor(1000)
    )
    door.acceptors.append(acceptor)
    acceptor.resume()
    door.connect()
    other.connect()

    await door.until_accepted(2)

    assert {listener for _, _, listener in door.accepted} == {1, 2}
    other.close()


async def test_without_sockets_it_does_nothing() -> None:
    """That is how it is with every other policy."""
    acceptor = Acceptor([], lambda batch: None, RoomFor(1000))

    acceptor.resume(3)
    acceptor.update()
    acceptor.accept_rest()
    assert not acceptor.accepts
    acceptor.close()


async def test_closing_leaves_nothing_open() -> None:
    """Neither the sockets nor the loop's epoll are kept; it may be closed twice."""
    before = open_fds()
    door = Door()
    acceptor = door.add()
    acceptor.resume()
    await watching(acceptor, door.sockets[0])
    acceptor.close()
    acceptor.close()
    door.close()
    await turns()

    assert open_fds() - before == set()


async def test_the_loop_goes_on_after_it_was_closed(door: Door) -> None:
    """What it did to the loop's own epoll hurts nobody else there."""
    acceptor = door.add()
    acceptor.resume()
    await watching(acceptor, door.sockets[0])
    acceptor.close()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    theirs.send(b"x")

    assert await soon(asyncio.get_running_loop().sock_recv(ours, 1)) == b"x"
    ours.close()
    theirs.close()


async def test_the_rest_is_accepted_before_the_last_one_closes(door: Door) -> None:
    """Who waits there would be reset."""
    acceptor = door.add()
    acceptor.resume()
    door.connect(100)

    acceptor.accept_rest()

    assert len(door.accepted) == 100


async def test_one_that_does_not_accept_leaves_the_rest(door: Door) -> None:
    """It was not ready for them."""
    acceptor = door.add()
    door.connect()

    acceptor.accept_rest()

    assert door.accepted == []


# ---- who is woken


async def test_it_waits_exclusively(door: Door, nobody_looks: None) -> None:
    """In the epoll in which its loop sleeps, from the start, and after each time it was woken."""
    acceptor = door.add()
    acceptor.resume()
    await watching(acceptor, door.sockets[0])

    for count in range(1, 20):
        door.connect()
        await door.until_accepted(count)
        assert is_exclusive(door.sockets[0])
    acceptor.pause()
    await turns()
    assert not is_exclusive(door.sockets[0])
    acceptor.resume()
    await watching(acceptor, door.sockets[0])


async def test_nobody_is_woken_in_vain(door: Door, nobody_looks: None) -> None:
    """One by one, connections cost as many wake-ups."""
    acceptor = door.add()
    acceptor.resume()
    await watching(acceptor, door.sockets[0])

    for count in range(1, 31):
        door.connect()
        await door.until_accepted(count)

    assert (door.sockets[0].asked, door.sockets[0].missed) == (30, 0)


async def test_who_is_too_late_goes_on(door: Door, nobody_looks: None) -> None:
    """Another worker was quicker: that costs nobody anything."""
    first, second = door.add(), door.add()
    for acceptor in (first, second):
        acceptor.resume()
    await turns()
    door.sockets[1].troubles = [errno.EAGAIN]
    door.connect(2)

    await door.until_accepted(2)

    assert door.sockets[1].missed >= 1


async def test_a_quick_loop_takes_few_at_a_time(
    door: Door, nobody_looks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So one worker does not swallow a burst while others come to take their share."""
    monkeypatch.setattr(module, "_QUICK", 1e12)
    acceptor = door.add()
    door.connect(50)
    acceptor.resume(4)

    await door.until_accepted(50)

    assert door.batches[:5] == [8, 8, 8, 7, 5]


async def test_the_first_wake_up_in_a_while_takes_one(door: Door, nobody_looks: None) -> None:
    """The others are woken, too, and about to come."""
    acceptor = door.add()
    door.connect(50)
    acceptor.resume(4)

    await door.until_accepted(50)

    assert door.batches[0] == 1


async def test_a_slow_loop_takes_its_share(
    door: Door, nobody_looks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a turn would let them wait for many of its long turns."""
    monkeypatch.setattr(module, "_QUICK", -1.0)
    acceptor = door.add()
    door.connect(50)
    acceptor.resume(4)

    await door.until_accepted(50)

    assert door.batches[:5] == [1, 13, 9, 7, 5]


async def test_a_lost_wake_up_is_made_up_for(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker that was woken died, or is busy: the others look by themselves."""
    monkeypatch.setattr(module, "_LOOK_INTERVAL", 0.01)
    acceptor = door.add()
    acceptor.resume()
    await watching(acceptor, door.sockets[0])
    # As if the kernel had told somebody else.
    acceptor._epoll.unregister(door.sockets[0])  # type: ignore[union-attr]
    door.connect()

    await door.until_accepted(1)

    assert not is_exclusive(door.sockets[0])  # so nothing but a look has found it


async def test_a_loop_without_an_epoll_of_its_own_serves(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are woken then, which costs time and no connection."""
    monkeypatch.setattr(module, "_epoll_of", lambda loop: None)
    door.add().resume()
    door.connect(3)

    await door.until_accepted(3)

    assert not is_exclusive(door.sockets[0])


# ---- how many


async def test_when_full_it_stops_and_goes_on_when_there_is_room(
    door: Door, nobody_looks: None
) -> None:
    """Exactly as many as there is room for; the others wait in the backlog, and nothing spins."""
    door.room.free = 3
    acceptor = door.add()
    acceptor.resume()
    door.connect(5)
    await door.until_accepted(3)
    assert door.room.is_awaited
    asked = door.sockets[0].asked
    await turns(20)
    assert (len(door.accepted), door.sockets[0].asked) == (3, asked)

    door.room.free = 1
    door.room.on_room()
    await door.until_accepted(4)
    await turns(20)

    assert len(door.accepted) == 4


async def test_one_that_is_told_to_pause_awaits_no_room(door: Door, nobody_looks: None) -> None:
    """Else each connection that ends would have the room counted, for nobody."""
    door.room.free = 1
    acceptor = door.add()
    acceptor.resume()
    door.connect()
    await door.until_accepted(1)
    assert door.room.is_awaited

    acceptor.pause()
    assert not door.room.is_awaited


async def test_room_that_shrinks_by_itself_is_counted_each_time(
    door: Door, nobody_looks: None
) -> None:
    """Requests begin on connections that are open: what was counted before is too much."""
    door.room = RoomFor(1000, may_shrink=True)
    acceptor = door.add()
    acceptor.resume()
    door.connect()
    await door.until_accepted(1)

    door.room.free = 0
    door.connect()
    await turns(20)

    assert len(door.accepted) == 1
    assert door.room.is_awaited
    door.room.free = 1
    door.room.on_room()
    await door.until_accepted(2)


async def test_room_is_found_without_being_told(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptors that handlers close tell nobody."""
    monkeypatch.setattr(module, "_LOOK_INTERVAL", 0.01)
    door.room.free = 0
    door.add().resume()
    door.connect()
    await turns(20)
    assert door.accepted == []

    door.room.free = 1

    await door.until_accepted(1)


async def test_the_rest_is_bounded_by_the_room(door: Door) -> None:
    """A descriptor too many would be one that a handler misses."""
    door.room.free = 3
    acceptor = door.add()
    acceptor.resume()
    door.connect(5)

    acceptor.accept_rest()

    assert len(door.accepted) == 3


# ---- troubles


async def test_a_client_that_gave_up_is_passed_over(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """The next one is accepted as if nothing had been."""
    acceptor = door.add()
    door.sockets[0].troubles = [errno.ECONNABORTED, errno.EPERM]
    acceptor.resume()
    door.connect(2)

    await door.until_accepted(2)

    assert door.sockets[0].troubles == []
    assert "failed" not in caplog.text


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINVAL])
async def test_out_of_descriptors_it_waits_and_goes_on(
    door: Door, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so once, does not spin, and loses nobody."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("aiocluster.ipc.trouble._RETRY_AFTER", 0.01)
    acceptor = door.add()
    door.sockets[0].troubles = [number] * 3
    acceptor.resume()
    door.connect(2)

    await door.until_accepted(2)

    host, port = door.sock.getsockname()
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        f"accept on {host}:{port} failed: [Errno {number}] {os.strerror(number)};"
        " connections wait in the backlog until it passes",
        f"accepting on {host}:{port} again",
    ]
    assert door.sockets[0].asked <= 6


async def test_what_came_before_a_trouble_is_not_lost(door: Door, nobody_looks: None) -> None:
    """Accepted is accepted."""
    acceptor = door.add()
    acceptor.resume()
    door.connect(5)
    door.sockets[0].troubles = [0, 0, errno.EMFILE]

    acceptor.accept_rest()

    assert len(door.accepted) == 2


async def test_a_pause_holds_through_a_trouble(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the trouble is over it accepts only if it still is to."""
    monkeypatch.setattr("aiocluster.ipc.trouble._RETRY_AFTER", 0.001)
    acceptor = door.add()
    door.sockets[0].troubles = [errno.EMFILE]
    acceptor.resume()
    door.connect()
    await turns_until(lambda: not door.sockets[0].troubles)
    acceptor.pause()
    over = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.01, over.set_result, None)
    await soon(over)

    assert door.accepted == []


async def test_closed_in_the_middle_of_a_trouble_it_stays_closed(door: Door) -> None:
    """The timer that would try again goes with it."""
    acceptor = door.add()
    door.sockets[0].troubles = [errno.EMFILE]
    acceptor.resume()
    door.connect()
    await turns_until(lambda: not door.sockets[0].troubles)

    acceptor.close()
    await turns()

    assert door.sockets[0].fileno() == -1

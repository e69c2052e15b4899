"""What a worker gives back, over a real handoff."""

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from aiocluster.ipc.handoff import Client, Taken, give, give_told, handoff_pair
from aiocluster.primary.dispatch.returns import Returns
from aiocluster.primary.sockets.connection import Connection
from tests.support.connections import at_fd_limit, connections, open_fds
from tests.support.waiting import soon, turns, turns_until


class Side:
    """The reading side, and the worker's end."""

    def __init__(self) -> None:
        self.ours, self.theirs = handoff_pair()
        self.came: list[Taken] = []
        self.heard = asyncio.Event()
        self.broken: list[str] = []
        self.is_flooded, self.asked = False, asyncio.Event()
        self.returns = Returns(self.ours, self._on_returned, self._on_broken, self._would_flood)

    def _would_flood(self) -> bool:
        self.asked.set()
        return self.is_flooded

    def _on_broken(self, why: str) -> None:
        self.broken.append(why)
        self.heard.set()

    def _on_returned(self, returned: list[Taken]) -> None:
        self.came += returned
        self.heard.set()

    def give_back(self, batch: Sequence[Connection]) -> None:
        """Do as a worker does, which keeps no descriptor."""
        fds = [connection.fd for connection in batch]
        assert give(self.theirs, fds, bytes(connection.listener for connection in batch))
        for fd in fds:
            os.close(fd)

    def give_back_told(self, client: Client) -> None:
        """Give back one of listener 2, of which a proxy has told who it is."""
        (connection,) = connections(1)
        assert give_told(self.theirs, connection.fd, 2, client)
        os.close(connection.fd)

    def close(self) -> None:
        close_all(self.came)
        close_all(self.returns.close())
        self.ours.close()
        self.theirs.close()


def close_all(taken: list[Taken]) -> None:
    """Close what came back."""
    for fd, *_ in taken:
        os.close(fd)


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    side = Side()
    yield side
    side.close()


async def test_what_is_given_back_is_heard_of(side: Side) -> None:
    """Each with its listener, open, and once."""
    side.give_back([*connections(2, listener=1), *connections(1, listener=3)])

    await soon(side.heard.wait())

    assert [where for _, *where in side.came] == [[1, None], [1, None], [3, None]]
    assert all(os.fstat(fd) for fd, *_ in side.came)


async def test_who_a_client_is_comes_back_with_it(side: Side) -> None:
    """The proxy says it once, to us, so the next worker must have it from us again."""
    side.give_back_told(("192.0.2.7", 4711))

    await soon(side.heard.wait())

    assert [where for _, *where in side.came] == [[2, ("192.0.2.7", 4711)]]


async def test_one_that_was_told_waits_at_the_fd_limit_too(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message is longer than the one descriptor that it needs."""
    monkeypatch.setattr("aiocluster.primary.dispatch.returns._FD_LIMIT_PAUSE", 0.001)
    side.give_back_told(("2001:db8::7", 4711))
    with at_fd_limit(0):
        await asyncio.wait({asyncio.ensure_future(side.heard.wait())}, timeout=0.05)
        assert not side.heard.is_set()
    with at_fd_limit(1):
        await soon(side.heard.wait())

    assert len(side.came) == 1


async def test_what_a_dead_worker_had_given_back_is_not_lost(side: Side) -> None:
    """What it sent before its death is read after it."""
    side.give_back(connections(3))
    side.give_back(connections(2))
    side.theirs.close()

    left = side.returns.close()

    assert len(left) == 5
    close_all(left)
    await turns()
    assert side.came == []


async def test_at_the_fd_limit_they_wait_in_the_queue(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel destroys what cannot be opened, so nothing is read before all of it can be."""
    monkeypatch.setattr("aiocluster.primary.dispatch.returns._FD_LIMIT_PAUSE", 0.001)
    side.give_back(connections(8))
    with at_fd_limit(7):
        before = len(open_fds())
        await asyncio.wait({asyncio.ensure_future(side.heard.wait())}, timeout=0.05)
        assert not side.heard.is_set()
        assert len(open_fds()) == before

    await soon(side.heard.wait())

    assert len(side.came) == 8


async def test_while_others_have_enough_to_take_they_wait_in_the_queue(side: Side) -> None:
    """Nothing is read that would only wait elsewhere."""
    side.is_flooded = True
    side.give_back(connections(3))
    await soon(side.asked.wait())
    await turns(20)
    assert side.came == []
    side.is_flooded = False

    await soon(side.heard.wait())

    assert len(side.came) == 3


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (lambda sock: sock.send(b""), "an empty packet"),
        (lambda sock: sock.shutdown(socket.SHUT_WR), "shut down"),
        (lambda sock: sock.shutdown(socket.SHUT_RDWR), "shut down"),
        (lambda sock: sock.send(b"\0\1"), "2 connections with 0 descriptors"),
        (lambda sock: socket.send_fds(sock, [b"\0"], [1, 2]), "1 connections with 2 descriptors"),
    ],
)
async def test_a_broken_end_is_told_once_and_read_no_more(
    side: Side, fault: Callable[[socket.socket], object], why: str
) -> None:
    """What is readable for ever would turn the loop for ever; no descriptor is left behind."""
    gc.collect()  # what other tests have left would be closed meanwhile
    before = open_fds()
    side.give_back(connections(1))
    fault(side.theirs)
    await turns_until(lambda: bool(side.broken))
    with contextlib.suppress(OSError):  # it may be shut down
        side.theirs.send(b"")
    await turns(20)

    assert len(side.came) == len(side.broken) == 1
    assert why in side.broken[0]
    close_all(side.came)
    side.came.clear()
    assert open_fds() == before


async def test_closed_it_hears_of_nothing_more(side: Side) -> None:
    """Whatever is done with the socket afterwards."""
    assert side.returns.close() == []
    side.give_back(connections(1))

    await turns(20)

    assert side.came == []


async def test_what_another_thread_has_left_no_room_for_is_told(
    side: Side, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It has opened a file between our look and the reading: what came through goes on."""
    monkeypatch.setattr(
        "aiocluster.primary.dispatch.returns._have_room_for", lambda count, fd: True
    )
    side.give_back(connections(3))
    with at_fd_limit(2):
        await turns()

    assert len(side.came) == 2
    assert "1 connections lost: too many open files in the primary" in caplog.text

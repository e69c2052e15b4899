"""The worker's side of a real handoff; the test plays the primary."""

import os
import socket
from collections.abc import AsyncIterator

import pytest

from aiocluster.ipc.handoff import Client, give, give_told, handoff_pair, take_all
from aiocluster.ipc.scoreboard import CONNECTIONS_CLOSED, CONNECTIONS_TAKEN
from aiocluster.worker.accept.handoff_receiver import HandoffReceiver
from tests.support.connections import at_fd_limit, none_lost, open_fds
from tests.support.waiting import turns, turns_until


class Side:
    """An intake, and what it was given."""

    def __init__(self) -> None:
        self.primary, self.ours = handoff_pair()
        self.row = memoryview(bytearray(16 * 8)).cast("Q")
        self.came: list[tuple[int, Client | None]] = []
        self.lost = 0
        self.handoff_receiver = HandoffReceiver(self.row, self._on_lost)

    def _on_lost(self) -> None:
        self.lost += 1

    def adopt(self, fd: int, listener: int, client: Client | None) -> None:
        """Own one."""
        os.close(fd)
        self.came.append((listener, client))

    def begin(self) -> None:
        self.handoff_receiver.begin(self.ours, self.adopt)

    def give(self, *listeners: int) -> None:
        """Give one connection of each of these listeners."""
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in listeners]
        assert give(self.primary, fds, bytes(listeners))
        for fd in fds:
            os.close(fd)

    def returned(self) -> list[tuple[int, Client | None]]:
        """Take what came back; return listener and client of each."""
        taken = take_all(self.primary, none_lost)
        for fd, _, _ in taken:
            os.close(fd)
        return [(listener, client) for _, listener, client in taken]

    def close(self) -> None:
        self.handoff_receiver.end()
        for sock in (self.primary, self.ours):
            sock.close()


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    side = Side()
    yield side
    side.close()


async def test_what_comes_is_counted_and_adopted(side: Side) -> None:
    """With its listener; who its client is, where a proxy has told."""
    side.begin()
    side.give(0, 2)
    fd = os.open("/dev/null", os.O_RDONLY)
    assert give_told(side.primary, fd, 1, ("::1", 5))
    os.close(fd)

    await turns_until(lambda: len(side.came) == 3)

    assert side.came == [(0, None), (2, None), (1, ("::1", 5))]
    assert side.row[CONNECTIONS_TAKEN] == 3


async def test_until_it_begins_they_wait(side: Side) -> None:
    """In the kernel, from where others can have them."""
    side.give(0)
    await turns()
    assert side.came == []
    side.begin()

    await turns_until(lambda: len(side.came) == 1)


async def test_at_the_end_what_was_given_is_taken(side: Side) -> None:
    """Nothing more afterwards; it may be ended twice."""
    side.begin()
    side.give(0)
    side.give(1)
    side.handoff_receiver.end()
    assert len(side.came) == 2
    side.give(0)
    await turns()
    assert len(side.came) == 2
    side.handoff_receiver.end()

    assert len(side.came) == 3  # so that it is not lost either


async def test_without_a_handoff_nothing_goes_back(side: Side) -> None:
    """As before it has begun: whoever wants to give it keeps it."""
    side.handoff_receiver.end()

    assert not side.handoff_receiver.give_back([0], [0], [None])
    assert not side.handoff_receiver.turn_away(0, 0, None)


async def test_what_goes_back_has_the_listener_it_came_by(side: Side) -> None:
    """It goes on as one of that, wherever it goes."""
    side.begin()
    assert side.handoff_receiver.give_back([0, 1], [2, 1], [None, None])
    assert side.handoff_receiver.give_back([1], [1], [("::1", 5)])

    assert side.returned() == [(2, None), (1, None), (1, ("::1", 5))]


async def test_no_more_goes_back_than_the_primary_takes(side: Side) -> None:
    """A connection that is used would wait behind thousands that are not."""
    side.begin()
    count = 0
    while side.handoff_receiver.give_back([0] * 32, [0] * 32, [None] * 32):
        count += 32
        assert count < 1000
    assert count >= 32

    assert len(side.returned()) == count

    assert side.handoff_receiver.give_back([0], [0], [None])


async def test_what_is_turned_away_keeps_its_listener(side: Side) -> None:
    """For that one it came."""
    side.begin()
    assert side.handoff_receiver.turn_away(0, 2, None)
    assert side.handoff_receiver.turn_away(0, 2, ("1.2.3.4", 5))

    assert side.returned() == [(2, None), (2, ("1.2.3.4", 5))]


async def test_when_the_primary_is_gone_it_is_deaf(side: Side) -> None:
    """An end that is read again and again would turn the loop for ever."""
    side.begin()
    side.primary.close()
    await turns(20)

    assert not side.handoff_receiver.give_back([0], [0], [None])
    assert side.came == []


@pytest.mark.parametrize("how", ["closed", "replaced", "shut down"])
async def test_a_broken_handoff_is_left_alone(side: Side, how: str) -> None:
    """Read again and again it would turn the loop for ever; what was to go back stays here."""
    side.begin()
    match how:
        case "closed":
            os.close(side.ours.fileno())
        case "replaced":
            os.dup2(0, side.ours.fileno())
        case _:
            side.ours.shutdown(socket.SHUT_RDWR)
    assert not side.handoff_receiver.give_back([0], [0], [None]) or how == "shut down"
    await turns_until(lambda: side.handoff_receiver.is_cut_off)

    assert not side.handoff_receiver.give_back([0], [0], [None])
    assert not side.handoff_receiver.turn_away(0, 0, ("1.2.3.4", 5))
    side.handoff_receiver.end()
    if how == "closed":
        side.ours.detach()


async def test_what_the_kernel_destroyed_is_counted(
    side: Side, caplog: pytest.LogCaptureFixture
) -> None:
    """As taken and closed; the rest of its batch is served."""
    side.begin()
    side.give(0, 0, 0)
    before = len(open_fds())
    with at_fd_limit(1):
        await turns_until(lambda: side.lost > 0)

    assert side.came == [(0, None)]
    assert (side.row[CONNECTIONS_TAKEN], side.row[CONNECTIONS_CLOSED]) == (3, 2)
    assert "2 connections lost: raise the limit of open files" in caplog.text
    assert len(open_fds()) == before

"""The primary's side of a handoff, over a real one."""

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from aiocluster.ipc.handoff import give, handoff_pair, take, take_all
from aiocluster.ipc.scoreboard import (
    ACCEPTED,
    CONNECTIONS_CLOSED,
    CONNECTIONS_TAKEN,
    OTHER_FDS,
    Scoreboard,
    open_row,
)
from aiocluster.policies.round_robin import RoundRobin
from aiocluster.primary.dispatch.backend import Backend
from aiocluster.primary.dispatch.capacity import Limits
from aiocluster.primary.dispatch.dispatcher import Dispatcher
from aiocluster.primary.sockets.connection import Connection
from tests.support.connections import close_all, connections, none_lost, open_fds
from tests.support.waiting import soon, turns, turns_until

NOW = 1000.0


class Side:
    """An outbox, and the worker's side of it, played by the test."""

    def __init__(self, max_fds: int, passes_client_address: bool) -> None:
        self.changed = asyncio.Event()
        self.returned: list[Connection] = []
        self.scoreboard = Scoreboard()
        row = self.scoreboard.claim()
        self.row = open_row(self.scoreboard.fd, row)
        ends = handoff_pair()
        self.receiver = ends[1]
        limits = Limits(0.05, max_fds, passes_client_address=passes_client_address)
        self.backend = Backend(
            3, ends, (self.scoreboard, row), limits, self.changed.set, self.returned.extend
        )

    def take(self) -> int:
        """Take all that waits, as a worker does; return how many."""
        taken = take_all(self.receiver, none_lost)
        for fd, *_ in taken:
            os.close(fd)
        self.row[CONNECTIONS_TAKEN] += len(taken)
        return len(taken)

    def give_back(self, batch: list[Connection]) -> None:
        """Give connections back, as a draining worker does."""
        listeners = bytes(connection.listener for connection in batch)
        assert give(self.receiver, [connection.fd for connection in batch], listeners)
        close_all(batch)

    def fill(self) -> int:
        """Give until it is full; return how many it took."""
        count = 0
        while self.backend.hand_over(batch := connections(1), NOW):
            count += 1
        close_all(batch)
        return count

    def close(self) -> None:
        close_all(self.backend.close())
        self.scoreboard.close()


@pytest.fixture
async def make_side() -> AsyncIterator[Callable[..., Side]]:
    sides: list[Side] = []

    def make(max_fds: int = 100_000, *, passes_client_address: bool = False) -> Side:
        sides.append(Side(max_fds, passes_client_address))
        return sides[-1]

    yield make
    for side in sides:
        side.close()


async def test_what_is_handed_over_arrives_with_its_listener(
    make_side: Callable[..., Side],
) -> None:
    """The worker gets each connection and where it came from; our copies are closed."""
    side, before = make_side(), open_fds()
    batch = [*connections(2, listener=0), *connections(1, listener=5)]

    assert side.backend.hand_over(batch, NOW) == 3

    assert open_fds() <= before
    taken = take_all(side.receiver, none_lost)
    assert [where for _, *where in taken] == [[0, None], [0, None], [5, None]]
    for fd, *_ in taken:
        os.close(fd)


async def test_who_a_proxy_has_told_of_arrives_with_its_connection(
    make_side: Callable[..., Side],
) -> None:
    """Each of them has a message of its own; the order of all stays."""
    side, before = make_side(passes_client_address=True), open_fds()
    told = [("192.0.2.7", 4711), None, None, ("2001:db8::7", 80), ("192.0.2.8", 1)]
    batch = [one._replace(client=client) for one, client in zip(connections(5), told, strict=True)]

    assert side.backend.hand_over(batch, NOW) == 5

    assert open_fds() <= before
    assert (side.backend.sent, side.backend.queued) == (5, 5)
    taken = take_all(side.receiver, none_lost)
    assert [client for *_, client in taken] == told
    for fd, *_ in taken:
        os.close(fd)


async def test_of_a_batch_of_many_messages_what_fits_is_given(
    make_side: Callable[..., Side],
) -> None:
    """The rest is still the caller's, and its turn comes."""
    side = make_side(passes_client_address=True)
    batch = [
        one._replace(client=("192.0.2.7", number)) for number, one in enumerate(connections(1000))
    ]

    given = side.backend.hand_over(batch, NOW)

    assert 0 < given < 1000
    assert all(os.fstat(connection.fd) for connection in batch[given:])
    assert not side.backend.has_room
    assert side.take() == given
    await soon(side.changed.wait())
    assert side.backend.hand_over(batch[given : given + 1], NOW) == 1
    close_all(batch[given + 1 :])


async def test_who_a_client_is_comes_back_with_what_was_not_taken(
    make_side: Callable[..., Side],
) -> None:
    """Stolen, given back, or left by a dead worker: nobody can ask the proxy again."""
    client = ("192.0.2.7", 4711)
    side = make_side(passes_client_address=True)
    side.backend.hand_over([one._replace(client=client) for one in connections(1)], NOW)
    stolen = side.backend.reclaim()
    side.backend.hand_over([one._replace(client=client) for one in connections(1)], NOW)
    left = side.backend.close()

    assert [(one.client, one.slot) for one in (*stolen, *left)] == [(client, 3)] * 2
    close_all([*stolen, *left])


async def test_queued_is_what_was_given_and_not_taken(make_side: Callable[..., Side]) -> None:
    """What the worker has taken it says itself, on the scoreboard."""
    side = make_side()
    side.backend.hand_over(connections(3), NOW)
    assert side.backend.queued == 3

    side.row[CONNECTIONS_TAKEN] = 2

    assert (side.backend.sent, side.backend.queued) == (3, 1)


async def test_it_is_behind_once_a_connection_lies_too_long(make_side: Callable[..., Side]) -> None:
    """Late is measured from when a connection was given, and ends when it is taken."""
    side = make_side()
    assert not side.backend.is_behind(NOW + 1000.0)
    side.backend.hand_over(connections(2), NOW)

    assert not side.backend.is_behind(NOW + 0.04)
    assert side.backend.is_behind(NOW + 0.06)

    side.row[CONNECTIONS_TAKEN] = 1
    assert side.backend.is_behind(NOW + 0.06)
    side.row[CONNECTIONS_TAKEN] = 2
    assert not side.backend.is_behind(NOW + 0.06)


async def test_lateness_is_that_of_the_oldest_untaken(make_side: Callable[..., Side]) -> None:
    """A new connection does not make a worker look punctual, nor an old one that was taken."""
    side = make_side()
    side.backend.hand_over(connections(1), NOW)
    side.backend.hand_over(connections(1), NOW + 0.1)

    assert side.backend.is_behind(NOW + 0.11)
    side.row[CONNECTIONS_TAKEN] = 1
    assert not side.backend.is_behind(NOW + 0.11)
    assert side.backend.is_behind(NOW + 0.2)


async def test_when_the_queue_is_full_it_refuses_and_has_no_room(
    make_side: Callable[..., Side],
) -> None:
    """A refused batch is still the caller's; nothing that was accepted is lost."""
    side = make_side()
    given = side.fill()

    assert given > 50
    assert not side.backend.has_room
    assert side.take() == given


async def test_there_is_room_again_once_the_worker_has_taken(
    make_side: Callable[..., Side],
) -> None:
    """The dispatcher is told, and not before there is room."""
    side = make_side()
    side.fill()
    assert not side.changed.is_set()
    side.take()

    await soon(side.changed.wait())

    assert side.backend.has_room
    assert side.backend.hand_over(connections(1), NOW)


async def test_a_full_worker_that_takes_nothing_stays_full(
    make_side: Callable[..., Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the queue is full the kernel is waited for, not asked again and again."""
    monkeypatch.setattr("aiocluster.primary.dispatch.backend._FULL_PAUSE", 0.0)
    side = make_side()
    side.fill()

    for _ in range(20):
        await asyncio.sleep(0)

    assert not side.changed.is_set()
    assert not side.backend.has_room


async def test_close_returns_what_was_not_taken_in_order(make_side: Callable[..., Side]) -> None:
    """Connections of a dead worker go to others; each is still open."""
    side = make_side()
    side.backend.hand_over(connections(2, listener=1), NOW)
    side.backend.hand_over(connections(1, listener=2), NOW)

    left = side.backend.close()

    assert [connection.listener for connection in left] == [1, 1, 2]
    assert all(os.fstat(connection.fd) for connection in left)
    assert side.backend.close() == []
    assert not side.backend.has_room
    close_all(left)


async def test_what_the_worker_gave_back_is_told(make_side: Callable[..., Side]) -> None:
    """While it lives at once, and when it is dead with what it had not taken."""
    side = make_side()
    side.give_back(connections(2))
    await turns_until(lambda: len(side.returned) == 2)
    side.backend.hand_over(connections(1, listener=1), NOW)
    side.give_back(connections(1, listener=2))

    left = side.backend.close()

    assert [connection.listener for connection in left] == [2, 1]
    close_all([*left, *side.returned])


async def test_close_leaves_no_descriptor_and_no_timer_behind() -> None:
    """Full or not, an outbox that is closed is gone, and tells nobody of room."""
    before = open_fds()
    side = Side(100_000, passes_client_address=False)
    side.fill()
    close_all(side.backend.close())
    side.row.release()
    side.scoreboard.close()

    assert {fd for fd in open_fds() - before if "scoreboard" not in fd} == set()
    assert not side.changed.is_set()


async def test_a_worker_at_its_limit_of_descriptors_is_given_nothing(
    make_side: Callable[..., Side],
) -> None:
    """A descriptor that arrives at the limit is destroyed: giving ends before that."""
    side = make_side(max_fds=64)
    side.row[OTHER_FDS] = 40

    given = side.fill()

    assert not side.backend.has_room
    assert 0 < given <= 64 - 64 // 8 - 40


async def test_open_connections_count_against_the_limit(make_side: Callable[..., Side]) -> None:
    """What was given and is not closed needs a descriptor, taken or not."""
    side = make_side(max_fds=64)
    given = side.fill()
    side.take()

    assert given == 64 - 64 // 8
    batch = connections(1)
    assert side.backend.hand_over(batch, NOW) == 0
    close_all(batch)


async def test_of_a_batch_beyond_the_limit_only_the_front_is_taken(
    make_side: Callable[..., Side],
) -> None:
    """The rest is still the caller's."""
    side = make_side(max_fds=64)
    side.row[OTHER_FDS] = 51
    batch = connections(10)

    taken = side.backend.hand_over(batch, NOW)

    assert taken == 5
    assert all(os.fstat(connection.fd) for connection in batch[taken:])
    close_all(batch[taken:])


async def test_with_its_last_place_given_it_has_no_room(make_side: Callable[..., Side]) -> None:
    """Nobody need try to give it another to find out."""
    side = make_side(max_fds=64)
    side.row[OTHER_FDS] = 53

    assert side.backend.hand_over(connections(3), NOW) == 3
    assert not side.backend.has_room


async def test_below_its_limit_again_it_is_given_more(
    make_side: Callable[..., Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose connections have ended has room again, and the dispatcher is told."""
    monkeypatch.setattr("aiocluster.primary.dispatch.capacity._PAUSE", 0.001)
    side = make_side(max_fds=64)
    side.fill()
    side.row[CONNECTIONS_CLOSED] = side.take()

    await soon(side.changed.wait())

    assert side.backend.has_room
    assert side.backend.hand_over(connections(1), NOW) == 1


async def test_the_limit_is_looked_at_again_before_it_can_be_passed(
    make_side: Callable[..., Side],
) -> None:
    """Whatever the size of the batches, what is free is never given out twice."""
    side = make_side(max_fds=400)
    side.row[OTHER_FDS] = 100

    while side.backend.has_room:
        batch = connections(7)
        close_all(batch[side.backend.hand_over(batch, NOW) :])

    assert side.backend.sent == 400 - 400 // 8 - 100


async def test_a_dispatcher_gives_nothing_to_a_worker_at_its_limit(
    make_side: Callable[..., Side],
) -> None:
    """Connections go to another, or wait; the limit holds whoever chooses."""
    side, other = make_side(max_fds=64), make_side()
    side.row[OTHER_FDS] = 50
    dispatcher = Dispatcher(RoundRobin(), lambda: None, lambda: None)
    for each in (side, other):
        dispatcher.add(each.backend)
    dispatcher.update(NOW)

    for _ in range(20):
        dispatcher.dispatch(connections(1), NOW)
    dispatcher.dispatch(connections(20), NOW)

    assert side.backend.sent == 6
    assert other.backend.sent == 34
    assert dispatcher.waiting == 0


async def test_stealing_returns_what_was_not_taken(make_side: Callable[..., Side]) -> None:
    """In order, open, and with the account right: afterwards nothing is queued."""
    side = make_side()
    side.backend.hand_over(connections(2), NOW)
    assert side.take() == 2
    side.backend.hand_over(connections(2, listener=1), NOW)
    side.backend.hand_over(connections(1, listener=2), NOW)

    stolen = side.backend.reclaim()

    assert [connection.listener for connection in stolen] == [1, 1, 2]
    assert all(os.fstat(connection.fd) for connection in stolen)
    assert (side.backend.sent, side.backend.queued) == (2, 0)
    assert not side.backend.is_behind(NOW + 1000.0)
    assert side.backend.reclaim() == []
    close_all(stolen)


async def test_a_robbed_worker_may_be_given_more(make_side: Callable[..., Side]) -> None:
    """It is as if those had never been given, in the account of descriptors too."""
    side = make_side(max_fds=64)
    given = side.fill()
    close_all(side.backend.reclaim())
    await soon(side.changed.wait())

    assert side.fill() == given
    assert side.take() == given
    assert side.backend.queued == 0


async def test_what_the_worker_takes_at_the_same_time_is_its_own(
    make_side: Callable[..., Side],
) -> None:
    """It has it from the kernel, and will count it in a moment: until then that is late."""
    side = make_side()
    side.backend.hand_over(connections(1), NOW)
    side.backend.hand_over(connections(1), NOW)
    ((taken, *_),) = take(side.receiver) or []

    stolen = side.backend.reclaim()

    assert len(stolen) == 1
    assert (side.backend.sent, side.backend.queued) == (1, 1)
    assert side.backend.is_behind(NOW + 1.0)
    side.row[CONNECTIONS_TAKEN] = 1
    assert not side.backend.is_behind(NOW + 1.0)
    close_all(stolen)
    os.close(taken)


async def test_nothing_is_stolen_from_the_dead(make_side: Callable[..., Side]) -> None:
    """That was all returned when it was closed."""
    side = make_side()
    side.backend.hand_over(connections(1), NOW)
    close_all(side.backend.close())

    assert side.backend.reclaim() == []
    assert side.backend.is_closed


async def test_waiting_is_that_of_the_oldest(make_side: Callable[..., Side]) -> None:
    """None when all is taken."""
    side = make_side()
    assert side.backend.waited(NOW) == 0.0
    side.backend.hand_over(connections(1), NOW)
    side.backend.hand_over(connections(1), NOW + 0.25)

    assert side.backend.waited(NOW + 1.0) == 1.0
    side.row[CONNECTIONS_TAKEN] = 1
    assert side.backend.waited(NOW + 1.0) == 0.75
    side.row[CONNECTIONS_TAKEN] = 2
    assert side.backend.waited(NOW + 1.0) == 0.0


async def test_a_pause_of_the_primary_is_forgiven(make_side: Callable[..., Side]) -> None:
    """But nothing is given later than now."""
    side = make_side()
    side.backend.hand_over(connections(1), NOW)
    side.backend.hand_over(connections(1), NOW + 100.0)

    side.backend.excuse_pause(99.0, NOW + 100.0)

    assert side.backend.waited(NOW + 100.0) == 1.0
    side.row[CONNECTIONS_TAKEN] = 1
    assert side.backend.waited(NOW + 100.0) == 0.0


async def test_the_limit_of_descriptors_is_told_each_way_once(
    make_side: Callable[..., Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for each connection that ends while it stays near its limit."""
    monkeypatch.setattr("aiocluster.primary.dispatch.capacity._PAUSE", 0.001)
    side, told = make_side(max_fds=64), list[bool]()
    side.backend.room.on_fd_limit = told.append
    side.fill()
    taken = side.take()
    for closed in range(1, 6):
        side.changed.clear()
        side.row[CONNECTIONS_CLOSED] = closed
        await soon(side.changed.wait())
        side.fill()
        side.take()
    assert told == [True]

    side.row[CONNECTIONS_CLOSED] = taken
    await turns_until(lambda: len(told) == 2)

    assert told == [True, False]
    assert side.backend.has_room
    assert side.backend.room._next_look is None


async def test_a_full_queue_is_not_the_limit_of_descriptors(
    make_side: Callable[..., Side],
) -> None:
    """It passes as soon as the worker takes, and is nobody's news."""
    side, told = make_side(), list[bool]()
    side.backend.room.on_fd_limit = told.append
    side.fill()
    side.take()
    await soon(side.changed.wait())

    assert told == []


async def test_what_handlers_open_shortens_the_budget(make_side: Callable[..., Side]) -> None:
    """Also of one that has enough left, by what it said before, for many connections."""
    side, told = make_side(max_fds=64), list[bool]()
    side.backend.room.on_fd_limit = told.append
    assert side.backend.hand_over(connections(1), NOW) == 1

    side.row[OTHER_FDS] = 60
    side.backend.check_room()
    await turns_until(lambda: told == [True])

    assert not side.backend.has_room
    batch = connections(1)
    assert side.backend.hand_over(batch, NOW) == 0
    close_all(batch)


@pytest.fixture(autouse=True)
def _room_for_descriptors() -> Iterator[None]:
    """A full queue holds some hundreds of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_another_one_goes_on_with_the_same_ends(make_side: Callable[..., Side]) -> None:
    """What was sent and not taken counts, and how long it has lain there."""
    first, second = make_side(), make_side()
    first.backend.hand_over(connections(2), NOW)
    state = first.backend.state()
    second.backend.adopt(state)

    assert (state.sent, state.untaken) == (2, [(2, NOW)])
    assert second.backend.queued == 2
    assert not second.backend.is_behind(NOW)
    assert second.backend.is_behind(NOW + 1.0)


async def test_what_it_accepted_by_itself_uses_descriptors_too(
    make_side: Callable[..., Side],
) -> None:
    """It is told to be full, as if all had been handed over, and to have room again."""
    side = make_side(max_fds=16)  # two of them are reserved
    told = list[bool]()
    side.backend.room.on_fd_limit = told.append
    side.row[ACCEPTED] = 14
    side.backend.check_room()
    await turns()
    assert (side.backend.has_room, told) == (False, [True])

    side.row[CONNECTIONS_CLOSED] = 10
    await soon(side.changed.wait())
    await turns()

    assert (side.backend.has_room, told) == (True, [True, False])

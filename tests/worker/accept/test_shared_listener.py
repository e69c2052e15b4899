"""Who accepts at a listening socket, and how many at a time, with real sockets."""

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator
from contextvars import copy_context

import pytest

from aiocluster.worker.accept import acceptor as acceptor_module
from aiocluster.worker.accept import pace
from aiocluster.worker.accept.exclusive_epoll import ExclusiveServer
from tests.support.entrance import (
    NAME,
    Entrance,
    RoomFor,
    is_exclusive,
    is_open,
    is_watched,
    watching,
)
from tests.support.waiting import soon, turns, turns_until


@pytest.fixture
async def reading() -> AsyncIterator[Entrance]:
    entrance = Entrance(is_limited=True)
    yield entrance
    entrance.close()


@pytest.fixture
async def serving() -> AsyncIterator[Entrance]:
    entrance = Entrance(is_limited=False)
    yield entrance
    entrance.close()


@pytest.fixture
def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is accepted was accepted in a wake-up."""
    monkeypatch.setattr(acceptor_module, "_LOOK_INTERVAL", 1000.0)


@pytest.fixture
def all_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Often enough for a test."""
    monkeypatch.setattr(acceptor_module, "_LOOK_INTERVAL", 0.01)


# ---- a worker that accepts in Python


async def test_nobody_is_woken_in_vain(reading: Entrance, nobody_looks: None) -> None:
    """One by one, connections cost as many wake-ups."""
    acceptor = reading.add()
    acceptor.resume()
    await watching(reading.sock)

    for count in range(1, 31):
        reading.connect()
        await reading.until_accepted(count)

    assert (reading.sockets[0].asked, reading.sockets[0].missed) == (30, 0)


async def test_who_is_too_late_goes_on(reading: Entrance, nobody_looks: None) -> None:
    """Another worker was quicker: that costs nobody anything."""
    first, second = reading.add(), reading.add()
    for acceptor in (first, second):
        acceptor.resume()
    await turns()
    reading.sockets[1].troubles = [errno.EAGAIN]
    reading.connect(2)

    await reading.until_accepted(2)

    assert reading.sockets[1].missed >= 1


async def test_a_quick_loop_takes_few_at_a_time(
    reading: Entrance, nobody_looks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So one worker does not swallow a burst while others come to take their share."""
    monkeypatch.setattr(pace, "QUICK", 1e12)
    acceptor = reading.add()
    reading.connect(50)
    acceptor.resume(4)

    await reading.until_accepted(50)

    assert reading.batches[:5] == [8, 8, 8, 7, 5]


async def test_the_first_wake_up_in_a_while_takes_one(
    reading: Entrance, nobody_looks: None
) -> None:
    """The others are woken, too, and about to come."""
    acceptor = reading.add()
    reading.connect(50)
    acceptor.resume(4)

    await reading.until_accepted(50)

    assert reading.batches[0] == 1


async def test_a_slow_loop_takes_its_share(
    reading: Entrance, nobody_looks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a turn would let them wait for many of its long turns."""
    monkeypatch.setattr(pace, "QUICK", -1.0)
    acceptor = reading.add()
    reading.connect(50)
    acceptor.resume(4)

    await reading.until_accepted(50)

    assert reading.batches[:5] == [1, 13, 9, 7, 5]


async def test_room_that_shrinks_by_itself_is_counted_each_time(
    reading: Entrance, nobody_looks: None
) -> None:
    """Requests begin on connections that are open: what was counted before is too much."""
    reading.room = RoomFor(1000, may_shrink=True)
    acceptor = reading.add()
    acceptor.resume()
    reading.connect()
    await reading.until_accepted(1)

    reading.room.free = 0
    reading.connect()
    await turns(20)

    assert len(reading.accepted) == 1
    assert reading.room.is_awaited
    reading.room.free = 1
    reading.room.on_room()
    await reading.until_accepted(2)


async def test_a_client_that_gave_up_is_passed_over(
    reading: Entrance, caplog: pytest.LogCaptureFixture
) -> None:
    """The next one is accepted as if nothing had been."""
    acceptor = reading.add()
    reading.sockets[0].troubles = [errno.ECONNABORTED, errno.EPERM]
    acceptor.resume()
    reading.connect(2)

    await reading.until_accepted(2)

    assert reading.sockets[0].troubles == []
    assert "failed" not in caplog.text


async def test_what_came_before_a_trouble_is_not_lost(
    reading: Entrance, nobody_looks: None
) -> None:
    """Accepted is accepted."""
    acceptor = reading.add()
    acceptor.resume()
    reading.connect(5)
    reading.sockets[0].troubles = [0, 0, errno.EMFILE]

    acceptor.accept_rest()

    assert len(reading.accepted) == 2


async def test_a_loop_without_an_epoll_of_its_own_serves(
    reading: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are woken then, which costs time and no connection."""
    monkeypatch.setattr(acceptor_module, "epoll_of", lambda loop: None)
    reading.add().resume()
    reading.connect(3)

    await reading.until_accepted(3)

    assert not is_exclusive(reading.sock)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINVAL])
async def test_out_of_descriptors_it_waits_and_goes_on(
    reading: Entrance,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It says so once, does not spin, and loses nobody."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("aiocluster.ipc.accept_backoff._RETRY_AFTER", 0.01)
    acceptor = reading.add()
    reading.sockets[0].troubles = [number] * 3
    acceptor.resume()
    reading.connect(2)

    await reading.until_accepted(2)

    host, port = reading.sock.getsockname()
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        f"accept on {host}:{port} failed: [Errno {number}] {os.strerror(number)};"
        " connections wait in the backlog until it passes",
        f"accepting on {host}:{port} again",
    ]
    assert reading.sockets[0].asked <= 6


async def test_a_pause_holds_through_a_trouble(
    reading: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the trouble is over it accepts only if it still is to."""
    monkeypatch.setattr("aiocluster.ipc.accept_backoff._RETRY_AFTER", 0.001)
    acceptor = reading.add()
    reading.sockets[0].troubles = [errno.EMFILE]
    acceptor.resume()
    reading.connect()
    await turns_until(lambda: not reading.sockets[0].troubles)
    acceptor.pause()
    over = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.01, over.set_result, None)
    await soon(over)

    assert reading.accepted == []


async def test_closed_in_the_middle_of_a_trouble_it_stays_closed(reading: Entrance) -> None:
    """The timer that would try again goes with it."""
    acceptor = reading.add()
    reading.sockets[0].troubles = [errno.EMFILE]
    acceptor.resume()
    reading.connect()
    await turns_until(lambda: not reading.sockets[0].troubles)

    acceptor.close()
    await turns()

    assert reading.sockets[0].fileno() == -1


async def test_a_lost_wake_up_is_made_up_for(
    reading: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that was woken died, or is busy: the others look by themselves."""
    monkeypatch.setattr(acceptor_module, "_LOOK_INTERVAL", 0.01)
    acceptor = reading.add()
    acceptor.resume()
    await watching(reading.sock)
    # As if the kernel had told somebody else.
    acceptor._epoll.unregister(reading.sockets[0])  # type: ignore[union-attr]
    reading.connect()

    await reading.until_accepted(1)

    assert is_exclusive(reading.sock)  # only a look can have found it, and put it right


# ---- a worker that lets uvloop accept


def waking_of(entrance: Entrance) -> ExclusiveServer:
    (shared_listener,) = entrance.acceptors[0]._shared_listeners
    assert isinstance(shared_listener._waking, ExclusiveServer)
    return shared_listener._waking


def make_deaf(entrance: Entrance) -> None:
    """As if the kernel woke somebody else for whoever comes."""
    waking = waking_of(entrance)
    assert waking._epoll is not None
    waking._epoll.unregister(waking._fd)
    waking._epoll.register(waking._fd, 0)


async def test_uvloop_accepts_and_python_is_not_asked(
    serving: Entrance, nobody_looks: None
) -> None:
    """That is what it is for."""
    serving.add().resume()
    await watching(serving.sock)
    for count in range(1, 31):
        serving.connect()
        await serving.until_accepted(count)

    assert (serving.sockets[0].asked, serving.batches) == (0, [])


async def test_a_wake_up_that_somebody_else_had_is_made_up_for(
    serving: Entrance, all_look: None
) -> None:
    """For the first who waits, and for all behind."""
    serving.add().resume()
    await watching(serving.sock)
    make_deaf(serving)
    serving.connect(5)

    await serving.until_accepted(5)

    assert serving.batches[0] == 5  # by the look itself


async def test_an_error_that_uvloop_keeps_to_itself_is_told(
    serving: Entrance,
    all_look: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By who looks; nobody accepts until it has passed, and nobody is lost."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("aiocluster.ipc.accept_backoff._RETRY_AFTER", 0.01)
    serving.add().resume()
    await watching(serving.sock)
    make_deaf(serving)
    serving.sockets[0].troubles = [errno.ENFILE]
    serving.connect(3)
    await turns_until(lambda: not serving.sockets[0].troubles)
    assert not is_watched(serving.sock)

    await serving.until_accepted(3)

    texts = [record.getMessage() for record in caplog.records]
    assert ["failed" in text for text in texts] == [True, False]
    assert is_exclusive(serving.sock)


async def test_out_of_descriptors_at_its_start_it_tries_again(
    serving: Entrance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What uvloop serves is a descriptor of its own."""
    monkeypatch.setattr("aiocluster.ipc.accept_backoff._RETRY_AFTER", 0.01)
    acceptor = serving.add()
    monkeypatch.setattr(serving.sockets[0], "dup", lambda: os.open("/nowhere", os.O_RDONLY))
    acceptor.resume()
    serving.connect()
    assert "accept on" in caplog.text

    monkeypatch.undo()

    await serving.until_accepted(1)


async def test_full_with_the_very_first_it_accepts_no_other(
    serving: Entrance, nobody_looks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is woken the first time is not woken alone yet."""
    monkeypatch.setattr(acceptor_module, "_PLENTY", 0)
    serving.room.free = 1
    first = serving.connect()
    serving.connect(2)
    serving.add().resume()
    await serving.until_accepted(1)
    await turns(20)
    assert len(serving.accepted) == 1
    assert not is_watched(serving.sock)
    assert is_open(first)

    serving.room.free = 2
    serving.room.on_room()

    await serving.until_accepted(3)


async def test_a_slow_loop_takes_its_share_though_uvloop_accepts_one_a_turn(
    serving: Entrance, nobody_looks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a turn would let them wait for many of its long turns."""
    monkeypatch.setattr(pace, "QUICK", -1.0)
    serving.add().resume(4)
    await watching(serving.sock)
    serving.connect(50)

    await serving.until_accepted(50)

    assert serving.batches[:3] == [12, 9, 7]


async def test_workers_that_serve_take_turns(serving: Entrance, nobody_looks: None) -> None:
    """Who has accepted stands last, where nobody has much to do."""
    for _ in range(2):
        serving.add().resume(2)
    await watching(serving.sock)
    await turns(10)
    for count in range(1, 101):
        serving.connect()
        await serving.until_accepted(count)

    first = [who for who, _ in serving.accepted].count(0)
    assert 20 <= first <= 80


async def test_what_fails_after_a_connection_is_served_ends_nothing(
    serving: Entrance, nobody_looks: None
) -> None:
    """uvloop would never accept again."""
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    acceptor = serving.add()
    acceptor.resume()
    await watching(serving.sock)
    acceptor.budget = 1
    serving.room.count = lambda: 1 // 0  # type: ignore[method-assign]
    serving.connect()
    await serving.until_accepted(1)
    await turns_until(lambda: bool(reported))
    del serving.room.count
    serving.connect()

    acceptor.update()

    await serving.until_accepted(2)


async def test_uvloop_serves_in_the_context_that_its_keeper_has_then(serving: Entrance) -> None:
    """The app's, which had not begun when the socket came."""
    acceptor = serving.add()
    acceptor.context = copy_context()
    acceptor.context.run(NAME.set, "app")
    acceptor.resume()
    serving.connect()

    await serving.until_accepted(1)

    assert serving.names == ["app"]

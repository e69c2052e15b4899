"""Accepting, with real sockets on loopback."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator

import pytest

from aiocluster.config.settings import Address
from aiocluster.errors import ConfigError
from aiocluster.primary.sockets.bind import bind
from aiocluster.primary.sockets.connection import Connection
from aiocluster.primary.sockets.listener import Listener
from tests.support.connections import close_all
from tests.support.waiting import soon, turns

LOOPBACK = Address("127.0.0.1", 0)


class FaultySocket(socket.socket):
    """A listening socket whose kernel has troubles: each is raised once, in its turn."""

    troubles: list[int]

    def _accept(self) -> tuple[int, object]:
        if self.troubles and (number := self.troubles.pop(0)):
            raise OSError(number, os.strerror(number))
        accepted: tuple[int, object] = super()._accept()  # type: ignore[misc]
        return accepted


class Front:
    """A listener, its clients, and what it accepted."""

    def __init__(self) -> None:
        self.sock = FaultySocket(fileno=bind(LOOPBACK)[0].detach())
        self.sock.troubles = []
        self.listener = Listener(self.sock, 2, self._on_connections)
        self.batches: list[int] = []
        self.accepted: list[Connection] = []
        self._clients: list[socket.socket] = []
        self._grew = asyncio.Condition()

    def connect(self, count: int) -> None:
        self._clients += [socket.create_connection(self.listener.address) for _ in range(count)]

    async def until_accepted(self, count: int) -> None:
        while len(self.accepted) < count:
            self._arrived = asyncio.get_running_loop().create_future()
            await soon(self._arrived)

    def close(self) -> None:
        self.listener.close()
        close_all(self.accepted)
        for client in self._clients:
            client.close()

    def _on_connections(self, connections: list[Connection]) -> None:
        self.batches.append(len(connections))
        self.accepted += connections
        with contextlib.suppress(AttributeError, asyncio.InvalidStateError):
            self._arrived.set_result(None)

    _arrived: "asyncio.Future[None]"


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    front = Front()
    yield front
    front.close()


async def test_it_is_deaf_until_told_to_listen(front: Front) -> None:
    """Before there are workers a client is refused, not left waiting."""
    front.listener.resume()

    with pytest.raises(ConnectionRefusedError):
        front.connect(1)


async def test_it_accepts_what_comes_and_says_by_which_listener(front: Front) -> None:
    """Each connection carries its listener's index."""
    front.listener.listen(100)
    front.listener.resume()
    front.connect(3)

    await front.until_accepted(3)

    assert {connection.listener for connection in front.accepted} == {2}


async def test_it_starts_paused(front: Front) -> None:
    """Clients may connect before anybody is ready for them; they wait in the backlog."""
    front.listener.listen(100)
    front.connect(3)
    await turns()
    assert front.accepted == []

    front.listener.resume()

    await front.until_accepted(3)


async def test_many_that_wait_are_accepted_in_batches(front: Front) -> None:
    """One wake-up takes many, but not so many that the rest of the loop starves."""
    front.listener.listen(200)
    front.connect(150)
    front.listener.resume()

    await front.until_accepted(150)

    assert front.batches == [64, 64, 22]


async def test_pause_leaves_connections_in_the_backlog(front: Front) -> None:
    """Paused and resumed as often as one likes, nothing is lost."""
    front.listener.listen(100)
    front.listener.resume()
    front.connect(1)
    await front.until_accepted(1)

    front.listener.pause()
    front.listener.pause()
    front.connect(2)
    await turns()
    assert len(front.accepted) == 1

    front.listener.resume()
    front.listener.resume()
    await front.until_accepted(3)


async def test_out_of_descriptors_it_waits_and_goes_on(
    front: Front, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """EMFILE is told once, however long it lasts, and so is its end; no client is lost."""
    monkeypatch.setattr("aiocluster.ipc.accept_backoff._RETRY_AFTER", 0.001)
    caplog.set_level(logging.INFO)
    host, port = front.listener.address
    front.sock.troubles = [errno.EMFILE] * 3
    front.listener.listen(100)
    front.connect(2)
    front.listener.resume()

    await front.until_accepted(2)

    assert [
        record.getMessage() for record in caplog.records if "accept" in record.name + record.msg
    ] == [
        f"accept on {host}:{port} failed: [Errno 24] Too many open files;"
        " connections wait in the backlog until it passes",
        f"accepting on {host}:{port} again",
    ]


async def test_what_was_accepted_before_the_trouble_is_served(front: Front) -> None:
    """A batch that is cut short by EMFILE is handed on."""
    front.sock.troubles = [0, 0, errno.EMFILE]
    front.listener.listen(100)
    front.connect(5)
    front.listener.resume()

    await front.until_accepted(2)

    assert front.batches == [2]


async def test_while_it_waits_for_descriptors_it_does_not_spin(front: Front) -> None:
    """The loop is not woken for connections that cannot be accepted."""
    front.sock.troubles = [errno.ENFILE] * 100
    front.listener.listen(100)
    front.connect(2)
    front.listener.resume()

    await turns(50)

    assert len(front.sock.troubles) == 99


async def test_a_pause_holds_through_a_trouble(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a trouble does not resume what the dispatcher has paused."""
    monkeypatch.setattr("aiocluster.ipc.accept_backoff._RETRY_AFTER", 0.0)
    front.sock.troubles = [errno.EMFILE]
    front.listener.listen(100)
    front.connect(1)
    front.listener.resume()
    while front.sock.troubles:
        await turns(1)

    front.listener.pause()
    await turns(50)
    assert front.accepted == []

    front.listener.resume()
    await front.until_accepted(1)


# node: accept-fail
@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.ENETUNREACH])
async def test_a_client_that_gave_up_is_skipped(
    number: int, front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody hears of it, and those behind it are accepted without a pause."""
    front.sock.troubles = [number]
    front.listener.listen(100)
    front.connect(3)
    front.listener.resume()

    await front.until_accepted(3)

    assert caplog.records == []


async def test_accept_rest_takes_all_that_waits_even_when_paused(front: Front) -> None:
    """Who has connected before the door closes is served."""
    front.listener.listen(200)
    front.connect(150)

    front.listener.accept_rest()

    assert len(front.accepted) == 150


async def test_accept_rest_of_one_that_never_listened_does_nothing(front: Front) -> None:
    """A start that failed is stopped the same way."""
    front.listener.accept_rest()

    assert front.accepted == []


async def test_it_knows_whether_anybody_waits(front: Front) -> None:
    """Also when it does not accept; one that is not open has nobody."""
    assert not front.listener.has_rest
    assert not front.listener.is_listening
    front.listener.drop_new_syns()
    front.listener.listen(16)
    front.connect(1)
    assert front.listener.has_rest

    front.listener.accept_rest()

    assert not front.listener.has_rest
    assert front.listener.is_listening


async def test_one_that_is_shared_listens_already_and_goes_on() -> None:
    """Its owner's backlog is neither set, nor shut, nor waited for; who waits is accepted."""
    with socket.create_server(("127.0.0.1", 0), backlog=7) as theirs:
        accepted: list[Connection] = []
        listener = Listener(theirs.dup(), 0, accepted.extend, shared=True)
        listener.sock.setblocking(False)
        listener.listen(1000)
        assert (listener.is_listening, listener.ends_with_us) == (True, False)
        with socket.create_connection(theirs.getsockname()):
            assert not listener.has_rest
            listener.drop_new_syns()
            listener.accept_rest()
            listener.close()
        with socket.create_connection(theirs.getsockname()):
            theirs.accept()[0].close()
    assert len(accepted) == 1
    close_all(accepted)


async def test_one_that_listens_already_keeps_its_backlog() -> None:
    """It was told how long that may be by who bound it; the kernel tells it."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=7)
    sock.setblocking(False)
    listener = Listener(sock, 0, lambda _: None)

    listener.listen()

    assert (listener.is_listening, listener.ends_with_us) == (True, True)
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    # tcpi_sacked of a listening socket is its backlog, 28 bytes into struct tcp_info.
    assert int.from_bytes(info[28:32], "little") == 7
    listener.close()


async def test_close_may_come_twice_and_refuses_clients(front: Front) -> None:
    """A closed listener has no socket, no timer and no say any more."""
    front.listener.listen(100)
    front.listener.resume()
    address = front.listener.address

    front.listener.close()
    front.listener.close()
    front.listener.pause()
    front.listener.resume()
    front.listener.accept_rest()

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


async def test_close_while_it_waits_for_descriptors_ends_the_wait(front: Front) -> None:
    """Nothing tries to accept on a socket that is closed."""
    front.sock.troubles = [errno.EMFILE]
    front.listener.listen(100)
    front.connect(1)
    front.listener.resume()
    while front.sock.troubles:
        await turns()

    front.listener.close()
    await turns()

    assert front.accepted == []


async def test_a_port_that_somebody_took_since_is_an_error_that_names_it() -> None:
    """Two programs may have bound it, and the other one was quicker to listen."""
    (ours,) = bind(LOOPBACK)
    port = ours.getsockname()[1]
    (theirs,) = bind(Address("127.0.0.1", port))
    theirs.listen()
    listener = Listener(ours, 0, lambda batch: None)

    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: Address already"):
        listener.listen(16)

    listener.close()
    theirs.close()

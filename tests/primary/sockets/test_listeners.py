"""All listening sockets of a cluster."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from aiocluster.config.settings import Address
from aiocluster.errors import ConfigError
from aiocluster.primary.sockets.connection import Connection
from aiocluster.primary.sockets.listener import Listener
from aiocluster.primary.sockets.listeners import Listeners
from tests.support.connections import close_all, open_fds
from tests.support.ports import unused_port
from tests.support.waiting import soon

LOOPBACK = Address("127.0.0.1", 0)


class Stage:
    """Listeners, and what they accepted."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[Connection] = asyncio.Queue()
        self.listeners = Listeners(self._on_connections)

    def _on_connections(self, batch: list[Connection]) -> None:
        for connection in batch:
            self.accepted.put_nowait(connection)

    def bind(self, *addresses: Address) -> None:
        self.listeners.bind(addresses, tcp_keepalive=True)

    def resume(self) -> None:
        for listener in self.listeners.all:
            listener.resume()

    async def listener_of(self, address: tuple[str, int]) -> int:
        """Connect to `address`; return the listener that accepted."""
        with socket.create_connection(address):
            connection = await soon(self.accepted.get())
        close_all([connection])
        return connection.listener


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    stage.listeners.close()


async def test_guests_are_closed_with_the_others_and_are_none_of_them(stage: Stage) -> None:
    """Those of servers of the workers' own: with who waited for them."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    guest = Listener(sock, 254, stage._on_connections)
    guest.listen(16)
    stage.listeners.guests.append(guest)
    assert (stage.listeners.addresses, stage.listeners.families) == ((), [])
    with socket.create_connection(guest.address):
        assert stage.listeners.are_awaited
        stage.listeners.drop_new_syns()
        stage.listeners.accept_rest()
        connection = await soon(stage.accepted.get())
    close_all([connection])
    assert connection.listener == 254

    stage.listeners.close()
    assert not guest.is_listening


async def test_each_tells_which_one_accepted(stage: Stage) -> None:
    """By its index, which is also that of its address and its family."""
    stage.bind(LOOPBACK, Address("127.0.0.2", 0))
    stage.listeners.listen(16)
    stage.resume()

    one, two = stage.listeners.addresses

    assert await stage.listener_of(two) == 1
    assert await stage.listener_of(one) == 0
    assert stage.listeners.families == [socket.AF_INET, socket.AF_INET]


async def test_sockets_that_were_handed_down_are_served_in_the_place_of_others(
    stage: Stage,
) -> None:
    """Closed here, they go on with whoever else has them."""
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        ours = theirs.dup()
        ours.setblocking(False)
        stage.listeners.inherit([ours], tcp_keepalive=True)
        stage.listeners.listen(16)
        stage.resume()
        assert stage.listeners.addresses == (theirs.getsockname(),)

        assert await stage.listener_of(theirs.getsockname()) == 0
        assert not stage.listeners.are_awaited
        stage.listeners.close()

        with socket.create_connection(theirs.getsockname()):
            theirs.accept()[0].close()


async def test_they_know_whether_anybody_is_awaited(stage: Stage) -> None:
    """By any of them; before they listen and after they have closed nobody is."""
    stage.bind(LOOPBACK, LOOPBACK)
    assert (stage.listeners.are_listening, stage.listeners.are_awaited) == (False, False)
    stage.listeners.listen(16)
    with socket.create_connection(stage.listeners.addresses[1]):
        assert (stage.listeners.are_listening, stage.listeners.are_awaited) == (True, True)
        stage.listeners.drop_new_syns()
        stage.listeners.accept_rest()
        assert not stage.listeners.are_awaited
    stage.listeners.close()

    assert (stage.listeners.are_listening, stage.listeners.are_awaited) == (False, False)
    close_all([stage.accepted.get_nowait()])


async def test_closing_accepts_who_has_connected(stage: Stage) -> None:
    """Nobody who was let in is reset; closing twice is harmless."""
    stage.bind(LOOPBACK)
    stage.listeners.listen(16)
    with socket.create_connection(stage.listeners.addresses[0]):
        stage.listeners.close()
        stage.listeners.close()

        assert stage.accepted.qsize() == 1
    close_all([stage.accepted.get_nowait()])


async def test_when_one_cannot_be_bound_the_others_can_be_closed(stage: Stage) -> None:
    """The second of two is taken: nothing of the first stays."""
    before = open_fds()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address(*taken.getsockname())
        with pytest.raises(ConfigError, match=f"cannot bind {address}: Address already in use"):
            stage.bind(LOOPBACK, address)
    stage.listeners.close()

    assert open_fds() <= before


async def test_addresses_that_overlap_are_told_before_anybody_is_let_in(stage: Stage) -> None:
    """The kernel would tell only then."""
    port = unused_port()
    stage.bind(Address("127.0.0.1", port))

    with pytest.raises(ConfigError, match="overlap"):
        stage.bind(Address("0.0.0.0", port))

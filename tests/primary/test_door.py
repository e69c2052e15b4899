"""What a door makes of who comes by it; what peeking finds is tested with the Peeker."""

import os
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from aiocluster.config.settings import settings_from
from aiocluster.policies.base import Policy
from aiocluster.policies.round_robin import RoundRobin
from aiocluster.policies.sticky import Sticky
from aiocluster.primary.dispatcher import Connection
from aiocluster.primary.door import Door, DoorSettings
from aiocluster.primary.listener import Listener
from aiocluster.primary.places import Places
from tests.primary.test_dispatcher import FakeRecipient
from tests.support.connections import tcp_pair
from tests.support.waiting import turns_until

MakeDoor = Callable[..., Door]

NETWORK = bytes.fromhex("20010db800000001")  # of SIX, by /64
SIX = ("2001:db8:0:1::5", 4711, 0, 0)


@pytest.fixture
async def make_door() -> AsyncIterator[MakeDoor]:
    doors: list[Door] = []

    def make(policy: Policy, *, peeks: bool = True, **settings: object) -> Door:
        door = Door(policy, DoorSettings.of(settings_from(settings)), Places(list), peeks=peeks)
        doors.append(door)
        return door

    yield make
    for door in doors:
        for listener in door.listeners:
            listener.close()
        door.close()


def listener_of(door: Door, index: int = 0) -> Listener:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    listener = Listener(sock, index, door.take)
    listener.listen(16)
    door.add(listener)
    return listener


async def test_where_a_policy_goes_by_nothing_nothing_is_found_out(make_door: MakeDoor) -> None:
    """It would cost something for each connection."""
    door = make_door(RoundRobin())

    assert listener_of(door).affinity_of is None
    assert door.peeker is None


async def test_by_ip_the_policy_is_given_the_whole_address(make_door: MakeDoor) -> None:
    """It knows itself how much of it makes a client."""
    affinity_of = listener_of(make_door(Sticky("ip"))).affinity_of

    assert affinity_of is not None
    assert affinity_of(("192.0.2.1", 4711)) == bytes([192, 0, 2, 1])
    assert affinity_of(SIX) == socket.inet_pton(socket.AF_INET6, SIX[0])


@pytest.mark.parametrize("by", ["header:x-session", "cookie:sid", "path:1"])
async def test_one_that_does_not_peek_goes_by_the_network_of_the_client(
    make_door: MakeDoor, by: str
) -> None:
    """As one that peeks does where it finds nothing: the protocol may be any."""
    door = make_door(Sticky(by), peeks=False)
    affinity_of = listener_of(door).affinity_of

    assert door.peeker is None
    assert affinity_of is not None
    assert affinity_of(("192.0.2.1", 4711)) == bytes([192, 0, 2, 1])
    assert affinity_of(SIX) == NETWORK


async def test_one_that_peeks_asks_the_request(make_door: MakeDoor) -> None:
    """And not the address, until it has to."""
    door = make_door(Sticky("cookie:sid"))

    assert door.peeker is not None
    assert listener_of(door).affinity_of is None


async def test_one_that_does_not_peek_expects_no_proxy_header(make_door: MakeDoor) -> None:
    """A client that says nothing is given out at once."""
    proxies = {"proxy_protocol": True, "trusted_proxies": "127.0.0.1"}
    door, worker = make_door(RoundRobin(), peeks=False, **proxies), FakeRecipient(0)
    door.dispatcher.add(worker)
    door.dispatcher.update(0.0)
    listener = listener_of(door)
    listener.resume()

    with socket.create_connection(listener.address):
        await turns_until(lambda: len(worker.given) == 1)
    os.close(worker.given[0].fd)


@pytest.mark.parametrize("peeks", [True, False])
async def test_one_that_comes_back_is_recognised(make_door: MakeDoor, peeks: bool) -> None:
    """By its other end, since it says nothing of itself again."""
    client, accepted = tcp_pair()
    with client, accepted:
        known = make_door(Sticky("cookie:sid"), peeks=peeks).recognised(
            Connection(accepted.fileno(), 0)
        )
    assert known.affinity == bytes([127, 0, 0, 1])

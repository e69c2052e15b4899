"""How a listener group handles connections; see test_inspector.py for the inspection."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from aiocluster.config.settings import settings_from
from aiocluster.policies.base import Policy
from aiocluster.policies.round_robin import RoundRobin
from aiocluster.policies.sticky import Sticky
from aiocluster.primary.dispatch.admission import AdmissionControl
from aiocluster.primary.ingress.listener_group import IngressSettings, ListenerGroup
from aiocluster.primary.sockets.connection import Connection
from aiocluster.primary.sockets.listener import Listener
from tests.primary.dispatch.test_dispatcher import FakeRecipient
from tests.support.connections import tcp_pair
from tests.support.program import PATIENCE
from tests.support.waiting import soon, turns_until

MakeDoor = Callable[..., ListenerGroup]

NETWORK = bytes.fromhex("20010db800000001")  # of SIX, by /64
SIX = ("2001:db8:0:1::5", 4711, 0, 0)


@pytest.fixture
async def make_door() -> AsyncIterator[MakeDoor]:
    ingress: list[ListenerGroup] = []

    def make(policy: Policy, *, peeks: bool = True, **settings: object) -> ListenerGroup:
        of_role = IngressSettings.of(settings_from(settings))
        group = ListenerGroup(policy, of_role, AdmissionControl(list), peeks=peeks)
        ingress.append(group)
        return group

    yield make
    for group in ingress:
        for listener in group.listeners:
            listener.close()
        group.close()


def listener_of(group: ListenerGroup, index: int = 0) -> Listener:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    listener = Listener(sock, index, group.take)
    listener.listen(16)
    group.add(listener)
    return listener


async def test_where_a_policy_goes_by_nothing_nothing_is_found_out(make_door: MakeDoor) -> None:
    """It would cost something for each connection."""
    group = make_door(RoundRobin())

    assert listener_of(group).affinity_of is None
    assert group.inspector is None


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
    group = make_door(Sticky(by), peeks=False)
    affinity_of = listener_of(group).affinity_of

    assert group.inspector is None
    assert affinity_of is not None
    assert affinity_of(("192.0.2.1", 4711)) == bytes([192, 0, 2, 1])
    assert affinity_of(SIX) == NETWORK


async def test_one_that_peeks_asks_the_request(make_door: MakeDoor) -> None:
    """And not the address, until it has to."""
    group = make_door(Sticky("cookie:sid"))

    assert group.inspector is not None
    assert listener_of(group).affinity_of is None


async def test_one_that_does_not_peek_expects_no_proxy_header(make_door: MakeDoor) -> None:
    """A client that says nothing is given out at once."""
    proxies = {"proxy_protocol": True, "trusted_proxies": "127.0.0.1"}
    group, worker = make_door(RoundRobin(), peeks=False, **proxies), FakeRecipient(0)
    group.dispatcher.add(worker)
    group.dispatcher.update(0.0)
    listener = listener_of(group)
    listener.resume()

    with socket.create_connection(listener.address):
        await turns_until(lambda: len(worker.given) == 1)
    os.close(worker.given[0].fd)


@pytest.mark.parametrize(("peeks", "told"), [(True, b"HTTP/1.1 503"), (False, b"")])
async def test_only_where_http_is_spoken_is_anybody_told_so(
    make_door: MakeDoor, peeks: bool, told: bytes
) -> None:
    """A server of the workers' own may have any protocol: who finds all full is closed."""
    group = make_door(RoundRobin(), peeks=peeks, when_full="503")
    assert group.refusal is not None
    client, accepted = tcp_pair()
    with client:
        client.settimeout(PATIENCE)
        group.refusal.refuse([Connection(accepted.detach(), 0)])

        assert client.recv(len(b"HTTP/1.1 503")) == told
    assert group.counts().shed == 1


@pytest.mark.parametrize("peeks", [True, False])
async def test_one_that_comes_back_is_recognised(make_door: MakeDoor, peeks: bool) -> None:
    """By its other end, since it says nothing of itself again."""
    client, accepted = tcp_pair()
    with client, accepted:
        known = make_door(Sticky("cookie:sid"), peeks=peeks).recognised(
            Connection(accepted.fileno(), 0)
        )
    assert known.affinity == bytes([127, 0, 0, 1])


# ---- those whose worker has gone


class Lost:
    """A client with an open connection that comes back; the workers are in slots 0 and 1."""

    def __init__(self, make_door: MakeDoor, **settings: object) -> None:
        self.workers = [FakeRecipient(slot) for slot in (0, 1)]
        self.group = make_door(Sticky("cookie:sid"), **settings)
        for worker in self.workers:
            self.group.dispatcher.add(worker)
        self.group.dispatcher.update(0.0)
        self.client, accepted = tcp_pair()
        self.connection = Connection(accepted.detach(), 0, slot=5)

    def take_again(self, *, slot: int = 5) -> None:
        self.connection = self.connection._replace(slot=slot)
        self.group.take_again([self.connection], 0.0)

    @property
    def given(self) -> dict[int, list[Connection]]:
        """What each slot has."""
        return {worker.slot: worker.given for worker in self.workers if worker.given}

    async def until_given(self) -> int:
        """Wait until a worker has it; return its slot."""
        await turns_until(lambda: bool(self.given))
        ((slot, [connection]),) = self.given.items()
        os.close(connection.fd)
        return slot


def request_of(name: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: x\r\nCookie: sid={name}\r\n\r\n".encode()


@pytest.mark.parametrize("name", ["a", "b", "c", "d", "e", "f"])
async def test_a_client_whose_worker_has_gone_goes_where_its_new_connections_go(
    make_door: MakeDoor, name: str
) -> None:
    """Its next request says whose it is; until then nobody has it."""
    lost = Lost(make_door)
    with lost.client:
        lost.take_again()
        assert (lost.given, lost.group.held) == ({}, 0)

        lost.client.sendall(request_of(name))

        home = Sticky("cookie:sid").choose(lost.workers, name.encode()).slot
        assert await lost.until_given() == home
    assert lost.group.counts().fallbacks == {}


async def test_one_without_the_cookie_goes_by_its_address_and_is_counted(
    make_door: MakeDoor,
) -> None:
    """As it would if it came for the first time."""
    lost = Lost(make_door)
    with lost.client:
        lost.take_again()
        lost.client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        home = Sticky().choose(lost.workers, bytes([127, 0, 0, 1])).slot
        assert await lost.until_given() == home
    assert lost.group.counts().fallbacks == {"absent": 1}


async def test_while_somebody_is_in_its_place_it_goes_there(make_door: MakeDoor) -> None:
    """At once, whatever it will say; one that is full has no place for it."""
    for slot in (0, 1):
        lost = Lost(make_door)
        with lost.client:
            lost.take_again(slot=slot)
            assert await lost.until_given() == slot
    lost = Lost(make_door)
    lost.workers[0].room = 0
    lost.group.dispatcher.update(0.0)
    with lost.client:
        lost.take_again(slot=0)
        assert lost.given == {}
        lost.client.sendall(request_of("a"))
        assert await lost.until_given() == 1


async def test_one_that_asks_for_nothing_more_is_closed(make_door: MakeDoor) -> None:
    """After the time that any idle connection has."""
    lost = Lost(make_door, keepalive_timeout=0.01)
    with lost.client:
        lost.take_again()
        lost.client.setblocking(False)
        assert await soon(asyncio.get_running_loop().sock_recv(lost.client, 1)) == b""
    assert lost.given == {}


async def test_the_next_program_waits_for_its_request_too(make_door: MakeDoor) -> None:
    """Where it was is known there, and that it is no newcomer."""
    before, after = Lost(make_door), Lost(make_door)
    os.close(after.connection.fd)
    after.client.close()
    with before.client:
        before.take_again()
        (state,) = before.group.state()
        assert (state.is_held, state.slot, state.fd) == (True, 5, before.connection.fd)
        assert before.group.second_inspector is not None
        before.group.second_inspector._held.clear()  # as if there had never been this program

        after.group.take_back(state)
        assert (after.given, after.group.held) == ({}, 0)
        before.client.sendall(request_of("a"))

        home = Sticky("cookie:sid").choose(after.workers, b"a").slot
        assert await after.until_given() == home


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_stop_waits_for_no_request(make_door: MakeDoor, is_late: bool) -> None:
    """Neither for those that are there nor for one that comes back later."""
    lost = Lost(make_door)
    if is_late:
        lost.group.end_inspection()
    lost.take_again()
    lost.group.end_inspection()

    with lost.client:
        assert lost.client.recv(1) == b""
    assert lost.given == {}

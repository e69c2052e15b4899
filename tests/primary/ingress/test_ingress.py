"""Which door a connection came by, and who chooses for it; sockets are real, workers are not."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from aiocluster.config.addresses import Address
from aiocluster.config.settings import settings_from
from aiocluster.errors import ConfigError
from aiocluster.ipc.handover import ListenerState
from aiocluster.metrics.snapshot import Dispatch
from aiocluster.policies.base import C, Policy
from aiocluster.policies.round_robin import RoundRobin
from aiocluster.primary.dispatch.policies import policies
from aiocluster.primary.ingress.ingress import Ingress
from aiocluster.primary.ingress.listener_group import IngressSettings, ListenerGroup
from aiocluster.primary.sockets.connection import Connection
from tests.primary.dispatch.test_dispatcher import FakeRecipient
from tests.support.connections import close_all, open_fds
from tests.support.waiting import soon, turns, turns_until

ONE, OTHER = Address("127.0.0.1", 0), Address("127.0.0.2", 0)


class Lowest:
    """A policy: always the first."""

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        return candidates[0]


class Highest:
    """A policy: always the last."""

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        return candidates[-1]


class Stage:
    """Doors, and the workers behind them."""

    def __init__(self, policy_for: Callable[[str], Policy], **settings: Any) -> None:
        self.ingress = Ingress(policy_for, IngressSettings.of(settings_from(settings)))
        self.workers: list[FakeRecipient] = []

    def open(self, *rooms: int) -> list[FakeRecipient]:
        """Listen, with a worker for each of `rooms`."""
        self.ingress.listeners.listen(16)
        self.workers = [FakeRecipient(slot, room) for slot, room in enumerate(rooms)]
        for worker in self.workers:
            self.ingress.add(worker)
        self.ingress.update(0.0)
        return self.workers

    def shed_idle_connections(self, worker: FakeRecipient, room: int) -> None:
        worker.room = room
        self.ingress.update(0.0)

    @property
    def given(self) -> list[Connection]:
        """What the workers have."""
        return [one for worker in self.workers for one in worker.given]

    def close(self) -> None:
        self.ingress.listeners.close()
        close_all([*self.given, *self.ingress.take_waiting()])


MakeStage = Callable[..., Stage]


@pytest.fixture
async def make_stage() -> AsyncIterator[MakeStage]:
    stages: list[Stage] = []

    def make(policy_for: Callable[[str], Policy], *addresses: Address, **settings: Any) -> Stage:
        stages.append(Stage(policy_for, **settings))
        if addresses:
            stages[-1].ingress.bind(addresses, tcp_keepalive=True)
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()


@contextlib.asynccontextmanager
async def visitor(address: tuple[str, int]) -> AsyncIterator[None]:
    """Connect; whether anybody accepts is another matter."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await soon(loop.sock_connect(sock, address))
        yield


def by_address(address: str) -> Policy:
    chosen: dict[str, Policy] = {str(ONE): LOWEST, str(OTHER): HIGHEST}
    return chosen[address]


LOWEST, HIGHEST = Lowest(), Highest()


async def test_the_door_says_who_chooses(make_stage: MakeStage) -> None:
    """Each address has the policy that was asked for by its own text."""
    stage = make_stage(by_address, ONE, OTHER)
    low, high = stage.open(10**6, 10**6)
    one, other = stage.ingress.listeners.addresses

    async with visitor(one), visitor(other):
        await turns_until(lambda: len(stage.given) == 2)

    assert [connection.listener for connection in low.given] == [0]
    assert [connection.listener for connection in high.given] == [1]


async def test_addresses_that_share_a_policy_share_a_door(make_stage: MakeStage) -> None:
    """Over both of them nobody gets two in turn."""
    policy = RoundRobin()
    stage = make_stage(lambda address: policy, ONE, OTHER)
    first, second = stage.open(10**6, 10**6)
    one, other = stage.ingress.listeners.addresses

    for address in (one, other, one, other):
        count = len(stage.given)
        async with visitor(address):
            await turns_until(lambda count=count: len(stage.given) > count)  # type: ignore[misc]

    assert (len(first.given), len(second.given)) == (2, 2)


async def test_a_socket_that_was_handed_down_has_the_policy_of_its_address(
    make_stage: MakeStage,
) -> None:
    """It was bound for none of ours, but it has one."""
    asked: list[str] = []

    def policy_for(address: str) -> Policy:
        asked.append(address)
        return LOWEST

    stage = make_stage(policy_for)
    given = socket.create_server(("127.0.0.1", 0))
    given.setblocking(False)
    address = given.getsockname()
    stage.ingress.inherit([given], tcp_keepalive=True)
    (worker,) = stage.open(1)

    async with visitor(address):
        await turns_until(lambda: bool(worker.given))

    assert asked == [str(Address(*address))]


async def test_what_another_program_bound_has_the_policy_of_its_address(
    make_stage: MakeStage,
) -> None:
    """The one it was bound for, not the one it has: port 0 was asked for."""
    stage = make_stage(by_address)
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [sock.getsockname() for sock in listening]
    states = [
        ListenerState(fd=sock.detach(), is_shared=False, asked=str(asked))
        for sock, asked in zip(listening, (OTHER, ONE), strict=True)
    ]
    stage.ingress.adopt(states, tcp_keepalive=True)
    low, high = stage.open(10**6, 10**6)

    async with visitor(addresses[0]), visitor(addresses[1]):
        await turns_until(lambda: len(stage.given) == 2)

    assert [connection.listener for connection in high.given] == [0]
    assert [connection.listener for connection in low.given] == [1]


async def test_where_nobody_has_room_all_doors_pause(make_stage: MakeStage) -> None:
    """Clients wait in the backlogs; as soon as there is room those of all doors come in."""
    stage = make_stage(by_address, ONE, OTHER)
    (worker,) = stage.open(0)
    one, other = stage.ingress.listeners.addresses

    async with visitor(one), visitor(other):
        await turns(20)
        assert (stage.given, stage.ingress.waiting) == ([], 0)

        stage.shed_idle_connections(worker, 2)
        await turns_until(lambda: len(worker.given) == 2)

    assert {connection.listener for connection in worker.given} == {0, 1}


def connections_of(*listeners: int) -> list[Connection]:
    return [Connection(os.open(os.devnull, os.O_RDONLY), index) for index in listeners]


async def test_those_that_come_back_go_by_their_own_door(make_stage: MakeStage) -> None:
    """From a worker that died, or from another program, all at once."""
    stage = make_stage(by_address, ONE, OTHER)
    low, high = stage.open(10**6, 10**6)
    batch = connections_of(0, 1, 0, 1)

    stage.ingress.dispatch(batch, 0.0)

    assert low.given == [batch[0], batch[2]]
    assert high.given == [batch[1], batch[3]]


async def test_those_that_wait_are_those_of_all_doors(make_stage: MakeStage) -> None:
    """They can be looked at, or taken, and then nobody is left."""
    stage = make_stage(by_address, ONE, OTHER)
    stage.open(0)
    batch = connections_of(0, 1, 0)

    stage.ingress.dispatch(batch, 0.0)

    assert stage.ingress.waiting == 3
    assert sorted(one.fd for one in stage.ingress.state()) == [one.fd for one in batch]
    assert stage.ingress.waiting == 3
    assert sorted(stage.ingress.take_waiting()) == sorted(batch)
    assert (stage.ingress.waiting, stage.ingress.state()) == (0, [])
    close_all(batch)


async def test_a_worker_that_is_taken_out_is_given_nothing_by_any_door(
    make_stage: MakeStage,
) -> None:
    """Coming and going may be told twice."""
    stage = make_stage(by_address, ONE, OTHER)
    low, high = stage.open(10**6, 10**6)
    for worker in (low, low, high, high):
        stage.ingress.add(worker)
    for _ in range(2):
        stage.ingress.remove(high)
    stage.ingress.update(0.0)

    stage.ingress.dispatch(connections_of(0, 1), 0.0)

    assert (len(low.given), len(high.given)) == (2, 0)


async def test_one_door_with_a_punctual_worker_is_enough(make_stage: MakeStage) -> None:
    """What another leaves lying can go there."""
    stage = make_stage(by_address, ONE, OTHER)
    low, high = stage.open(10**6, 10**6)
    low.behind = True
    assert stage.ingress.has_responsive(0.0)

    high.behind = True
    assert not stage.ingress.has_responsive(0.0)


async def test_a_role_that_listens_nowhere_has_no_door(make_stage: MakeStage) -> None:
    """Its workers come and go all the same, and there is nothing to hand out."""
    stage = make_stage(by_address)
    (worker,) = stage.open(1)

    assert not stage.ingress.listeners.are_listening
    assert (stage.ingress.waiting, stage.ingress.take_waiting()) == (0, [])
    assert not stage.ingress.has_responsive(0.0)
    stage.ingress.dispatch([], 0.0)
    stage.ingress.remove(worker)


# ---- shared with the workers


def shared_at_one(address: str) -> Policy:
    """Give ONE to the workers, OTHER to the primary."""
    return {str(ONE): SHARED, str(OTHER): LOWEST}[address]


SHARED = policies("shared")("")


def where(shared: dict[int, int]) -> dict[int, tuple[str, int]]:
    """Return the address of each socket."""
    socks = {index: socket.socket(fileno=fd) for index, fd in shared.items()}
    addresses = {index: sock.getsockname() for index, sock in socks.items()}
    for sock in socks.values():
        sock.detach()
    return addresses


async def test_none_is_shared_unless_asked_for(make_stage: MakeStage) -> None:
    """A worker has no business with them, and leaving them to workers changes nothing."""
    stage = make_stage(by_address, ONE, OTHER)
    stage.open(10**6, 10**6)
    stage.ingress.leave_to_workers(True)
    one, other = stage.ingress.listeners.addresses

    assert stage.ingress.shared == {}
    async with visitor(one), visitor(other):
        await turns_until(lambda: len(stage.given) == 2)


async def test_those_that_are_shared_are_named_until_they_close(make_stage: MakeStage) -> None:
    """By their index; a worker that is forked later than that gets none."""
    stage = make_stage(shared_at_one, OTHER, ONE, ONE)
    addresses = stage.ingress.listeners.addresses
    assert where(stage.ingress.shared) == {1: addresses[1], 2: addresses[2]}

    stage.ingress.listeners.close()

    assert stage.ingress.shared == {}


async def test_while_left_to_workers_nothing_is_accepted(make_stage: MakeStage) -> None:
    """Not even when somebody has room; when that is over it is, unless it is paused."""
    stage = make_stage(shared_at_one, ONE)
    (worker,) = stage.open(0)
    stage.ingress.leave_to_workers(True)
    stage.shed_idle_connections(worker, 1)
    async with visitor(stage.ingress.listeners.addresses[0]):
        await turns(20)
        assert (stage.given, stage.ingress.waiting) == ([], 0)

        stage.shed_idle_connections(worker, 0)
        stage.ingress.leave_to_workers(False)
        await turns(20)
        assert (stage.given, stage.ingress.waiting) == ([], 0)

        stage.shed_idle_connections(worker, 1)
        await turns_until(lambda: len(worker.given) == 1)


async def test_what_is_not_shared_is_accepted_meanwhile(make_stage: MakeStage) -> None:
    """Each address by its own policy: those of another door are nobody else's to accept."""
    stage = make_stage(shared_at_one, ONE, OTHER)
    (worker,) = stage.open(10**6)
    stage.ingress.leave_to_workers(True)
    one, other = stage.ingress.listeners.addresses

    async with visitor(one), visitor(other):
        await turns_until(lambda: len(worker.given) == 1)
        await turns(20)

    assert [connection.listener for connection in worker.given] == [1]


async def test_the_rest_is_accepted_though_left_to_workers(make_stage: MakeStage) -> None:
    """At a stop those who wait are the primary's to accept."""
    stage = make_stage(shared_at_one, ONE)
    (worker,) = stage.open(1)
    stage.ingress.leave_to_workers(True)
    async with visitor(stage.ingress.listeners.addresses[0]):
        stage.ingress.listeners.accept_rest()

        assert len(worker.given) == 1


async def test_more_than_a_fork_can_carry_are_refused(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any worker is forked, and saying how many there may be: of those that are shared."""
    monkeypatch.setattr("aiocluster.primary.ingress.ingress.MAX_SHARED_SOCKETS", 1)
    make_stage(shared_at_one, ONE, OTHER, OTHER)
    stage = make_stage(shared_at_one)

    with pytest.raises(ConfigError, match=r"bind: 2 sockets; at most 1 with the policy 'shared'"):
        stage.ingress.bind([ONE, ONE], tcp_keepalive=True)


# ---- servers of the workers' own


def opened(stage: Stage, index: int = 254) -> tuple[ListenerGroup, tuple[str, int]]:
    """Open a server; return its door, and where it is."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    return stage.ingress.open({index: sock}, RoundRobin()), sock.getsockname()


async def test_a_server_has_a_door_that_leads_to_those_who_serve_it(make_stage: MakeStage) -> None:
    """Whoever serves the role itself is not meant."""
    stage = make_stage(by_address, ONE)
    low, high = stage.open(10**6, 10**6)
    group, where = opened(stage)
    group.dispatcher.add(high)
    stage.ingress.update(0.0)

    async with visitor(where), visitor(stage.ingress.listeners.addresses[0]):
        await turns_until(lambda: len(stage.given) == 2)

    assert [connection.listener for connection in high.given] == [254]
    assert [connection.listener for connection in low.given] == [0]
    assert len(stage.ingress.listeners.addresses) == 1
    stage.ingress.shut(group)


async def test_a_server_that_is_shut_is_gone_with_all_that_waited(make_stage: MakeStage) -> None:
    """What comes back later is closed too."""
    stage = make_stage(by_address, ONE)
    (worker,) = stage.open(10**6)
    group, where = opened(stage)
    batch = connections_of(254, 0)
    stage.ingress.dispatch(batch, 0.0)
    assert (stage.ingress.waiting, [one.fd for one in stage.ingress.state()]) == (1, [batch[0].fd])

    stage.ingress.shut(group)
    before = open_fds()
    stage.ingress.dispatch(connections_of(254), 0.0)

    assert (stage.ingress.waiting, worker.given) == (0, [batch[1]])
    assert open_fds() == before
    assert stage.ingress.listeners.guests == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where)


async def test_servers_stay_when_the_role_itself_listens_no_more(make_stage: MakeStage) -> None:
    """It runs jobs, as has turned out."""
    stage = make_stage(by_address, ONE)
    group, where = opened(stage)
    stage.ingress.drop()
    (worker,) = stage.open(10**6)
    group.dispatcher.add(worker)
    stage.ingress.update(0.0)

    async with visitor(where):
        await turns_until(lambda: len(worker.given) == 1)
    stage.ingress.shut(group)


async def test_who_leaves_is_given_nothing_by_any_door(make_stage: MakeStage) -> None:
    """Of whatever server."""
    stage = make_stage(by_address, ONE)
    (worker,) = stage.open(10**6)
    group, _ = opened(stage)
    group.dispatcher.add(worker)
    stage.ingress.update(0.0)
    assert stage.ingress.has_responsive(0.0)

    stage.ingress.remove(worker)
    stage.ingress.update(0.0)
    stage.ingress.dispatch(connections_of(254), 0.0)

    assert (worker.given, stage.ingress.waiting) == ([], 1)
    assert not stage.ingress.has_responsive(0.0)
    stage.ingress.shut(group)


async def test_doors_that_are_dropped_leave_nothing_open() -> None:
    """What was to find out whose each connection is has descriptors of its own."""
    await turns()
    before = open_fds()
    policy_for = policies("sticky:cookie:sid")
    ingress = Ingress(policy_for, IngressSettings.of(settings_from({})))
    ingress.bind([ONE], tcp_keepalive=True)
    assert open_fds() > before

    ingress.drop()

    assert open_fds() == before


async def test_what_is_counted_at_servers_counts_for_the_role(make_stage: MakeStage) -> None:
    """Also once they are shut, and beside what another program has counted."""
    stage = make_stage(by_address, when_full="503", max_connections=1)
    stage.ingress.counted_before = Dispatch(policy_failures=1, shed=2)
    first, _ = opened(stage)
    second, _ = opened(stage, 253)
    assert first.refusal is not None
    assert second.refusal is not None
    first.refusal.refuse(connections_of(254))
    second.refusal.refuse(connections_of(253, 253))
    assert stage.ingress.dispatch_counts() == Dispatch(policy_failures=1, shed=5)

    stage.ingress.shut(first)
    stage.ingress.shut(second)

    assert stage.ingress.dispatch_counts() == Dispatch(policy_failures=1, shed=5)

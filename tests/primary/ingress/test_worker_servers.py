"""Servers of the workers' own: real sockets, and workers that the test plays."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from aiocluster.config.settings import settings_from
from aiocluster.ipc.messages import (
    Endpoint,
    Listen,
    ListenFailed,
    Listening,
    Message,
    Serving,
    Unlisten,
)
from aiocluster.policies.round_robin import RoundRobin
from aiocluster.primary.ingress.ingress import Ingress
from aiocluster.primary.ingress.listener_group import IngressSettings
from aiocluster.primary.ingress.worker_servers import WorkerServers
from tests.primary.dispatch.test_dispatcher import FakeRecipient
from tests.support.connections import close_all, open_fds
from tests.support.ports import unused_port
from tests.support.waiting import soon, turns, turns_until

V4 = int(socket.AF_INET)
ANY = Endpoint(V4, "127.0.0.1", 0)
OTHER = Endpoint(V4, "127.0.0.2", 0)
NOT_OURS = Endpoint(V4, "192.0.2.1", 0)


class Worker:
    """One that asks; it is its own channel."""

    def __init__(self, worker_id: int, servers: WorkerServers) -> None:
        self.id = worker_id
        self.backend = FakeRecipient(worker_id)
        self.answers: list[Message] = []
        self.channel = self
        self._servers = servers

    def post(self, message: Message) -> None:
        self.answers.append(message)

    def say(self, *messages: Listen | Serving | Unlisten) -> None:
        for message in messages:
            self._servers.hear(self, message)

    def ask(self, *endpoints: Endpoint, nth: int = 0, backlog: int = 100) -> Any:
        """Ask to listen; return the answer."""
        self.say(Listen(len(self.answers), [*endpoints], nth, backlog))
        return self.answers[-1]

    def listen(self, *endpoints: Endpoint, nth: int = 0) -> list[int]:
        """Listen, and serve; return the listeners."""
        answer = self.ask(*endpoints, nth=nth)
        assert isinstance(answer, Listening), answer
        listeners = [one.listener for one in answer.bound]
        self.say(*map(Serving, listeners))
        return listeners

    @property
    def bound(self) -> list[Endpoint]:
        """Where it listens, by its last answer."""
        answer = self.answers[-1]
        assert isinstance(answer, Listening)
        return [one.endpoint for one in answer.bound]


class Stage:
    """One role's doors and servers, with its workers in service."""

    def __init__(self, patience: float = 60.0, **settings: Any) -> None:
        self.ingress = Ingress(
            lambda address: RoundRobin(), IngressSettings.of(settings_from(settings))
        )
        self.taken: list[socket.socket] = []
        self.servers = WorkerServers(
            self.ingress, RoundRobin, lambda: self.taken, patience=patience, tcp_keepalive=True
        )
        self.workers: list[Worker] = []

    def workers_in_service(self, count: int) -> list[Worker]:
        """Return new ones."""
        workers = [self.worker() for _ in range(count)]
        for worker in workers:
            self.servers.enter(worker)
        return workers

    def worker(self) -> Worker:
        """Return a new one, which is not in service yet."""
        self.workers.append(Worker(len(self.workers) + 1, self.servers))
        return self.workers[-1]

    def die(self, worker: Worker) -> None:
        """As a drain does too."""
        self.servers.leave(worker.id)
        self.ingress.remove(worker.backend)

    @property
    def given(self) -> int:
        return sum(len(worker.backend.given) for worker in self.workers)

    def close(self) -> None:
        self.ingress.listeners.close()
        self.servers.begin_stop()
        for server in self.servers._all:
            self.servers._close(server)
        close_all([one for worker in self.workers for one in worker.backend.given])


MakeStage = Callable[..., Stage]


@pytest.fixture
async def make_stage() -> AsyncIterator[MakeStage]:
    stages: list[Stage] = []

    def make(patience: float = 60.0, **settings: Any) -> Stage:
        stages.append(Stage(patience, **settings))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()


@pytest.fixture
async def stage(make_stage: MakeStage) -> Stage:
    return make_stage()


@contextlib.asynccontextmanager
async def visitor(where: Endpoint) -> AsyncIterator[socket.socket]:
    """Connect; whether anybody accepts is another matter."""
    with socket.socket() as sock:
        sock.setblocking(False)
        await soon(asyncio.get_running_loop().sock_connect(sock, (where.host, where.port)))
        yield sock


async def visit(stage: Stage, where: Endpoint, times: int = 1) -> None:
    """Connect one after the other, until each has been given to somebody."""
    for _ in range(times):
        before = stage.given
        async with visitor(where):
            await turns_until(lambda before=before: stage.given > before)  # type: ignore[misc]


def refused(where: Endpoint) -> bool:
    try:
        socket.create_connection((where.host, where.port)).close()
    except ConnectionRefusedError:
        return True
    return False


def unserved(stage: Stage) -> bool:
    return stage.servers.state() == []


# ---- one address


async def test_all_who_ask_for_an_address_share_it_evenly(stage: Stage) -> None:
    """One socket, one number, one port."""
    one, other = stage.workers_in_service(2)
    named = Endpoint(V4, "127.0.0.1", unused_port())

    assert one.listen(named) == other.listen(named) == [254]
    await visit(stage, named, 6)

    assert [len(worker.backend.given) for worker in (one, other)] == [3, 3]
    assert {connection.listener for connection in one.backend.given} == {254}


async def test_port_0_is_the_same_for_all_who_count_alike(stage: Stage) -> None:
    """The second of one worker is the second of all."""
    one, other = stage.workers_in_service(2)

    assert one.listen(ANY) == other.listen(ANY)
    assert one.bound == other.bound
    first = one.bound
    assert one.listen(ANY, nth=1) == other.listen(ANY, nth=1)
    assert one.bound == other.bound != first


async def test_each_socket_has_a_number_of_its_own(stage: Stage) -> None:
    """Below are those of the role itself."""
    stage.servers.numbers.reserve(2)
    (worker,) = stage.workers_in_service(1)

    assert worker.listen(ANY, OTHER) == [254, 253]
    assert worker.listen(ANY, nth=1) == [252]


async def test_two_sockets_of_one_server_are_one_door(stage: Stage) -> None:
    """Round robin goes over both."""
    one, other = stage.workers_in_service(2)
    for worker in (one, other):
        worker.listen(ANY, OTHER)

    for where in one.bound * 2:
        await visit(stage, where)

    assert [len(worker.backend.given) for worker in (one, other)] == [2, 2]


# ---- it cannot be had


async def test_a_worker_cannot_have_one_port_twice(stage: Stage) -> None:
    """It would not know which of its servers a connection is for."""
    (worker,) = stage.workers_in_service(1)
    worker.listen(ANY)
    (where,) = worker.bound

    answer = worker.ask(where)
    assert (answer.errno, answer.text) == (errno.EADDRINUSE, "Address already in use")
    again = Endpoint(V4, "127.0.0.2", unused_port())
    worker.listen(again)
    assert worker.ask(again).errno == errno.EADDRINUSE


# node: eaddrinuse, shared-handle-bind-error
async def test_a_port_that_is_taken_may_be_free_later(stage: Stage) -> None:
    """A retry works; nothing is left of the failure."""
    (worker,) = stage.workers_in_service(1)
    with socket.create_server(("127.0.0.1", 0)) as other:
        where = Endpoint(V4, *other.getsockname())
        before = open_fds()
        answer = worker.ask(where)
        assert open_fds() == before

    assert answer == ListenFailed(0, errno.EADDRINUSE, "Address already in use")
    assert worker.listen(where) == [254]


async def test_a_port_that_the_role_has_bound_is_taken(stage: Stage) -> None:
    """Though it does not listen there yet; which nobody could tell from the errno."""
    (worker,) = stage.workers_in_service(1)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        stage.taken = [sock]
        answer = worker.ask(Endpoint(V4, *sock.getsockname()))
    assert answer.errno == errno.EADDRINUSE
    assert answer.text.startswith("Address already in use: it is in the setting bind of a role")


async def test_what_is_not_ours_is_told_to_who_asked(stage: Stage) -> None:
    """And to nobody else."""
    one, other = stage.workers_in_service(2)

    assert one.ask(NOT_OURS).errno == errno.EADDRNOTAVAIL
    assert one.ask().errno == errno.EINVAL
    assert other.answers == []
    assert unserved(stage)


async def test_there_are_as_many_as_a_byte_tells_apart(stage: Stage) -> None:
    """The next one is refused, and its socket closed."""
    (worker,) = stage.workers_in_service(1)
    stage.servers.numbers.take(254)
    worker.listen(ANY)
    before = open_fds()

    assert worker.ask(ANY, nth=1).errno == errno.EMFILE
    assert open_fds() == before


# ---- when it is given to whom


async def test_nobody_is_given_any_before_it_serves(stage: Stage) -> None:
    """Clients wait in the backlog meanwhile."""
    (worker,) = stage.workers_in_service(1)
    (listener,) = [one.listener for one in worker.ask(ANY).bound]

    async with visitor(worker.bound[0]):
        await turns(20)
        assert (stage.given, stage.ingress.waiting) == (0, 0)
        worker.say(Serving(listener))
        await turns_until(lambda: stage.given == 1)


async def test_it_serves_when_it_serves_all_of_its_sockets(stage: Stage) -> None:
    """No connection may come by one of which it has not said so."""
    (worker,) = stage.workers_in_service(1)
    one, other = (one.listener for one in worker.ask(ANY, OTHER).bound)
    worker.say(Serving(one), Serving(one))

    async with visitor(worker.bound[0]):
        await turns(20)
        assert stage.given == 0
        worker.say(Serving(other))
        await turns_until(lambda: stage.given == 1)


async def test_one_that_is_not_in_service_waits_for_that(stage: Stage) -> None:
    """It may listen as it starts, or is held back."""
    worker = stage.worker()
    worker.listen(ANY)

    async with visitor(worker.bound[0]):
        await turns(20)
        assert stage.given == 0
        stage.servers.enter(worker)
        stage.servers.enter(worker)
        await turns_until(lambda: stage.given == 1)


async def test_without_room_clients_wait_in_the_backlog(stage: Stage) -> None:
    """As at any other door."""
    (worker,) = stage.workers_in_service(1)
    worker.backend.room = 0
    worker.listen(ANY)

    async with visitor(worker.bound[0]):
        await turns(20)
        assert (stage.given, stage.ingress.waiting) == (0, 0)
        worker.backend.room = 1
        stage.ingress.update(0.0)
        await turns_until(lambda: stage.given == 1)


async def test_the_limit_of_all_workers_counts_those_who_do_not_serve(
    make_stage: MakeStage,
) -> None:
    """They have connections of other servers."""
    stage = make_stage(max_connections_total=3)
    one, other = stage.workers_in_service(2)
    other.backend.open_connections = 3
    one.listen(ANY)

    async with visitor(one.bound[0]):
        await turns(20)
        assert stage.given == 0
        assert other.backend.is_asked
        other.backend.open_connections = 2
        stage.ingress.update(0.0)
        await turns_until(lambda: stage.given == 1)


# ---- it is closed


async def test_closed_in_one_the_others_serve_on(stage: Stage) -> None:
    """The port is still there."""
    one, other = stage.workers_in_service(2)
    (listener,) = one.listen(ANY)
    other.listen(ANY)

    one.say(Unlisten(listener))
    await visit(stage, other.bound[0], 2)

    assert [len(worker.backend.given) for worker in (one, other)] == [0, 2]


# node: child-index-net, server-restart-rr
async def test_closed_by_the_last_it_is_closed_at_once(stage: Stage) -> None:
    """With who waited; the next one is a new one."""
    one, other = stage.workers_in_service(2)
    for worker in (one, other):
        (listener,) = worker.listen(ANY)
    (where,) = one.bound
    one.say(Unlisten(listener))
    assert not refused(where)

    other.say(Unlisten(listener))

    assert refused(where)
    assert unserved(stage)
    for _ in range(2):
        (again,) = one.listen(ANY)
        assert again < listener
        one.say(Unlisten(again))


async def test_one_who_comes_back_shares_it_again(stage: Stage) -> None:
    """As if it had never gone."""
    one, other = stage.workers_in_service(2)
    for worker in (one, other):
        (listener,) = worker.listen(ANY)

    one.say(Unlisten(listener))

    assert one.listen(ANY) == [listener]
    assert one.bound == other.bound


async def test_what_comes_late_or_twice_changes_nothing(stage: Stage) -> None:
    """Of a listener that is closed, that another has, or that there never was."""
    one, other = stage.workers_in_service(2)
    (listener,) = one.listen(ANY)

    other.say(Serving(listener), Unlisten(listener), Serving(7), Unlisten(7))
    stage.servers.leave(other.id)
    stage.servers.leave(99)
    await visit(stage, one.bound[0])
    assert len(one.backend.given) == 1

    one.say(Unlisten(listener), Unlisten(listener), Serving(listener))
    assert unserved(stage)


async def test_what_comes_back_goes_to_another(stage: Stage) -> None:
    """It crossed an Unlisten; whoever serves it takes it."""
    one, other = stage.workers_in_service(2)
    for worker in (one, other):
        (listener,) = worker.listen(ANY)
    await visit(stage, one.bound[0], 2)
    one.say(Unlisten(listener))

    stage.ingress.dispatch([one.backend.given.pop()._replace(slot=1)], 0.0)

    assert len(other.backend.given) == 2


async def test_what_comes_back_and_nobody_serves_is_closed(stage: Stage) -> None:
    """Its client sees the end."""
    (worker,) = stage.workers_in_service(1)
    (listener,) = worker.listen(ANY)
    async with visitor(worker.bound[0]) as client:
        await turns_until(lambda: stage.given == 1)
        worker.say(Unlisten(listener))
        stage.ingress.dispatch([worker.backend.given.pop()], 0.0)
        assert await soon(asyncio.get_running_loop().sock_recv(client, 1)) == b""


async def test_what_waits_when_the_last_closes_it_is_closed(stage: Stage) -> None:
    """It was accepted, and nobody has room."""
    (worker,) = stage.workers_in_service(1)
    (listener,) = worker.listen(ANY)
    await visit(stage, worker.bound[0])
    worker.backend.room = 0
    stage.ingress.update(0.0)
    stage.ingress.dispatch([worker.backend.given.pop()], 0.0)
    assert stage.ingress.waiting == 1

    worker.say(Unlisten(listener))

    assert stage.ingress.waiting == 0


# ---- its workers drain, or die


async def test_the_next_in_a_dead_workers_place_has_its_port_and_its_clients(
    stage: Stage,
) -> None:
    """They wait in the backlog meanwhile, and so does what the dead one had not taken."""
    (worker,) = stage.workers_in_service(1)
    worker.listen(ANY)
    where = worker.bound
    await visit(stage, where[0])
    untaken = worker.backend.given.pop()

    stage.die(worker)
    stage.ingress.dispatch([untaken], 0.0)
    async with visitor(where[0]):
        await turns(20)
        assert (stage.given, stage.ingress.waiting) == (0, 1)
        (successor,) = stage.workers_in_service(1)
        successor.listen(ANY)
        await turns_until(lambda: len(successor.backend.given) == 2)

    assert successor.bound == where


async def test_one_that_nobody_asks_for_again_is_closed(make_stage: MakeStage) -> None:
    """After a while, whatever its last worker died of."""
    stage = make_stage(patience=0.001)
    (worker,) = stage.workers_in_service(1)
    worker.listen(ANY)

    stage.die(worker)

    await turns_until(lambda: unserved(stage))
    assert refused(worker.bound[0])


async def test_one_that_was_asked_for_again_stays(make_stage: MakeStage) -> None:
    """Its end does not come later either."""
    stage = make_stage(patience=0.05)
    (worker,) = stage.workers_in_service(1)
    worker.listen(ANY)
    worker.listen(OTHER)
    where = worker.bound
    stage.die(worker)
    (successor,) = stage.workers_in_service(1)
    successor.listen(OTHER)

    await turns_until(lambda: len(stage.servers.state()) == 1)

    assert successor.bound == where
    await visit(stage, where[0])


async def test_a_worker_that_was_just_forked_is_waited_for(stage: Stage) -> None:
    """As long as any: it may come late since its start was put off."""
    (worker,) = stage.workers_in_service(1)
    worker.listen(ANY)
    stage.die(worker)
    (before,) = [server.end for server in stage.servers._all]

    stage.servers.expect()

    (after,) = [server.end for server in stage.servers._all]
    assert before is not None
    assert before.cancelled()
    assert after is not None
    assert not after.cancelled()


async def test_who_serves_is_not_disturbed_by_a_fork(stage: Stage) -> None:
    """Nothing is about to end."""
    (worker,) = stage.workers_in_service(1)
    worker.listen(ANY)

    stage.servers.expect()

    assert [server.end for server in stage.servers._all] == [None]


# ---- the stop


async def test_a_stop_closes_what_nobody_serves(stage: Stage) -> None:
    """Those who wait for it would hold the stop up."""
    one, other = stage.workers_in_service(2)
    one.listen(ANY)
    other.listen(OTHER)
    stage.die(one)

    stage.servers.begin_stop()

    assert refused(one.bound[0])
    assert not refused(other.bound[0])


async def test_in_a_stop_nothing_new_is_bound(stage: Stage) -> None:
    """The worker's own Drain, which follows, is the answer."""
    (worker,) = stage.workers_in_service(1)
    stage.servers.begin_stop()

    worker.say(Listen(1, [ANY], 0, 100))

    assert worker.answers == []
    assert unserved(stage)


async def test_in_a_stop_who_has_connected_is_served_and_then_nobody_can(stage: Stage) -> None:
    """The listeners close with those of the role."""
    (worker,) = stage.workers_in_service(1)
    worker.listen(ANY)
    (where,) = worker.bound
    async with visitor(where):
        stage.servers.begin_stop()
        stage.ingress.listeners.close()
        assert stage.given == 1

    assert refused(where)
    stage.die(worker)
    assert [server.end for server in stage.servers._all] == [None]


# ---- from one program to the next


async def test_all_of_it_goes_on_in_the_next_program(make_stage: MakeStage) -> None:
    """Sockets, numbers, who has them and who serves; then workers are heard."""
    before, after = make_stage(), make_stage()
    one, other = before.workers_in_service(2)
    (shared,) = one.listen(ANY)
    other.ask(ANY)
    (gone,) = other.listen(OTHER)
    before.die(other)
    state, free = copied(before), before.servers.numbers.free

    after.servers.adopt(state, free)
    (worker,) = after.workers_in_service(1)
    await visit(after, one.bound[0])

    left = after.servers.state()
    assert [server.workers for server in left] == [{1: [shared]}, {}]
    assert [server.bound[0].listener for server in left] == [shared, gone]
    assert worker.ask(ANY).errno == errno.EADDRINUSE
    assert worker.ask(OTHER).bound == left[1].bound
    assert worker.listen(ANY, nth=1) == [free[0]]
    assert [server.end is None for server in after.servers._all] == [True, True, True]


async def test_what_nobody_has_is_not_kept_for_ever_by_the_next_program(
    make_stage: MakeStage,
) -> None:
    """Its end is counted anew."""
    before, after = make_stage(), make_stage(patience=0.001)
    (worker,) = before.workers_in_service(1)
    worker.listen(ANY)
    before.die(worker)

    after.servers.adopt(copied(before), [])

    await turns_until(lambda: unserved(after))


def copied(stage: Stage) -> Any:
    """Return the state with descriptors of its own: there is one program less in a test."""
    return [
        msgspec.structs.replace(server, fds=[os.dup(fd) for fd in server.fds])
        for server in stage.servers.state()
    ]

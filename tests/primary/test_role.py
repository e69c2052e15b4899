"""The parts of one role, beside those of others; the test plays the workers."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from aiocluster.config.addresses import Address
from aiocluster.config.run_app import RunAppCall
from aiocluster.errors import BootError, ConfigError
from aiocluster.events import Reloaded, RoleDegraded
from aiocluster.ipc.handover import ListenerState
from aiocluster.ipc.messages import (
    Bound,
    Drain,
    Endpoint,
    Listen,
    ListenFailed,
    Listening,
    Online,
    Ready,
    Serving,
    Unlisten,
)
from aiocluster.policies.least_connections import LeastConnections
from aiocluster.policies.round_robin import RoundRobin
from aiocluster.primary.role import RoleRuntime
from aiocluster.primary.sockets.connection import Connection
from aiocluster.worker.api.context import WorkerContext
from tests.ipc.test_handover import role_without_workers
from tests.support.connections import close_all, connections, states_of
from tests.support.roles import Roles
from tests.support.waiting import soon, turns, turns_until
from tests.support.workers import FakeSpawner, FakeWorker

LOOPBACK = "127.0.0.1:0"


@pytest.fixture
async def roles() -> AsyncIterator[Roles]:
    roles = Roles()
    yield roles
    await roles.close()


async def drained(worker: FakeWorker) -> Drain:
    """Return the order to drain, when it comes."""
    while not isinstance(message := await worker.hear(), Drain):
        pass
    return message


async def replacement(worker: FakeWorker, spawner: FakeSpawner) -> FakeWorker:
    """Let a worker crash; return the one that comes in its place, booted."""
    worker.exit(1)
    (new,) = await spawner.ready(1)
    return new


# ---- what the code gives to run_app


def call(**settings: object) -> RunAppCall:
    return RunAppCall({"bind": [LOOPBACK], **settings}, "host 127.0.0.1, port 0")


async def started_unbound(role: RoleRuntime, roles: Roles) -> FakeWorker:
    """Start a role that is bound when its code is imported; return its worker."""
    starting = asyncio.create_task(role.start())
    await turns()
    (worker,) = await roles.spawner().ready(1)
    await soon(starting)
    return worker


async def test_it_listens_where_its_code_says(roles: Roles) -> None:
    """Bound once that is imported; all that was given counts, and one line says it."""
    roles.call = call(graceful_timeout=2.0, backlog=7)
    role = roles.add(workers=1)
    assert role.may_call_run_app
    worker = await started_unbound(role, roles)

    assert roles.said == ["pkg.module:name: web.run_app gave host 127.0.0.1, port 0"]
    assert role.supervisor.addresses[0][0] == "127.0.0.1"
    assert (role.settings.graceful_timeout, role.settings.backlog) == (2.0, 7)
    role.supervisor.workers[worker.fork.worker_id].begin_drain("drain")
    assert (await drained(worker)).timeout == 2.0


async def test_with_a_bind_of_its_own_it_is_bound_before_the_import(roles: Roles) -> None:
    """A port that is taken is told at once; what the code gives beside it counts all the same."""
    roles.call = RunAppCall({"backlog": 7}, "host 0.0.0.0, port 8080, backlog 7")
    role = roles.add(bind=LOOPBACK, workers=1)
    assert not role.may_call_run_app
    await roles.start()

    assert role.settings.backlog == 7
    assert "(given to aiocluster, which comes first: bind)" in roles.said[0]


async def test_a_reload_says_what_it_cannot_change(
    roles: Roles, caplog: pytest.LogCaptureFixture
) -> None:
    """Listeners stay, and so does the time of a drain; workers have the rest."""
    roles.call = call()
    role = roles.add(workers=1)
    await started_unbound(role, roles)
    roles.call = RunAppCall({"bind": ["127.0.0.1:1"], "graceful_timeout": 2.0}, "")

    await role.generations.begin()

    assert "bind stays 127.0.0.1:0: to make it 127.0.0.1:1 takes a stop" in caplog.text
    assert "graceful_timeout stays 30.0: to make it 2.0 takes a stop" in caplog.text
    assert len(roles.said) == 1


async def obedient_job(worker: WorkerContext) -> None: ...


@pytest.mark.parametrize("app", ["pkg.module:name", obedient_job])
async def test_a_job_alone_binds_nothing(
    roles: Roles, caplog: pytest.LogCaptureFixture, app: object
) -> None:
    """The default address may be another program's; a reload knows that, too."""
    roles.is_job = True
    role = roles.add(app=app, alone=True, workers=1)
    if not role.may_call_run_app:
        role.bind(())
    await started_unbound(role, roles)
    await role.generations.begin()

    assert (role.sockets, role.supervisor.addresses) == ([], ())
    assert role.asked_for()["bind"] == []
    assert "takes a stop and a start" not in caplog.text


async def test_after_an_upgrade_a_job_alone_has_nothing_bound_as_before(
    roles: Roles, caplog: pytest.LogCaptureFixture
) -> None:
    """What its code is was known to the program before."""
    role = roles.add(alone=True, workers=1)
    await role.adopt(role_without_workers(bind=[], workers="1", call=None, listeners=[]))

    assert role.asked_for()["bind"] == []
    assert "bind stays" not in caplog.text


# ---- start


async def test_bound_it_has_an_address_and_hears_nobody(roles: Roles) -> None:
    """Clients are let in when there are workers."""
    role = roles.add(bind=LOOPBACK, workers=1)
    role.bind([])
    ((host, port),) = role.supervisor.addresses

    assert (host, port > 0) == ("127.0.0.1", True)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port))


async def test_an_address_that_is_taken_is_told(roles: Roles) -> None:
    """By its name."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        where = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"cannot bind {where}: .* in use"):
            roles.add(bind=where).bind([])


async def test_sockets_that_were_handed_down_are_served_in_the_place_of_bind(
    roles: Roles, caplog: pytest.LogCaptureFixture
) -> None:
    """And the log says so."""
    caplog.set_level("INFO")
    given = socket.create_server(("127.0.0.1", 0))
    given.setblocking(False)
    role = roles.add(bind=LOOPBACK)

    role.bind([given])

    assert role.supervisor.addresses == (given.getsockname(),)
    assert "handed down (LISTEN_FDS) in the place of bind" in caplog.text


async def test_its_workers_get_who_comes_by_its_doors(roles: Roles) -> None:
    """And nobody else does."""
    web, jobs = roles.add("web", bind=LOOPBACK, workers=1), roles.add("jobs", workers=1)
    (server,) = await roles.start("web")
    (worker,) = await roles.start("jobs")
    for role in (web, jobs):
        role.listen()
    taken: list[Connection] = []

    def was_taken() -> bool:
        taken.extend(Connection(*pair) for pair in server.taken())
        return bool(taken)

    with socket.create_connection(web.supervisor.addresses[0]):
        await turns_until(was_taken)
    close_all(taken)
    assert worker.taken() == []


async def test_a_role_may_listen_nowhere(roles: Roles) -> None:
    """Its workers have something else to do."""
    role = roles.add("jobs", workers=2)
    first, second = await roles.start("jobs", 2)
    role.listen()

    assert role.supervisor.addresses == ()
    assert (first.fork.families, second.fork.families) == ([], [])


async def test_its_workers_know_its_name(roles: Roles) -> None:
    """In the order to fork, in their environment, in the handle."""
    roles.add("jobs", workers=1)
    (worker,) = await roles.start("jobs")

    assert worker.fork.role == "jobs"
    assert worker.fork.env["AIOCLUSTER_ROLE"] == "jobs"
    assert roles.workers[worker.fork.worker_id].role == "jobs"


async def test_no_worker_of_any_role_has_the_id_of_another(roles: Roles) -> None:
    """Slots are counted by role, ids by cluster."""
    roles.add("web", workers=2)
    roles.add("jobs", workers=2)
    forks = [one.fork for name in ("web", "jobs") for one in await roles.start(name, 2)]

    assert sorted(fork.worker_id for fork in forks) == [1, 2, 3, 4]
    assert [fork.slot for fork in forks] == [0, 1, 0, 1]


async def test_an_app_that_cannot_be_imported_is_told(roles: Roles) -> None:
    """With its cause, and no worker is forked."""
    roles.boot_error = BootError("ImportError: nope")

    with pytest.raises(BootError, match="ImportError: nope"):
        await soon(roles.add(workers=1).start())

    assert roles.spawner().workers == []


async def test_more_workers_than_make_sense_are_started_and_told(
    roles: Roles, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked for so many may know why."""
    monkeypatch.setattr("aiocluster.primary.role.available_cpus", lambda: 1)
    role = roles.add(workers=9)

    await roles.start(count=9)

    assert len(role.supervisor.workers) == 9
    assert "9 workers" in caplog.text


# ---- between


async def test_a_reload_replaces_the_workers_of_its_role(roles: Roles) -> None:
    """The other has the generation, the zygote and the workers that it had."""
    web, jobs = roles.add("web", workers=1), roles.add("jobs", workers=1)
    (old,), (other,) = await roles.start("web"), await roles.start("jobs")
    spawner = roles.spawner("jobs")

    reloading = asyncio.create_task(web.supervisor.reload())
    await turns_until(lambda: web.generations.next_number == 3)
    (new,) = await roles.spawner("web").ready(1)
    await drained(old)
    old.exit(0)
    await soon(reloading)

    assert (new.fork.role, new.fork.generation) == ("web", 2)
    assert [one for one in roles.heard if isinstance(one, Reloaded)] == [Reloaded(2, "web")]
    assert (jobs.generations.current.number, roles.spawner("jobs")) == (1, spawner)
    assert [*jobs.supervisor.workers] == [other.fork.worker_id]
    assert not roles.workers[other.fork.worker_id].is_leaving


async def test_failures_of_one_role_are_not_those_of_another(roles: Roles) -> None:
    """One that has used up its own is slowed down alone."""
    roles.add("web", workers=1, max_failures=1.5)
    roles.add("jobs", workers=1, max_failures=1.5)
    (bad,), (good,) = await roles.start("web"), await roles.start("jobs")
    (await replacement(bad, roles.spawner("web"))).exit(1)
    await turns_until(lambda: not roles.all["web"].supervisor.workers)

    await replacement(good, roles.spawner("jobs"))

    degraded = [one.role for one in roles.heard if isinstance(one, RoleDegraded)]
    assert degraded == ["web"]


# ---- sockets that were handed down


def handed_down() -> tuple[socket.socket, str]:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock, str(Address(*sock.getsockname()))


async def test_a_socket_that_was_handed_down_has_its_policy(roles: Roles) -> None:
    """That of the address it has."""
    sock, address = handed_down()
    role = roles.add("web", bind=address, policy={address: "sticky"})

    role.bind([sock])

    assert not role.ingress.may_rebalance


async def test_a_policy_for_what_was_not_handed_down_is_refused(roles: Roles) -> None:
    """With what was: who has written it expects that it chooses."""
    sock, address = handed_down()
    role = roles.add("web", bind=":8001", policy={":8001": "sticky"})

    why = rf"policy: :8001 has no listener; the role has {address}"
    with pytest.raises(ConfigError, match=why):
        role.bind([sock])


# ---- from one program to the next


async def test_it_leaves_what_it_was_asked_for_and_what_it_has(roles: Roles) -> None:
    """A zygote that is not ready yet would be nobody's, and is dropped."""
    role = roles.add("jobs", bind=LOOPBACK, workers=1)
    await roles.start("jobs")
    await turns_until(lambda: not role.supervisor.busy_reason)

    state = role.state()

    assert (state.bind, state.workers) == ([LOOPBACK], "1")
    assert [(one.asked, one.is_shared) for one in state.listeners] == [(LOOPBACK, False)]
    assert [(one.worker_id, one.role) for one in state.crew.workers] == [(1, "jobs")]
    assert state.waiting == []
    assert roles.spawner("jobs").is_dropped


async def test_it_goes_on_with_what_was_left(
    roles: Roles, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that waited still do; what only a start can change is told."""
    waiting = connections(2)
    listening = socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    listener = ListenerState(fd=listening.detach(), is_shared=False, asked=LOOPBACK)
    state = role_without_workers(listeners=[listener], waiting=states_of(waiting))
    role = roles.add("jobs", bind="127.0.0.1:8001", workers="auto")

    await role.adopt(state)

    assert role.supervisor.addresses == (address,)
    assert role.ingress.state() == states_of(waiting)
    assert role.generations.current.number == 2
    assert f"bind of role jobs stays {[LOOPBACK]}: to make it ['127.0.0.1:8001']" in caplog.text
    assert "workers of role" not in caplog.text


async def test_a_policy_for_what_was_not_left_is_told(
    roles: Roles, caplog: pytest.LogCaptureFixture
) -> None:
    """`bind` stays as it was, and so those of new addresses choose for nobody."""
    listening = socket.create_server(("127.0.0.1", 0))
    listener = ListenerState(fd=listening.detach(), is_shared=False, asked=LOOPBACK)
    new = "127.0.0.1:8001"
    role = roles.add("jobs", bind=new, policy={new: "sticky"})

    await role.adopt(role_without_workers(listeners=[listener]))

    assert f"policy: {new} has no listener; the role has {LOOPBACK}" in caplog.text


# ---- servers of the workers' own


async def answer(worker: FakeWorker, where: Endpoint) -> Any:
    """Let a worker ask to listen; return the answer."""
    worker.say(Listen(1, [where], 0, 100))
    while not isinstance(message := await worker.hear(), Listening | ListenFailed):
        pass
    return message


def port_of(role: RoleRuntime) -> Endpoint:
    ((_, port),) = role.supervisor.addresses
    return Endpoint(int(socket.AF_INET), "127.0.0.1", port)


async def test_an_app_cannot_have_the_port_of_its_own_role(roles: Roles) -> None:
    """Neither before the role listens there nor after, nor that of another role."""
    web, other = roles.add("web", bind=LOOPBACK, workers=1), roles.add("jobs", workers=1)
    (server,), (worker,) = await roles.start("web"), await roles.start("jobs")
    where = port_of(web)

    for _ in range(2):
        for asker in (server, worker):
            assert (await answer(asker, where)).errno == errno.EADDRINUSE
        web.listen()
    other.listen()


async def test_a_job_may_have_the_port_for_which_it_has_no_use(
    roles: Roles, caplog: pytest.LogCaptureFixture
) -> None:
    """It is given up as soon as it is known to run a job; whoever asked for it is told."""
    role = roles.add("jobs", bind=LOOPBACK, workers=1)
    role.bind([])
    where = port_of(role)
    starting = asyncio.create_task(role.start())
    await turns()
    worker = await roles.spawner("jobs").next()
    worker.say(Online(), Ready(serves=False))
    await soon(starting)

    bound = (await answer(worker, where)).bound
    role.listen()

    assert f"the cluster does not listen on {LOOPBACK} (bind)" in caplog.text
    assert bound == [Bound(254, where)]
    socket.create_connection((where.host, where.port)).close()


async def test_a_job_is_told_of_no_address_that_it_was_not_given(
    roles: Roles, caplog: pytest.LogCaptureFixture
) -> None:
    """The default is for apps: whoever starts a job alone did not mean to listen."""
    role = roles.add("jobs", bind=LOOPBACK, workers=1)
    role._spec = msgspec.structs.replace(role._spec, given=frozenset())
    role.bind([])
    starting = asyncio.create_task(role.start())
    await turns()
    (await roles.spawner("jobs").next()).say(Online(), Ready(serves=False))
    await soon(starting)

    role.listen()

    assert "does not listen" not in caplog.text
    assert role.sockets == []


async def test_what_servers_there_are_is_left_to_the_next_program(roles: Roles) -> None:
    """With the numbers that are free."""
    role = roles.add("jobs", workers=1)
    (worker,) = await roles.start("jobs")
    (bound,) = (await answer(worker, ANY)).bound
    worker.say(Serving(bound.listener))
    await turns_until(lambda: bool(role.state().servers[0].workers[1]))

    state = role.state()

    assert [(one.bound, one.workers) for one in state.servers] == [([bound], {1: [254]})]
    assert state.free_numbers[0] == 253


ANY = Endpoint(int(socket.AF_INET), "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        ("round_robin", RoundRobin),
        ("least_connections", LeastConnections),
        ("shared", RoundRobin),
        ({LOOPBACK: "least_connections"}, RoundRobin),
    ],
)
async def test_each_server_has_a_policy_of_its_own(
    roles: Roles, policy: object, kind: type[object]
) -> None:
    """The role's, by name; where that is for addresses of bind, or none, it is round robin."""
    (role, (worker,)) = roles.add(bind=LOOPBACK, workers=1, policy=policy), await roles.start()
    await answer(worker, ANY)
    await answer(worker, msgspec.structs.replace(ANY, host="127.0.0.2"))

    one, other = (group.policy for group in role.ingress._own)

    assert type(one) is type(other) is kind
    assert one is not other


async def test_a_policy_that_is_an_object_is_that_of_all_servers(roles: Roles) -> None:
    """It may keep what it knows of the workers."""
    policy = LeastConnections()
    (role, (worker,)) = roles.add(workers=1, policy=policy), await roles.start()
    await answer(worker, ANY)

    assert [group.policy for group in role.ingress._own] == [policy]


# ---- stop


async def test_a_stop_closes_servers_too(roles: Roles) -> None:
    """With the other doors; who serves may still close them, twice if it likes."""
    role = roles.add("jobs", workers=1)
    (worker,) = await roles.start("jobs")
    (bound,) = (await answer(worker, ANY)).bound
    worker.say(Serving(bound.listener))
    await turns_until(lambda: bool(role.state().servers[0].workers[1]))

    await soon(role.close_listeners(30.0))

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", bound.endpoint.port))
    worker.say(Unlisten(bound.listener), Unlisten(bound.listener))
    await turns_until(lambda: not role.state().servers)


async def test_closing_its_doors_costs_time_of_the_stop(roles: Roles) -> None:
    """What is left of it is told, and is never below 0."""
    role = roles.add(bind=LOOPBACK, workers=1)
    await roles.start()
    role.listen()

    assert 900.0 < await soon(role.close_listeners(1000.0)) <= 1000.0
    assert await soon(role.close_listeners(0.0)) == 0.0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(role.supervisor.addresses[0])


async def test_its_workers_are_drained_in_the_time_it_is_given(roles: Roles) -> None:
    """Those of another role serve on."""
    web, jobs = roles.add("web", workers=1), roles.add("jobs", workers=1)
    (server,), (worker,) = await roles.start("web"), await roles.start("jobs")

    stopping = asyncio.create_task(web.stop(12.0))
    order = await drained(server)
    server.exit(0)

    assert await soon(stopping) == []
    assert (order.timeout, order.stopping) == (12.0, True)
    assert [*jobs.supervisor.workers] == [worker.fork.worker_id]


async def test_who_had_to_be_cut_is_named(roles: Roles) -> None:
    """By the one who stops it."""
    role = roles.add(workers=1)
    (worker,) = await roles.start()
    name = str(roles.workers[worker.fork.worker_id])
    stopping = asyncio.create_task(role.stop(30.0))
    await drained(worker)

    role.supervisor.kill_all()

    assert await soon(stopping) == [name]


async def test_who_could_not_be_served_is_closed_and_told(
    roles: Roles, caplog: pytest.LogCaptureFixture
) -> None:
    """Accepted, but no worker came that had room."""
    role = roles.add(bind=LOOPBACK, workers=1, restart="never")
    (worker,) = await roles.start()
    worker.exit(1)
    await soon(role.supervisor.empty.wait())
    role.ingress.dispatch(connections(3), 0.0)
    await turns()

    assert await soon(role.stop(0.0)) == ["the primary"]

    assert role.ingress.waiting == 0
    assert "3 connections closed unserved" in caplog.text

"""The parts together: real sockets, and workers that the test plays."""

import asyncio
import gc
import itertools
import os
import socket
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest

from aiocluster.config.roles import Role, plan_from
from aiocluster.errors import BootError, ConfigError
from aiocluster.events import Event, EventsMissed, ReloadBegan, Reloaded, StopBegan, Upgraded
from aiocluster.ipc.handover import ListenerState
from aiocluster.ipc.messages import Drain, Unready
from aiocluster.ipc.scoreboard import Scoreboard
from aiocluster.metrics.role_aggregators import RoleAggregators
from aiocluster.primary.event_bus import EventBus
from aiocluster.primary.launch_spec import LaunchSpec
from aiocluster.primary.lifecycle.upgrade import NextProgram
from aiocluster.primary.primary import Primary
from aiocluster.primary.role import RoleRuntime
from aiocluster.primary.sockets.connection import Connection
from aiocluster.primary.supervisor import Supervisor
from tests.ipc.test_handover import ESTATE, role_without_workers
from tests.support.connections import close_all, open_fds
from tests.support.ports import unused_port
from tests.support.waiting import soon, turns, turns_until
from tests.support.workers import FakeSpawner, FakeWorker

LOOPBACK = "127.0.0.1:0"


class PlayedOrigin(LaunchSpec):
    """Its zygotes are the test's spawners: those of a role are there before they are asked for."""

    def __init__(self, **given: Any) -> None:
        super().__init__({}, **given)
        self.asked: list[str] = []
        self.spawners: dict[str, list[FakeSpawner]] = {}

    def spawner(self, role: str, generation: int = 1) -> FakeSpawner:
        spawners = self.spawners.setdefault(role, [])
        spawners += [FakeSpawner() for _ in range(generation - len(spawners))]
        return spawners[generation - 1]

    def new_spawner(self, role: str) -> FakeSpawner:
        self.asked.append(role)
        return self.spawner(role, self.asked.count(role))

    @property
    def all_workers(self) -> list[FakeWorker]:
        spawners = [one for spawners in self.spawners.values() for one in spawners]
        return [worker for spawner in spawners for worker in spawner.workers]


class Stage:
    """The parts of a cluster; of one role with two workers, unless told otherwise."""

    def __init__(
        self, origin: PlayedOrigin, roles: dict[str, Role] | None = None, **settings: Any
    ) -> None:
        self.origin, self.spawner = origin, origin.spawner("web")
        self.bus = EventBus()
        self.heard: list[Event] = []
        self.bus.on(Event, self.heard.append)
        app = "pkg.module:name" if roles is None else None
        one = {"bind": LOOPBACK, "workers": 2} if roles is None else {}
        self.parts = Primary(plan_from(app, roles, {**one, **settings}), origin, self.bus)
        self.stopping: asyncio.Task[list[str]] | None = None

    @property
    def supervisor(self) -> Supervisor:
        """That of the first role."""
        return self.roles[0].supervisor

    @property
    def roles(self) -> list[RoleRuntime]:
        return [*self.parts.roles.values()]

    @property
    def address(self) -> tuple[str, int]:
        (address,) = self.parts.addresses
        return address

    async def start(self, count: int = 2) -> list[FakeWorker]:
        """Start the only role; return its workers by slot."""
        return (await self.start_roles(web=count))["web"]

    async def start_roles(self, **counts: int) -> dict[str, list[FakeWorker]]:
        """Start all roles, each with so many workers; return these, by slot."""
        starting = asyncio.create_task(self.parts.start())
        workers = {
            role: await self.origin.spawner(role).ready(count) for role, count in counts.items()
        }
        await soon(starting)
        return workers

    def stop(self, timeout: float | None = 0.0) -> "asyncio.Task[list[str]]":
        self.stopping = self.stopping or self.parts.stop(timeout)
        return self.stopping

    async def close(self) -> None:
        stopping = self.stop()
        for worker in self.origin.all_workers:
            worker.exit(0)
        await soon(stopping)
        for worker in self.origin.all_workers:
            worker.close()
            worker.row.release()
        await turns()


MakeStage = Callable[..., Stage]


@pytest.fixture
async def make_stage() -> AsyncIterator[MakeStage]:
    stages: list[Stage] = []

    def make(
        origin: PlayedOrigin | None = None,
        roles: dict[str, Role] | None = None,
        **settings: Any,
    ) -> Stage:
        stages.append(Stage(origin or PlayedOrigin(), roles, **settings))
        return stages[-1]

    yield make
    for stage in stages:
        await stage.close()


Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def knock(address: tuple[str, int]) -> Client:
    return await soon(asyncio.open_connection(*address))


async def leave(client: Client) -> None:
    _, writer = client
    writer.close()
    await soon(cast(Awaitable[None], writer.wait_closed()))


# ---- start


async def test_clients_are_let_in_last(make_stage: MakeStage) -> None:
    """When there are workers to serve them; the address is known long before."""
    stage = make_stage()
    starting = asyncio.create_task(stage.parts.start())
    first, second = [await stage.spawner.next() for _ in range(2)]
    with pytest.raises(ConnectionRefusedError):
        await knock(stage.address)
    first.boot()
    second.boot()
    await soon(starting)

    client = await knock(stage.address)
    given: list[Connection] = []

    def was_given() -> bool:
        given.extend(Connection(*pair) for one in (first, second) for pair in one.taken())
        return bool(given)

    await turns_until(was_given)
    close_all(given)
    await leave(client)


async def test_a_port_that_is_taken_is_told_before_anything_is_imported(
    make_stage: MakeStage,
) -> None:
    """An import may take long, and would be for nothing."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        stage = make_stage(bind=f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(ConfigError, match="in use"):
            await soon(stage.parts.start())

    assert stage.origin.asked == []


async def test_sockets_that_were_handed_down_are_served_in_the_place_of_bind(
    make_stage: MakeStage,
) -> None:
    """Whoever did so has chosen the address."""
    given = socket.create_server(("127.0.0.1", 0))
    given.setblocking(False)
    address = given.getsockname()
    stage = make_stage(PlayedOrigin(inherited=[given]))

    await stage.start()

    assert stage.address == address


async def test_an_app_that_cannot_be_imported_is_told(make_stage: MakeStage) -> None:
    """And no client was let in."""
    stage = make_stage()
    stage.spawner.boot_error = BootError("ImportError: nope")

    with pytest.raises(BootError, match="ImportError: nope"):
        await soon(stage.parts.start())

    with pytest.raises(ConnectionRefusedError):
        await knock(stage.address)


async def test_more_workers_than_make_sense_are_started_and_told(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked for so many may know why."""
    monkeypatch.setattr("aiocluster.primary.role.available_cpus", lambda: 1)
    stage = make_stage(workers=9)

    await stage.start(9)

    assert len(stage.supervisor.workers) == 9
    assert "9 workers" in caplog.text


async def test_it_goes_on_with_what_another_program_left(make_stage: MakeStage) -> None:
    """Nothing is bound or forked, and clients are let in all the while."""
    theirs, listening = Scoreboard(), socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    listener = ListenerState(fd=os.dup(listening.fileno()), is_shared=False, asked=LOOPBACK)
    role = role_without_workers(workers="2", listeners=[listener])
    handover_state = msgspec.structs.replace(
        ESTATE, scoreboard=os.dup(theirs.fd), subscriptions=[], roles={"web": role}
    )
    stage = make_stage(PlayedOrigin(handover_state=handover_state))

    await soon(stage.parts.start())

    assert stage.heard == [Upgraded()]
    assert stage.address == address
    assert stage.parts.roles["web"].generations.current.number == 2
    assert stage.spawner.workers == []
    theirs.close()
    listening.close()


async def test_it_can_be_upgraded_once_all_is_started(make_stage: MakeStage) -> None:
    """If there is a program that can take its place."""
    stage = make_stage(PlayedOrigin(successor=cast(NextProgram, object())))
    assert stage.parts.upgrader is None
    await stage.start()
    assert stage.parts.upgrader is not None

    other = make_stage()
    await other.start()
    assert other.parts.upgrader is None


# ---- stop


async def names_of(events: AsyncIterator[Event | EventsMissed]) -> list[str]:
    """Return the rest of them, which ends with the cluster."""
    return [type(event).__name__ async for event in events]


async def test_they_stop_in_the_reverse_order(make_stage: MakeStage) -> None:
    """The door, the workers, the zygote, the snapshots, the events: each is there for the next."""
    stage = make_stage(workers=1)
    (worker,) = await stage.start(1)
    snapshots, events = stage.parts.reporter.subscribe(1000.0), stage.bus.events()
    last = asyncio.create_task(anext(snapshots, None))
    await turns()
    stopping = stage.stop(30.0)

    assert [type(await worker.hear()) for _ in range(2)] == [Unready, Drain]
    assert isinstance(stage.heard[-1], StopBegan)
    with pytest.raises(ConnectionRefusedError):
        await knock(stage.address)
    assert not stage.spawner.closed.is_set()
    assert not last.done()

    worker.exit(0)
    assert await soon(stopping) == []
    assert stage.spawner.closed.is_set()
    assert await soon(last) is None
    assert await soon(names_of(events)) == ["StopBegan", "WorkerDisconnected", "WorkerExited"]


async def test_who_had_to_be_cut_is_named(make_stage: MakeStage) -> None:
    """By the one who stops them."""
    stage = make_stage(workers=1)
    (worker,) = await stage.start(1)
    name = str(stage.supervisor.workers[worker.fork.worker_id])
    stopping = stage.stop(30.0)
    while not isinstance(await worker.hear(), Drain):
        pass
    stage.supervisor.kill_all()

    assert await soon(stopping) == [name]


async def test_a_stop_while_they_start_ends_the_start(make_stage: MakeStage) -> None:
    """Whoever waits for it hears so, also when the workers came up at that very moment."""
    stage = make_stage(workers=1)
    starting = asyncio.create_task(stage.parts.start())
    worker = await stage.spawner.next()
    worker.boot()
    handle = stage.supervisor.workers[worker.fork.worker_id]
    await turns_until(lambda: handle.was_ready)
    stopping = stage.stop()
    worker.exit(0)

    with pytest.raises(BootError, match="was stopped while it started"):
        await soon(starting)
    assert await soon(stopping) == []


async def test_who_could_not_be_served_is_told_of(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """Accepted, but no worker came that had room."""
    stage = make_stage(workers=1, restart="never")
    (worker,) = await stage.start(1)
    worker.exit(1)
    await soon(stage.supervisor.empty.wait())
    client = await knock(stage.address)

    await soon(stage.stop(30.0))

    assert await soon(client[0].read()) == b""
    assert "1 connections closed unserved" in caplog.text
    await leave(client)


@pytest.mark.parametrize("roles", [None, {"web": Role("a:b", bind=LOOPBACK), "jobs": Role("a:c")}])
async def test_nothing_is_left_of_them(roles: dict[str, Role] | None) -> None:
    """No descriptor, no task, and nothing to come that would hold them."""
    before = open_fds()
    stage = Stage(PlayedOrigin(), roles, workers=2)
    workers = await stage.start_roles(**dict.fromkeys(roles or ["web"], 2))
    stage.stop()
    for worker in itertools.chain(*workers.values()):
        await drained(worker)
    await stage.close()
    held = weakref.ref(stage.parts)
    del stage, workers, worker
    gc.collect()

    assert held() is None
    assert open_fds() <= before
    assert asyncio.all_tasks() == {asyncio.current_task()}


# ---- several roles


def two_roles(**both: Any) -> dict[str, Role]:
    """Return one that serves and one that works, with one worker each."""
    return {
        "web": Role("pkg.module:serve", bind=LOOPBACK, workers=1, **both),
        "jobs": Role("pkg.module:work", workers=1, **both),
    }


async def drained(worker: FakeWorker) -> Drain:
    """Return the order to drain, when it comes."""
    while not isinstance(message := await worker.hear(), Drain):
        pass
    return message


async def test_all_roles_are_one_cluster(make_stage: MakeStage) -> None:
    """Their addresses and workers are those of the cluster; no id is given twice."""
    roles = {
        "web": Role("a:b", bind=[LOOPBACK, "127.0.0.2:0"], workers=2),
        "jobs": Role("a:c", workers=1),
        "admin": Role("a:d", bind="127.0.0.3:0", workers=1),
    }
    stage = make_stage(roles=roles)
    workers = await stage.start_roles(web=2, jobs=1, admin=1)

    assert [host for host, _ in stage.parts.addresses] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert sorted(stage.parts.workers) == [1, 2, 3, 4]
    for name, those in workers.items():
        assert {stage.parts.workers[one.fork.worker_id].role for one in those} == {name}


async def test_all_roles_are_bound_before_anything_is_imported(make_stage: MakeStage) -> None:
    """Also where it is the last one that is refused."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        stage = make_stage(roles={**two_roles(), "admin": Role("a:d", bind=taken)})
        with pytest.raises(ConfigError, match=f"{taken}: .* in use"):
            await soon(stage.parts.start())

    assert stage.origin.asked == []


@pytest.mark.parametrize("second", ["127.0.0.1", "0.0.0.0"])
async def test_roles_that_would_share_an_address_are_refused(
    make_stage: MakeStage, second: str
) -> None:
    """At once, too: the kernel would say so only when the second one listens."""
    port = unused_port()
    roles = {
        "web": Role("a:b", bind=f"127.0.0.1:{port}", workers=1),
        "admin": Role("a:c", bind=f"{second}:{port}", workers=1),
    }
    stage = make_stage(roles=roles)

    starting = asyncio.create_task(stage.parts.start())
    await turns_until(lambda: starting.done() or bool(stage.origin.asked))
    starting.cancel()

    with pytest.raises(ConfigError, match="overlap; give one"):
        await soon(starting)
    assert stage.origin.asked == []


async def test_clients_of_any_role_are_let_in_when_all_are_up(make_stage: MakeStage) -> None:
    """A cluster serves, or it does not."""
    stage = make_stage(roles=two_roles())
    starting = asyncio.create_task(stage.parts.start())
    (server,) = await stage.origin.spawner("web").ready(1)
    handle = stage.parts.workers[server.fork.worker_id]
    await turns_until(lambda: handle.was_ready)
    with pytest.raises(ConnectionRefusedError):
        await knock(stage.address)

    await stage.origin.spawner("jobs").ready(1)
    await soon(starting)
    await leave(await knock(stage.address))


async def test_a_role_that_cannot_be_imported_ends_the_start(make_stage: MakeStage) -> None:
    """It is named, and the others are not waited for."""
    stage = make_stage(roles=two_roles())
    stage.origin.spawner("jobs").boot_error = BootError(
        "ImportError: nope", "the traceback", 7, kind="refused"
    )

    with pytest.raises(BootError) as caught:
        await soon(stage.parts.start())

    assert (caught.value.cause, caught.value.traceback) == (
        "role jobs: ImportError: nope",
        "the traceback",
    )
    assert (caught.value.exit_code, caught.value.kind) == (7, "refused")
    with pytest.raises(ConnectionRefusedError):
        await knock(stage.address)
    stopping = stage.stop()
    for worker in stage.origin.all_workers:
        worker.exit(0)
    await soon(stopping)
    assert stage.origin.spawner("web").closed.is_set()
    assert stage.parts.workers == {}


async def test_a_role_whose_workers_do_not_come_up_ends_the_start(make_stage: MakeStage) -> None:
    """It is named; those of the others that serve already are drained."""
    stage = make_stage(roles=two_roles())
    starting = asyncio.create_task(stage.parts.start())
    (server,) = await stage.origin.spawner("web").ready(1)
    (await stage.origin.spawner("jobs").next()).fail_to_boot("OSError: no database")

    with pytest.raises(BootError, match=r"^role jobs: OSError: no database"):
        await soon(starting)

    stopping = stage.stop(5.0)
    await drained(server)
    server.exit(0)
    assert await soon(stopping) == []
    assert stage.parts.workers == {}
    assert all(stage.origin.spawner(role).closed.is_set() for role in ("web", "jobs"))


async def test_of_roles_that_all_fail_one_is_told(make_stage: MakeStage) -> None:
    """In one error that can be caught as such."""
    stage = make_stage(roles=two_roles())
    for role in ("web", "jobs"):
        stage.origin.spawner(role).boot_error = BootError(f"no {role}")

    with pytest.raises(BootError, match=r"^role (web: no web|jobs: no jobs)$"):
        await soon(stage.parts.start())


async def test_a_stop_while_roles_start_ends_the_start(make_stage: MakeStage) -> None:
    """Whoever waits for it hears so, and not of a role that failed for it."""
    stage = make_stage(roles=two_roles())
    starting = asyncio.create_task(stage.parts.start())
    workers = [await stage.origin.spawner(role).next() for role in ("web", "jobs")]
    stopping = stage.stop()
    for worker in workers:
        worker.exit(0)

    with pytest.raises(BootError, match="was stopped while it started"):
        await soon(starting)
    assert await soon(stopping) == []


async def test_a_reload_of_one_role_leaves_the_others(make_stage: MakeStage) -> None:
    """They are not imported anew, and their workers are not drained."""
    stage = make_stage(roles=two_roles())
    workers = await stage.start_roles(web=1, jobs=1)
    (old,), (other,) = workers["web"], workers["jobs"]

    reloading = asyncio.create_task(stage.parts.role("web", "reload").supervisor.reload())
    await stage.origin.spawner("web", 2).ready(1)
    await drained(old)
    old.exit(0)
    await soon(reloading)

    assert stage.origin.asked == ["web", "jobs", "web"]
    assert not stage.parts.workers[other.fork.worker_id].is_leaving
    told = [one for one in stage.heard if isinstance(one, ReloadBegan | Reloaded)]
    assert told == [ReloadBegan(2, "web"), Reloaded(2, "web")]


async def test_each_role_has_its_own_time_to_stop(make_stage: MakeStage) -> None:
    """All are told at the same time: none waits for another."""
    roles = two_roles()
    roles["jobs"].settings["graceful_timeout"] = 500
    stage = make_stage(roles=roles, graceful_timeout=20)
    workers = await stage.start_roles(web=1, jobs=1)
    (server,), (worker,) = workers["web"], workers["jobs"]

    stopping = stage.stop(None)
    orders = [await drained(server), await drained(worker)]
    worker.exit(0)
    server.exit(0)

    assert await soon(stopping) == []
    assert 19.0 < orders[0].timeout <= 20.0
    assert 499.0 < orders[1].timeout <= 500.0


async def test_who_says_how_long_a_stop_may_take_says_it_of_all_roles(
    make_stage: MakeStage,
) -> None:
    """Whatever their settings are."""
    stage = make_stage(roles=two_roles(graceful_timeout=500))
    workers = [one for (one,) in (await stage.start_roles(web=1, jobs=1)).values()]

    stage.stop(7.0)

    assert all([(await drained(worker)).timeout <= 7.0 for worker in workers])


async def test_a_stop_is_told_once(make_stage: MakeStage) -> None:
    """However many roles there are; and to the workers of all of them."""
    stage = make_stage(roles=two_roles())
    workers = [one for (one,) in (await stage.start_roles(web=1, jobs=1)).values()]
    stopping = stage.stop(30.0)
    for worker in workers:
        while not isinstance(await worker.hear(), Unready):
            pass
        await drained(worker)
        worker.exit(0)
    await soon(stopping)

    assert [one for one in stage.heard if isinstance(one, StopBegan)] == [StopBegan()]


async def test_all_roles_wait_together_before_a_stop(make_stage: MakeStage) -> None:
    """One word ends the wait of all of them."""
    stage = make_stage(roles=two_roles(), pre_drain_wait=3600)
    workers = [one for (one,) in (await stage.start_roles(web=1, jobs=1)).values()]
    assert not stage.parts.skip_pre_drain_wait()
    stopping = stage.stop(30.0)
    await turns_until(lambda: all(role.shutdown.in_pre_drain_wait for role in stage.roles))

    assert stage.parts.skip_pre_drain_wait()
    for worker in workers:
        await drained(worker)
        worker.exit(0)
    assert await soon(stopping) == []


@pytest.mark.parametrize("end", ["hurry", "kill"])
async def test_a_stop_is_hurried_in_all_roles(make_stage: MakeStage, end: str) -> None:
    """Whoever had to be cut is named, whatever its role."""
    stage = make_stage(roles=two_roles())
    workers = [one for (one,) in (await stage.start_roles(web=1, jobs=1)).values()]
    names = [str(worker) for worker in stage.parts.workers.values()]
    stopping = stage.stop(3600.0)
    for worker in workers:
        await drained(worker)

    if end == "kill":
        stage.parts.kill(stopping=True)
    else:
        stage.parts.hurry()
        for worker in workers:
            assert (await drained(worker)).timeout == 0.0
            worker.exit(1)

    assert sorted(await soon(stopping)) == sorted(names)


async def test_it_is_empty_when_all_roles_are(make_stage: MakeStage) -> None:
    """Those that end do so by themselves."""
    stage = make_stage(roles=two_roles(restart="never"))
    workers = await stage.start_roles(web=1, jobs=1)
    empty = asyncio.create_task(stage.parts.wait_empty())
    workers["web"][0].exit(0)
    await soon(stage.parts.roles["web"].supervisor.empty.wait())
    await turns()
    assert not empty.done()

    workers["jobs"][0].exit(0)
    await soon(empty)


async def test_it_is_not_empty_when_a_role_was_filled_again(make_stage: MakeStage) -> None:
    """Whoever waits for that goes on waiting."""
    stage = make_stage(roles=two_roles(restart="never"))
    workers = await stage.start_roles(web=1, jobs=1)
    empty = asyncio.create_task(stage.parts.wait_empty())
    workers["web"][0].exit(0)
    await soon(stage.parts.roles["web"].supervisor.empty.wait())
    await turns()
    forking = asyncio.create_task(stage.parts.roles["web"].supervisor.fork({}))
    again = await stage.origin.spawner("web").next()
    await soon(forking)

    workers["jobs"][0].exit(0)
    await soon(stage.parts.roles["jobs"].supervisor.empty.wait())
    await turns()
    assert not empty.done()

    again.exit(0)
    await soon(empty)


async def test_children_of_all_roles_are_known(make_stage: MakeStage) -> None:
    """They are no orphans."""
    stage = make_stage(roles=two_roles())
    workers = [one for (one,) in (await stage.start_roles(web=1, jobs=1)).values()]
    for pid, role in enumerate(("web", "jobs"), 6_000_000):
        stage.origin.spawner(role).zygote_pids = {pid}

    assert all(stage.parts.knows(worker.process.pid) for worker in workers)
    assert not stage.parts.knows(1)
    assert stage.parts.zygote_pids == {6_000_000, 6_000_001}


async def test_the_unrest_of_any_role_is_that_of_all(make_stage: MakeStage) -> None:
    """An upgrade waits for it, and takes the turns of all."""
    stage = make_stage(roles=two_roles())
    await stage.start_roles(web=1, jobs=1)
    await turns_until(lambda: not stage.parts.busy_reason)
    stage.origin.spawner("jobs").is_forking = True

    assert stage.parts.busy_reason == "a worker is being forked"
    assert len(stage.parts.turns) == 2


async def test_who_is_turned_away_anywhere_is_known(make_stage: MakeStage) -> None:
    """An upgrade gives such a client time to read why."""
    limits = {"max_connections": 0, "when_full": "503"}
    stage = make_stage(roles={"web": Role("pkg.module:serve", bind=LOOPBACK, workers=1, **limits)})
    await stage.start_roles(web=1)
    assert not stage.parts.are_answering
    client = await knock(stage.parts.addresses[0])
    await turns_until(lambda: stage.parts.are_answering)
    await leave(client)

    await turns_until(lambda: not stage.parts.are_answering)


async def test_a_role_is_asked_for_by_its_name(make_stage: MakeStage) -> None:
    """Where there is one it need not be said."""
    only, both = make_stage(), make_stage(roles=two_roles())

    assert only.parts.role(None, "fork") is only.parts.role("web", "fork")
    assert both.parts.role("jobs", "fork").name == "jobs"
    with pytest.raises(ConfigError, match=r"^fork: give a role; the roles are web, jobs$"):
        both.parts.role(None, "fork")
    with pytest.raises(ConfigError, match=r"^fork: there is no role 'mail'; the roles are web, jo"):
        both.parts.role("mail", "fork")
    with pytest.raises(ConfigError, match=r"^reload: there is no role 'jobs'; the roles are web$"):
        only.parts.role("jobs", "reload")


def handed_down() -> socket.socket:
    given = socket.create_server(("127.0.0.1", 0))
    given.setblocking(False)
    return given


@pytest.mark.parametrize(
    ("binds", "who"), [((LOOPBACK, "127.0.0.2:0"), "web, admin"), ((None, None), "none")]
)
async def test_sockets_handed_down_to_no_one_role_are_refused(
    make_stage: MakeStage, binds: tuple[str | None, str | None], who: str
) -> None:
    """Nobody says whose they are, and they are closed."""
    given = handed_down()
    roles = {
        name: Role("a:b", **({} if bind is None else {"bind": bind}))
        for name, bind in zip(("web", "admin"), binds, strict=True)
    }
    stage = make_stage(PlayedOrigin(inherited=[given]), roles)

    why = f"LISTEN_FDS: .* it is not clear for which role: {who} li"
    with pytest.raises(ConfigError, match=why):
        await soon(stage.parts.start())

    assert given.fileno() == -1
    assert stage.origin.asked == []


async def test_sockets_handed_down_are_those_of_the_role_that_listens(
    make_stage: MakeStage,
) -> None:
    """In the place of its bind; the others listen nowhere, as they would without."""
    given = handed_down()
    address = given.getsockname()
    stage = make_stage(PlayedOrigin(inherited=[given]), two_roles())

    await stage.start_roles(web=1, jobs=1)

    assert stage.address == address
    assert stage.parts.roles["jobs"].supervisor.addresses == ()


async def test_all_roles_go_on_with_what_another_program_left(make_stage: MakeStage) -> None:
    """Each with its own, in one scoreboard, and ids go on where they were."""
    theirs = Scoreboard()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = os.dup(listening.fileno())
        address = listening.getsockname()
    web = role_without_workers(
        workers="1", listeners=[ListenerState(fd=fd, is_shared=False, asked=LOOPBACK)]
    )
    jobs = role_without_workers(workers="1", bind=[], listeners=[])
    handover_state = msgspec.structs.replace(
        ESTATE,
        scoreboard=os.dup(theirs.fd),
        aggregators=RoleAggregators(0.0, ["web", "jobs"]).state(),
        subscriptions=[],
        roles={"web": web, "jobs": jobs},
    )
    stage = make_stage(PlayedOrigin(handover_state=handover_state), two_roles())

    await soon(stage.parts.start())

    assert stage.heard == [Upgraded()]
    assert stage.address == address
    assert {role.generations.current.number for role in stage.roles} == {2}
    forking = asyncio.create_task(stage.parts.roles["jobs"].supervisor.fork({}))
    (worker,) = await stage.origin.spawner("jobs", 1).ready(1)
    await soon(forking)
    assert (worker.fork.worker_id, worker.fork.role) == (ESTATE.next_worker_id, "jobs")
    theirs.close()

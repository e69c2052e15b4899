"""The parts together: real sockets, and workers that the test plays."""

import asyncio
import gc
import os
import socket
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest

from aiocluster.config.settings import settings_from
from aiocluster.errors import BootError, ConfigError
from aiocluster.events import Event, EventsMissed, StopBegan, Upgraded
from aiocluster.ipc.estate import ListenerState
from aiocluster.ipc.messages import Drain, Unready
from aiocluster.ipc.scoreboard import Scoreboard
from aiocluster.primary.bus import EventBus
from aiocluster.primary.dispatcher import Connection
from aiocluster.primary.interpreter import Interpreter
from aiocluster.primary.origin import Origin
from aiocluster.primary.parts import Parts
from aiocluster.primary.upgrade import Successor
from tests.ipc.test_estate import ESTATE
from tests.support.connections import close_all, open_fds
from tests.support.waiting import soon, turns, turns_until
from tests.support.workers import FakeSpawner, FakeWorker


class PlayedOrigin(Origin):
    """Its zygote is the test's spawner."""

    def __init__(self, **given: Any) -> None:
        super().__init__(Interpreter([]), **given)
        self.spawner = FakeSpawner()
        self.was_asked = False

    def new_spawner(self) -> FakeSpawner:
        self.was_asked = True
        return self.spawner


class Stage:
    """The parts of a cluster of two workers, unless told otherwise."""

    def __init__(self, origin: PlayedOrigin, **settings: Any) -> None:
        given = {"bind": "127.0.0.1:0", "workers": 2, **settings}
        self.origin, self.spawner = origin, origin.spawner
        self.bus = EventBus()
        self.heard: list[Event] = []
        self.bus.on(Event, self.heard.append)
        self.parts = Parts(settings_from(given), origin, self.bus)
        self.stopping: asyncio.Task[list[str]] | None = None

    @property
    def address(self) -> tuple[str, int]:
        (address,) = self.parts.supervisor.addresses
        return address

    async def start(self, count: int = 2) -> list[FakeWorker]:
        starting = asyncio.create_task(self.parts.start())
        workers = await self.spawner.ready(count)
        await soon(starting)
        return workers

    def stop(self, timeout: float = 0.0) -> "asyncio.Task[list[str]]":
        self.stopping = self.stopping or self.parts.stop(timeout)
        return self.stopping

    async def close(self) -> None:
        stopping = self.stop()
        for worker in self.spawner.workers:
            worker.exit(0)
        await soon(stopping)
        self.spawner.let_go()
        for worker in self.spawner.workers:
            worker.row.release()
        await turns()


MakeStage = Callable[..., Stage]


@pytest.fixture
async def make_stage() -> AsyncIterator[MakeStage]:
    stages: list[Stage] = []

    def make(origin: PlayedOrigin | None = None, **settings: Any) -> Stage:
        stages.append(Stage(origin or PlayedOrigin(), **settings))
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

    assert not stage.origin.was_asked


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
    monkeypatch.setattr("aiocluster.primary.parts.available_cpus", lambda: 1)
    stage = make_stage(workers=9)

    await stage.start(9)

    assert len(stage.parts.supervisor.workers) == 9
    assert "9 workers" in caplog.text


async def test_it_goes_on_with_what_another_program_left(make_stage: MakeStage) -> None:
    """Nothing is bound or forked, and clients are let in all the while."""
    theirs, listening = Scoreboard(), socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    crew = msgspec.structs.replace(
        ESTATE.crew, workers=[], slots=[], due=[], unread=[], reload_wanted=False
    )
    estate = msgspec.structs.replace(
        ESTATE,
        bind=["127.0.0.1:0"],
        workers="2",
        listeners=[ListenerState(fd=os.dup(listening.fileno()), is_shared=False)],
        scoreboard=os.dup(theirs.fd),
        crew=crew,
        subscriptions=[],
        waiting=[],
    )
    stage = make_stage(PlayedOrigin(estate=estate))

    await soon(stage.parts.start())

    assert stage.heard == [Upgraded()]
    assert stage.address == address
    assert stage.parts.generations.current.number == 2
    assert stage.spawner.workers == []
    theirs.close()
    listening.close()


async def test_it_can_be_upgraded_once_all_is_started(make_stage: MakeStage) -> None:
    """If there is a program that can take its place."""
    stage = make_stage(PlayedOrigin(successor=cast(Successor, object())))
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

    assert isinstance(await worker.hear(), Unready)
    assert isinstance(await worker.hear(), Drain)
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
    name = str(stage.parts.supervisor.workers[worker.fork.worker_id])
    stopping = stage.stop(30.0)
    while not isinstance(await worker.hear(), Drain):
        pass
    stage.parts.supervisor.kill_all()

    assert await soon(stopping) == [name]


async def test_a_stop_while_they_start_ends_the_start(make_stage: MakeStage) -> None:
    """Whoever waits for it hears so, also when the workers came up at that very moment."""
    stage = make_stage(workers=1)
    starting = asyncio.create_task(stage.parts.start())
    worker = await stage.spawner.next()
    worker.boot()
    handle = stage.parts.supervisor.workers[worker.fork.worker_id]
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
    await soon(stage.parts.supervisor.empty.wait())
    client = await knock(stage.address)

    await soon(stage.stop(30.0))

    assert await soon(client[0].read()) == b""
    assert "1 connections closed unserved" in caplog.text
    await leave(client)


async def test_nothing_is_left_of_them() -> None:
    """No descriptor, no task, and nothing to come that would hold them."""
    before = open_fds()
    stage = Stage(PlayedOrigin())
    await stage.start()
    await stage.close()
    held = weakref.ref(stage.parts)
    del stage
    gc.collect()

    assert held() is None
    assert open_fds() <= before
    assert asyncio.all_tasks() == {asyncio.current_task()}

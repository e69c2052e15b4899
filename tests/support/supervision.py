"""A supervisor among its parts; the spawners are fakes, and the test plays their workers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiocluster.config.roles import RoleSpec
from aiocluster.config.settings import settings_from
from aiocluster.errors import BootError
from aiocluster.events import Event, EventsMissed
from aiocluster.ipc.scoreboard import Scoreboard
from aiocluster.policies.round_robin import RoundRobin
from aiocluster.primary.dispatch.dispatcher import Dispatcher
from aiocluster.primary.event_bus import EventBus
from aiocluster.primary.ingress.ingress import Ingress
from aiocluster.primary.ingress.listener_group import IngressSettings
from aiocluster.primary.ingress.worker_servers import WorkerServers
from aiocluster.primary.processes.generations import Generations
from aiocluster.primary.supervision.restart_policy import RestartConfig, RestartPolicy
from aiocluster.primary.supervisor import Supervisor
from aiocluster.primary.workers.handle import WorkerHandle
from aiocluster.primary.workers.shared import ClusterShared
from aiocluster.primary.workers.snapshots import Reporter
from tests.support.connections import close_all, connections
from tests.support.waiting import soon, turns
from tests.support.workers import FakeSpawner, FakeWorker


class Stage:
    """A supervisor among its parts."""

    def __init__(self, **settings: Any) -> None:
        self.spawners: list[FakeSpawner] = []
        self.boot_error: BootError | None = None  # of the next generation
        self.generations = Generations(self._new_spawner, 60.0)
        self.bus = EventBus()
        self.events = self.bus.events()
        self.scoreboard = Scoreboard()
        self.reporter = Reporter(self.scoreboard, lambda: self.supervisor.workers.values())
        self.cluster_shared = ClusterShared(self.bus, self.reporter)
        self.group: list[str] = []
        self.dispatcher = Dispatcher(
            RoundRobin(), lambda: self.group.append("pause"), lambda: self.group.append("resume")
        )
        own_doors = Ingress(lambda _: RoundRobin(), IngressSettings.of(settings_from({})))
        self.servers = WorkerServers(
            own_doors,
            RoundRobin,
            lambda: (),
            patience=60.0,
            tcp_keepalive=True,
        )
        self.supervisor = Supervisor(
            RoleSpec("web", None, settings_from(settings)),
            self.generations,
            self.dispatcher,
            self.servers,
            self.cluster_shared,
            RestartPolicy(RestartConfig(max_failures=1000.0), lambda: 1.0),
        )

    def _new_spawner(self) -> FakeSpawner:
        spawner = FakeSpawner()
        spawner.boot_error = self.boot_error
        self.spawners.append(spawner)
        return spawner

    @property
    def spawner(self) -> FakeSpawner:
        """The one of the newest generation."""
        return self.spawners[-1]

    async def start(self, count: int) -> list[FakeWorker]:
        """Start `count` workers that come up; return them by slot."""
        starting = asyncio.create_task(self.supervisor.start(count))
        workers = await self.spawner.ready(count)
        await soon(starting)
        return workers

    async def event(self, kind: type[Event]) -> Any:
        """Return the next event of this kind."""
        while not isinstance(event := await soon(anext(self.events)), kind):
            assert not isinstance(event, EventsMissed)
        return event

    def handle(self, worker: FakeWorker) -> WorkerHandle:
        return self.supervisor.workers[worker.fork.worker_id]

    async def dispatch(self, count: int) -> None:
        self.dispatcher.dispatch(connections(count), asyncio.get_running_loop().time())

    async def close(self) -> None:
        stopping = asyncio.create_task(self.supervisor.stop(0.0))
        self.supervisor.kill_all()
        for spawner in self.spawners:
            spawner.let_go()
            for worker in spawner.workers:
                worker.exit(0)
        await soon(stopping)
        self.servers.begin_stop()
        close_all(self.dispatcher.take_waiting())
        self.reporter.close()
        self.bus.close()
        await turns()


MakeStage = Callable[..., Awaitable[Stage]]

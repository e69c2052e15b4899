"""Roles and what they share; the spawners are fakes, and the test plays their workers."""

import asyncio
from typing import Any, Literal

from aiocluster.config.roles import Role, plan_from
from aiocluster.config.run_app import RunAppCall
from aiocluster.errors import BootError
from aiocluster.events import Event
from aiocluster.ipc.scoreboard import Scoreboard
from aiocluster.primary.dispatch.policies import policies
from aiocluster.primary.event_bus import EventBus
from aiocluster.primary.role import RoleRuntime
from aiocluster.primary.workers.handle import WorkerHandle
from aiocluster.primary.workers.shared import ClusterShared
from aiocluster.primary.workers.snapshots import Reporter
from tests.support.connections import close_all
from tests.support.waiting import soon, turns
from tests.support.workers import FakeSpawner, FakeWorker


class Roles:
    """The roles of one cluster."""

    def __init__(self) -> None:
        self.bus, self.heard = EventBus(), list[Event]()
        self.bus.on(Event, self.heard.append)
        self.scoreboard = Scoreboard()
        self.reporter = Reporter(self.scoreboard, lambda: self.workers.values(), ["web", "jobs"])
        self.cluster_shared = ClusterShared(
            self.bus, self.reporter, say=lambda line: self.said.append(line)
        )
        self.all: dict[str, RoleRuntime] = {}
        self.boot_error: BootError | None = None  # of the next generation
        self.call: RunAppCall | None = None  # what its code gives to run_app
        self.is_job = False  # is its app known to be one?
        self.said: list[str] = []
        self._spawners: dict[str, list[FakeSpawner]] = {}

    @property
    def workers(self) -> dict[int, WorkerHandle]:
        """Those of all roles, by id."""
        return {
            worker.id: worker
            for role in self.all.values()
            for worker in role.supervisor.workers.values()
        }

    def add(
        self,
        name: Literal["web", "jobs"] = "web",
        app: object = "pkg.module:name",
        *,
        alone: bool = False,
        **settings: Any,
    ) -> RoleRuntime:
        """Make one more; by default it listens nowhere, unless it is `alone`."""
        if alone:
            spec = plan_from(app, None, settings).roles["web"]
        else:
            spec = plan_from(None, {name: Role(app, **settings)}, {}).roles[name]
        spawners = self._spawners[name] = []

        def new_spawner() -> FakeSpawner:
            spawners.append(FakeSpawner())
            spawners[-1].boot_error = self.boot_error
            spawners[-1].call, spawners[-1].is_job = self.call, self.is_job
            return spawners[-1]

        policy_for = policies(spec.settings.policy)
        self.all[name] = RoleRuntime(spec, policy_for, self.cluster_shared, new_spawner)
        return self.all[name]

    def spawner(self, name: str = "web") -> FakeSpawner:
        """Return the one of the newest generation."""
        return self._spawners[name][-1]

    async def start(self, name: str = "web", count: int = 1) -> list[FakeWorker]:
        """Start a role that has `count` workers, which come up; return them by slot."""
        role = self.all[name]
        if not role.supervisor.addresses:
            role.bind([])
        starting = asyncio.create_task(role.start())
        await turns()
        workers = await self.spawner(name).ready(count)
        await soon(starting)
        return workers

    async def close(self) -> None:
        """Stop all, the hard way."""
        for role in self.all.values():
            stopping = asyncio.create_task(role.supervisor.stop(0.0))
            role.supervisor.kill_all()
            for spawner in self._spawners[role.name]:
                for worker in spawner.workers:
                    worker.exit(0)
                spawner.let_go()
            await soon(stopping)
            role.servers.begin_stop()
            role.ingress.listeners.close()
            close_all(role.ingress.take_waiting())
        self.reporter.close()
        self.bus.close()
        await turns()

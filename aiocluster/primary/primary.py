"""Builds the parts of a cluster, starts them in order, and stops them in reverse."""

import asyncio
import logging
import os
import socket
from collections import ChainMap
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial

from aiocluster.config.roles import Plan
from aiocluster.errors import BootError, ConfigError
from aiocluster.events import StopBegan, Upgraded
from aiocluster.ipc.handover import HandoverState
from aiocluster.metrics.snapshot import Dispatch
from aiocluster.primary.dispatch.policies import policies
from aiocluster.primary.event_bus import EventBus
from aiocluster.primary.handover import Handover
from aiocluster.primary.launch_spec import LaunchSpec
from aiocluster.primary.lifecycle.upgrade import RoleLocks, Upgrader
from aiocluster.primary.processes.cpu_affinity import dealt
from aiocluster.primary.processes.reaper import Reaper
from aiocluster.primary.role import RoleRuntime
from aiocluster.primary.sockets.activation import take_inherited
from aiocluster.primary.sockets.bind import check_overlap
from aiocluster.primary.workers.handle import WorkerHandle
from aiocluster.primary.workers.shared import ClusterShared
from aiocluster.primary.workers.snapshots import Reporter

log = logging.getLogger("aiocluster")


class Primary:
    """The composition root of one cluster: its parts are started once, and stopped once."""

    def __init__(self, plan: Plan, origin: LaunchSpec, bus: EventBus) -> None:
        self._plan = plan
        self._origin = origin
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        # First: an error in a policy class of the user ends the start before anything is opened.
        choosing = {name: policies(spec.settings.policy) for name, spec in plan.roles.items()}
        self.reporter = Reporter(
            origin.scoreboard(), lambda: self.workers.values(), plan.roles, self._dispatch
        )
        self._cluster_shared = cluster_shared = ClusterShared(bus, self.reporter, say=origin.say)
        self.roles = {
            name: RoleRuntime(
                spec, choosing[name], cluster_shared, partial(origin.new_spawner, name)
            )
            for name, spec in plan.roles.items()
        }
        # No id is used twice, so the order of the maps does not matter.
        self.workers: Mapping[int, WorkerHandle] = ChainMap(
            *(role.supervisor.workers for role in self.roles.values())
        )
        self._reaper = Reaper(
            self, own_group=origin.own_group, is_upgrade=origin.handover_state is not None
        )
        self.upgrader: Upgrader | None = None  # set once all is started, if there is a next program
        self._ends = AsyncExitStack()
        self._serving = self._stopping = False
        self._stop_timeouts: dict[str, float] = {}
        self._cut: list[str] = []

    def role(self, name: str | None, asked: str) -> RoleRuntime:
        """Return the role `name`, or the only one; ConfigError if there is none, or several."""
        if name is None and len(self.roles) == 1:
            return next(iter(self.roles.values()))
        if name is None or name not in self.roles:
            given = "give a role" if name is None else f"there is no role {name!r}"
            raise ConfigError(f"{asked}: {given}; the roles are {', '.join(self.roles)}")
        return self.roles[name]

    # ---- all roles, as one

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Return the addresses of all listeners, as (host, port)."""
        return tuple(
            address for role in self.roles.values() for address in role.supervisor.addresses
        )

    @property
    def graceful_timeout(self) -> float:
        """Return the seconds that a stop may take: the longest of all roles."""
        return max(role.settings.graceful_timeout for role in self.roles.values())

    @property
    def zygote_pids(self) -> set[int]:
        """Return the pids of all zygotes there ever were."""
        return set().union(*(role.generations.zygote_pids for role in self.roles.values()))

    def knows(self, pid: int) -> bool:
        """Return True if `pid` is a zygote, or a worker before its WorkerExited."""
        return any(role.generations.knows(pid) for role in self.roles.values())

    @property
    def turns(self) -> list[RoleLocks]:
        """See upgrade.RunningProgram."""
        return [role.supervisor.turns for role in self.roles.values()]

    @property
    def busy_reason(self) -> str:
        """See upgrade.RunningProgram."""
        all_of_it = (role.supervisor.busy_reason for role in self.roles.values())
        return next(filter(None, all_of_it), "")

    @property
    def are_answering(self) -> bool:
        """See upgrade.RunningProgram."""
        return any(role.ingress.are_answering for role in self.roles.values())

    def _dispatch(self) -> dict[str, Dispatch]:
        return {name: role.ingress.dispatch_counts() for name, role in self.roles.items()}

    async def wait_empty(self) -> None:
        """Wait until no role has an open slot."""
        empty = [role.supervisor.empty for role in self.roles.values()]
        # One role may get a slot again while this waits for another.
        while not all(event.is_set() for event in empty):
            for event in empty:
                await event.wait()

    @property
    def exit_code(self) -> int:
        """See Cluster.exit_code."""
        codes = (role.supervisor.pool.exit_code for role in self.roles.values())
        return next(filter(None, codes), 0)

    def end_idle_grace(self) -> None:
        """Close idle connections at once in a stop, also if it is under way. Idempotent."""
        for role in self.roles.values():
            role.supervisor.pool.end_idle_grace()

    def hurry(self) -> None:
        """Let a stop wait for nothing more."""
        for role in self.roles.values():
            role.shutdown.hurry()
            role.supervisor.hurry()

    def skip_pre_drain_wait(self) -> bool:
        """End the `pre_drain_wait` of a stop; return False if no stop is in it."""
        waiting = [role for role in self.roles.values() if role.shutdown.in_pre_drain_wait]
        for role in waiting:
            role.shutdown.skip_pre_drain_wait()
        return bool(waiting)

    def kill(self, *, stopping: bool) -> None:
        """Kill every worker now; if `stopping`, the stop waits for nothing more."""
        for role in self.roles.values():
            if stopping:
                role.shutdown.hurry()
                role.supervisor.mark_stopping()  # a worker that ends before its drain was cut, too
            role.supervisor.kill_all()

    # ---- start

    async def start(self) -> None:
        """Start the parts; before each, register how it is stopped.

        BootError or ConfigError if a part fails; the caller must then stop what was started.
        """
        ends = self._ends
        ends.callback(self._origin.close)
        ends.callback(self.reporter.scoreboard.close)
        ends.callback(self._bus.close)
        ends.callback(self.reporter.close)  # which ends every subscription
        ends.callback(self._reaper.reap_rest)
        ends.push_async_callback(self._of_each, lambda role: role.generations.close())
        ends.callback(self._reaper.close)
        self._reaper.start()
        for role in self.roles.values():
            ends.callback(role.watchdog.close)
            role.watchdog.start()
        ends.push_async_callback(self._stop_workers)
        ends.push_async_callback(self._announce_stop)
        self._pin()
        if self._origin.handover_state is None:
            await self._begin()
        else:
            await self._adopt(self._origin.handover_state)
        for role in self.roles.values():
            role.listen()
        self._serving = True
        self._be_upgradable()

    def _pin(self) -> None:
        """Pin each worker of roles with cpu_affinity to a CPU of its own, if there are enough."""
        cpus = sorted(os.sched_getaffinity(0))
        counts = {name: role.count_of_workers for name, role in self.roles.items()}
        pinned = [name for name, role in self.roles.items() if role.settings.cpu_affinity == "auto"]
        if pinned and sum(counts.values()) > len(cpus):
            count = sum(counts.values())
            log.warning("%d workers on %d CPUs: none is pinned to one", count, len(cpus))
        for name, own in dealt(counts, pinned, cpus).items():
            self.roles[name].supervisor.pin_to(own)

    async def _begin(self) -> None:
        # Bound before the import, so that a taken port is an error at once. Clients can connect
        # last, when workers can serve them.
        inherited = self._take_inherited()
        for role in self.roles.values():
            mine = inherited if role.settings.bind else ()
            # Other roles choose their addresses at their import.
            if mine or not role.may_call_run_app:
                role.bind(mine)
        self._check_overlap()
        try:
            async with asyncio.TaskGroup() as starting:
                for role in self.roles.values():
                    starting.create_task(_start(role, alone=len(self.roles) == 1))
        except BaseExceptionGroup as group:
            error = _first(group)
            if not self._stopping or not isinstance(error, BootError):
                raise error from None
        self._check_overlap()
        if self._stopping:
            raise BootError("the cluster was stopped while it started")

    def _check_overlap(self) -> None:
        check_overlap([sock for role in self.roles.values() for sock in role.sockets])

    def _take_inherited(self) -> list[socket.socket]:
        inherited = self._origin.inherited or take_inherited(os.environ)
        listening = [name for name, role in self.roles.items() if role.settings.bind]
        if inherited and len(listening) != 1:
            for sock in inherited:
                sock.close()
            raise ConfigError(
                "LISTEN_FDS: sockets were handed down, and it is not clear for which role:"
                f" {', '.join(listening) or 'none'} listens"
            )
        return inherited

    async def _adopt(self, handover_state: HandoverState) -> None:
        self._bus.publish(Upgraded())
        await self._handover().adopt(handover_state)

    def _be_upgradable(self) -> None:
        if (successor := self._origin.successor) is None:
            return
        boot_timeout = max(role.settings.boot_timeout for role in self.roles.values())
        self.upgrader = Upgrader(successor, self, self._bus, boot_timeout, self._handover().state)
        self._ends.callback(self.upgrader.close)

    def _handover(self) -> Handover:
        return Handover(self._cluster_shared, self.roles, self.workers)

    async def _of_each(self, step: Callable[[RoleRuntime], Awaitable[object]]) -> None:
        """Run a step for all roles at once; raise an error after every role has ended the step."""
        steps = (step(role) for role in self.roles.values())
        for outcome in await asyncio.gather(*steps, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    # ---- stop

    def stop(self, timeout: float | None) -> "asyncio.Task[list[str]]":
        """Stop all parts, workers within `timeout`; await the result for the names of those cut.

        None: each role within its own `graceful_timeout`. The stop begins at once, awaited or not,
        also during the start.
        """
        self._stopping = True
        self._stop_timeouts = {
            name: role.settings.graceful_timeout if timeout is None else timeout
            for name, role in self.roles.items()
        }
        return self._loop.create_task(self._stop())

    async def _stop(self) -> list[str]:
        await self._ends.aclose()
        return self._cut

    async def _announce_stop(self) -> None:
        if self._serving:
            for role in self.roles.values():
                role.supervisor.announce_stop()
            self._bus.publish(StopBegan())
            # A stop without time waits for no load balancer either.
            if self.addresses and any(self._stop_timeouts.values()):
                seconds = self._plan.settings.pre_drain_wait
                await self._of_each(lambda role: role.shutdown.wait(seconds))
        await self._of_each(self._close_doors)

    async def _close_doors(self, role: RoleRuntime) -> None:
        self._stop_timeouts[role.name] = await role.close_listeners(self._stop_timeouts[role.name])

    async def _stop_workers(self) -> None:
        await self._of_each(self._stop_role)

    async def _stop_role(self, role: RoleRuntime) -> None:
        self._cut += await role.stop(self._stop_timeouts[role.name])


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _start(role: RoleRuntime, *, alone: bool) -> None:
    try:
        await role.start()
    except BootError as error:
        if alone:
            raise
        raise BootError(
            f"role {role.name}: {error.cause}",
            error.traceback,
            error.exit_code,
            is_shown=error.is_shown,
            kind=error.kind,
        ) from error

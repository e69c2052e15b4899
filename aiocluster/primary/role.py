"""The parts of one role: its ingress, its generations, its workers and their supervision."""

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec

from aiocluster.config.cpus import available_cpus
from aiocluster.config.kinds import is_job
from aiocluster.config.roles import ONLY_ROLE, Plan, RoleSpec
from aiocluster.config.run_app import RunAppCall
from aiocluster.config.script import Script
from aiocluster.config.settings import Settings
from aiocluster.config.worker_count import too_many_workers_warning, worker_count
from aiocluster.errors import BootError, ConfigError
from aiocluster.fds import fd_limit, open_fd_count
from aiocluster.ipc.handover import RoleState
from aiocluster.policies.base import Policy
from aiocluster.primary.dispatch.policies import policy_of_server, unserved
from aiocluster.primary.ingress.ingress import Ingress, close_unserved
from aiocluster.primary.ingress.listener_group import IngressSettings
from aiocluster.primary.ingress.worker_servers import WorkerServers
from aiocluster.primary.lifecycle.fd_needs import LOOP_FDS, RoleNeeds, fds_needed, too_few_fds
from aiocluster.primary.lifecycle.shutdown import GracefulShutdown
from aiocluster.primary.processes.generations import Generations, GenerationSpawner
from aiocluster.primary.sockets.listeners import Listeners
from aiocluster.primary.supervision.restart_policy import RestartConfig, RestartPolicy
from aiocluster.primary.supervision.watchdog import Watchdog
from aiocluster.primary.supervisor import Supervisor
from aiocluster.primary.workers.shared import ClusterShared

log = logging.getLogger("aiocluster")

# Seconds of a stop in which clients may still send what their policy needs, whatever
# `peek_timeout` is: a worker gives a new client as many for its request.
_SILENCE_PATIENCE = 1.0

# The settings that a reload cannot change, though the code may give them to run_app.
_ONLY_AT_A_START = ("bind", "backlog", "graceful_timeout", "tcp_keepalive")


class RoleRuntime:
    """The parts of one role. `Primary` starts and stops all roles together, step by step."""

    def __init__(
        self,
        spec: RoleSpec,
        policy_for: Callable[[str], Policy],
        cluster_shared: ClusterShared,
        new_spawner: Callable[[], GenerationSpawner],
    ) -> None:
        """Build the parts; `policy_for` comes from `policies`."""
        self.name = spec.name
        self._spec = spec
        self.settings = settings = self._settings_with(None, is_job=is_job(spec.app))
        self._say = cluster_shared.say
        self._call: RunAppCall | None = None
        self._is_imported = False
        self.generations = Generations(new_spawner, settings.boot_timeout, self._on_imported)
        self.ingress = Ingress(policy_for, IngressSettings.of(settings, cluster_shared.holding))
        cluster_shared.listeners.append(self.ingress.listeners)
        self.servers = WorkerServers(
            self.ingress,
            partial(policy_of_server, settings.policy),
            lambda: self._bound(cluster_shared.listeners),
            patience=settings.boot_timeout,
            tcp_keepalive=settings.tcp_keepalive,
        )
        self.supervisor = Supervisor(
            spec, self.generations, self.ingress, self.servers, cluster_shared, _restarts(settings)
        )
        self.watchdog = Watchdog(
            settings,
            cluster_shared.reporter.scoreboard,
            self.ingress,
            self.supervisor.workers,
            cluster_shared.bus.publish,
        )
        self.shutdown = GracefulShutdown(
            self.ingress.listeners,
            self.ingress,
            self.supervisor.empty,
            self.supervisor.shed_idle_connections,
        )
        self._loop = asyncio.get_running_loop()

    # ---- start

    @property
    def may_call_run_app(self) -> bool:
        """True if the code may call run_app, and so choose the addresses at its import."""
        return isinstance(self._spec.app, str | Script) and "bind" not in self._spec.given

    def _settings_with(self, call: RunAppCall | None, *, is_job: bool) -> Settings:
        settings = self._spec.settings_with(call)
        if is_job and call is None and "bind" not in self._spec.given:
            return msgspec.structs.replace(settings, bind=())  # the default: a job does not need it
        return settings

    def _on_imported(self, call: RunAppCall | None, is_job: bool) -> None:
        """Use what the code gave to run_app: all at the start, later what a reload can change."""
        if self._is_imported:
            self._warn_of_what_a_reload_leaves(self._settings_with(call, is_job=is_job))
            return
        if call is not None:
            self._say(call.words_of(str(self._spec.app), self._spec.given))
        self._use(call, is_job=is_job)
        if not self.sockets:
            self.bind(())

    def _use(self, call: RunAppCall | None, *, is_job: bool) -> None:
        self._call, self._is_imported = call, True
        self.settings = self._settings_with(call, is_job=is_job)
        self.supervisor.give_time(self.settings.graceful_timeout)

    def _warn_of_what_a_reload_leaves(self, new: Settings) -> None:
        for name in _ONLY_AT_A_START:
            before, now = (_as_text(getattr(one, name)) for one in (self.settings, new))
            if before != now:
                self._warn_that_it_stays(name, before, now)

    def bind(self, inherited: Sequence[socket.socket]) -> None:
        """Bind the addresses of the settings, or serve the `inherited` sockets instead."""
        keepalive = self.settings.tcp_keepalive
        if inherited:
            log.info("serving the sockets that were handed down (LISTEN_FDS) in the place of bind")
            self.ingress.inherit(inherited, tcp_keepalive=keepalive)
            if said := self._without_socket():
                raise ConfigError(said)
        else:
            self.ingress.bind(self.settings.bind, tcp_keepalive=keepalive)
        self.supervisor.listen_on(self.ingress)

    def _without_socket(self) -> str:
        """Return an error if a policy is for an address that the role does not have; or ""."""
        here = [listener.asked for listener in self.ingress.listeners.all]
        wrong = unserved(self.settings.policy, here)
        if not wrong:
            return ""
        return f"policy: {', '.join(wrong)} has no listener; the role has {', '.join(here)}"

    @property
    def sockets(self) -> list[socket.socket]:
        """Return the bound sockets."""
        return [listener.sock for listener in self.ingress.listeners.all]

    @property
    def count_of_workers(self) -> int:
        """Return the number of workers at the start."""
        return first_count(self.settings)

    async def start(self) -> None:
        """Import the app and start the workers; BootError if none becomes ready."""
        count = self.count_of_workers
        if (warning := too_many_workers_warning(count, available_cpus())) is not None:
            log.warning("%s", warning)
        if 0 in (self.settings.max_connections, self.settings.max_connections_total):
            log.warning("role %s: max_connections is 0, so every client will wait", self.name)
        await self.generations.begin()
        await self.supervisor.start(count)

    def listen(self) -> None:
        """Let clients connect, now that workers can serve them. A role of jobs does not listen."""
        if self.supervisor.take_connections is False and self.settings.bind:
            if "bind" in self._spec.given or self._call is not None:
                bind = ", ".join(map(str, self.settings.bind))
                log.warning(
                    "role %s runs a job, which takes no connections: the cluster does not listen"
                    " on %s (bind); a job listens with worker.start_server",
                    self.name,
                    bind,
                )
            self.ingress.drop()
            self.supervisor.listen_on(self.ingress)
        self.ingress.listeners.listen(self.settings.backlog)
        self.supervisor.begin_accepting()
        self.ingress.update(self._loop.time())

    def _bound(self, all_listeners: Iterable[Listeners]) -> Iterator[socket.socket]:
        """Iterate over the sockets of all roles that are bound, and do not listen yet."""
        for listeners in all_listeners:
            if listeners is self.ingress.listeners and self.supervisor.take_connections is False:
                continue  # a role of jobs is about to close its sockets
            for listener in listeners.all:
                if not listener.is_listening and listener.sock.fileno() >= 0:
                    yield listener.sock

    # ---- from one program to the next

    def state(self) -> RoleState:
        """Return all that the next program needs; call only while there is no `busy_reason`."""
        self.generations.drop_unready()
        return RoleState(
            **self.asked_for(),
            call=self._call,
            listeners=self.ingress.listeners.state(),
            generations=self.generations.state(),
            crew=self.supervisor.state(),
            waiting=self.ingress.state(),
            dispatch=self.ingress.dispatch_counts(),
            servers=self.servers.state(),
            free_numbers=self.servers.numbers.free,
        )

    async def adopt(self, state: RoleState) -> None:
        """Restore the state of the previous program."""
        self._use(state.call, is_job=not state.bind)
        self._warn_of_what_stays(state)
        self.ingress.adopt(state.listeners, tcp_keepalive=self.settings.tcp_keepalive)
        if state.listeners and (said := self._without_socket()):
            log.warning("%s", said)
        self.supervisor.listen_on(self.ingress)
        self.servers.adopt(state.servers, state.free_numbers)
        self.generations.adopt(state.generations)
        await self.supervisor.adopt(state.crew)
        self.ingress.take_back(state.waiting)
        self.ingress.counted_before = state.dispatch

    def asked_for(self) -> dict[str, Any]:
        """Return the settings that only a start can change."""
        return {
            "bind": [*map(str, self.settings.bind)],
            "workers": str(self.settings.workers),
        }

    def _warn_of_what_stays(self, state: RoleState) -> None:
        for name, value in self.asked_for().items():
            if (before := getattr(state, name)) != value:
                self._warn_that_it_stays(name, before, value)

    def _warn_that_it_stays(self, name: str, before: object, wanted: object) -> None:
        what = name if self.name == ONLY_ROLE else f"{name} of role {self.name}"
        log.warning("%s stays %s: to make it %s takes a stop and a start", what, before, wanted)

    # ---- stop

    async def close_listeners(self, seconds: float) -> float:
        """Stop accepting connections; return how many of the stop's `seconds` are left."""
        began = self._loop.time()
        self.supervisor.mark_stopping()
        self.servers.begin_stop()
        end_inspection = self._loop.call_later(_SILENCE_PATIENCE, self.ingress.end_inspection)
        await self.shutdown.close_listeners(seconds)
        end_inspection.cancel()
        self.ingress.end_inspection()
        return max(seconds - (self._loop.time() - began), 0.0)

    async def stop(self, seconds: float) -> list[str]:
        """Drain the workers within `seconds`; return the names of those that had to be cut.

        These include "the primary" if it still held connections that no worker could take.
        """
        cut = await self.supervisor.stop(seconds)
        self.ingress.close()
        unserved = self.ingress.take_waiting()
        close_unserved(unserved)
        if unserved:
            log.warning("%d connections closed unserved: no worker had room", len(unserved))
        return [*cut, "the primary"] if unserved else cut


def _as_text(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _restarts(settings: Settings) -> RestartPolicy:
    config = RestartConfig(
        max_failures=settings.max_failures,
        half_life=settings.failure_half_life,
        max_delay=settings.max_restart_delay,
    )
    return RestartPolicy(config, random.random)


def first_count(settings: Settings) -> int:
    """Return the number of workers with which a role starts on this machine."""
    count = worker_count(settings.workers, available_cpus())
    if (autoscale := settings.autoscale) is not None:
        count = min(max(count, autoscale.min), autoscale.max)
    return count


def check_fds(plan: Plan, *, loop_fds: int = LOOP_FDS) -> None:
    """Raise BootError if the limit of open files is too low for the cluster to serve."""
    needs = [
        RoleNeeds(first_count(spec.settings), len(spec.settings.bind))
        for spec in plan.roles.values()
    ]
    needed = fds_needed(needs, open_fd_count(), loop_fds)
    if reason := too_few_fds(needs, fd_limit(), needed):
        raise BootError(reason)

"""The parts of a cluster: built together, started in order, stopped in reverse."""

import asyncio
import logging
import os
import random
from contextlib import AsyncExitStack

from aiocluster.config.cpus import available_cpus
from aiocluster.config.settings import Settings, too_many_workers_warning, worker_count
from aiocluster.errors import BootError
from aiocluster.events import Upgraded
from aiocluster.ipc.estate import Estate
from aiocluster.policies.round_robin import RoundRobin
from aiocluster.primary.bus import EventBus
from aiocluster.primary.dispatcher import Connection, Dispatcher
from aiocluster.primary.farewell import Farewell
from aiocluster.primary.generations import Generations
from aiocluster.primary.heritage import Heritage
from aiocluster.primary.inherited import take_inherited
from aiocluster.primary.listeners import Listeners
from aiocluster.primary.origin import Origin
from aiocluster.primary.orphans import Reaper
from aiocluster.primary.reporting import Reporter
from aiocluster.primary.restarts import RestartConfig, RestartPolicy
from aiocluster.primary.supervisor import Supervisor
from aiocluster.primary.upgrade import Upgrader
from aiocluster.primary.watchdog import Watchdog

log = logging.getLogger("aiocluster")

_POLICIES = {"round_robin": RoundRobin}


class Parts:
    """Those of one cluster: started once, and stopped once."""

    def __init__(self, settings: Settings, origin: Origin, bus: EventBus) -> None:
        self._settings = settings
        self._origin = origin
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        scoreboard = origin.scoreboard()
        self.reporter = Reporter(scoreboard, lambda: self.supervisor.workers.values())
        self.generations = Generations(origin.new_spawner, settings.boot_timeout)
        self._reaper = Reaper(
            self.generations,
            own_group=origin.interpreter.own_group,
            is_heir=origin.estate is not None,
        )
        self._listeners = listeners = Listeners(self._on_connections)
        self._dispatcher = Dispatcher(
            _POLICIES[settings.policy](), listeners.pause, listeners.resume
        )
        self.supervisor = Supervisor(
            settings, self.generations, self._dispatcher, bus, self.reporter, _restarts(settings)
        )
        self._watchdog = Watchdog(
            settings, scoreboard, self._dispatcher, self.supervisor.workers, bus.publish
        )
        self.farewell = Farewell(listeners, self._dispatcher, self.supervisor.empty)
        self.upgrader: Upgrader | None = None  # once all is started, if there is a successor
        self._ends = AsyncExitStack()
        self._stopping = False
        self._stop_timeout = 0.0
        self._cut: list[str] = []

    async def start(self) -> None:
        """Start them; each says, before the next one starts, how it will be stopped.

        BootError or ConfigError when that fails; what was started is then still to be stopped.
        """
        ends = self._ends
        ends.callback(self._origin.close)
        ends.callback(self.reporter.scoreboard.close)
        ends.callback(self._bus.close)
        ends.callback(self.reporter.close)  # which ends every subscription
        ends.callback(self._reaper.reap_rest)
        ends.push_async_callback(self.generations.close)
        ends.callback(self._reaper.close)
        self._reaper.start()
        ends.callback(self._watchdog.close)
        self._watchdog.start()
        ends.push_async_callback(self._stop_workers)
        ends.push_async_callback(self._say_farewell)
        if self._origin.estate is None:
            await self._begin()
        else:
            await self._adopt(self._origin.estate)
        self._listeners.listen(self._settings.backlog)
        self._dispatcher.update(self._loop.time())
        self._be_upgradable()

    def stop(self, timeout: float) -> "asyncio.Task[list[str]]":
        """Stop them, the workers within `timeout`; await the result for those that were cut.

        Takes effect at once, awaited or not, also while they are still being started.
        """
        self._stopping = True
        self._stop_timeout = timeout
        return self._loop.create_task(self._stop())

    async def _stop(self) -> list[str]:
        await self._ends.aclose()
        return self._cut

    # ---- start

    async def _begin(self) -> None:
        # Bound before anything is imported: a port that is taken is told at once. Clients
        # are let in last, when there are workers to serve them.
        self._bind()
        self.supervisor.listen_on(self._listeners)
        await self.generations.begin()
        await self._start_workers()

    def _bind(self) -> None:
        keepalive = self._settings.tcp_keepalive
        if sockets := self._origin.inherited or take_inherited(os.environ):
            log.info("serving the sockets that were handed down (LISTEN_FDS) in the place of bind")
            self._listeners.inherit(sockets, tcp_keepalive=keepalive)
        else:
            self._listeners.bind(self._settings.bind, tcp_keepalive=keepalive)

    async def _start_workers(self) -> None:
        try:
            await self.supervisor.start(_count_of_workers(self._settings))
        except BootError:
            if not self._stopping:
                raise
        if self._stopping:
            raise BootError("the cluster was stopped while it started")

    async def _adopt(self, estate: Estate) -> None:
        self._bus.publish(Upgraded())
        await self._heritage().adopt(estate, self._loop.time())

    def _be_upgradable(self) -> None:
        if (successor := self._origin.successor) is None:
            return
        self.upgrader = Upgrader(
            successor,
            self.supervisor,
            self._bus,
            self._settings.boot_timeout,
            self._heritage().state,
        )
        self._ends.callback(self.upgrader.close)

    def _heritage(self) -> Heritage:
        return Heritage(
            self._settings,
            self._listeners,
            self._dispatcher,
            self.reporter,
            self.generations,
            self.supervisor,
        )

    # ---- between

    def _on_connections(self, connections: list[Connection]) -> None:
        self._dispatcher.dispatch(connections, self._loop.time())

    # ---- stop

    async def _say_farewell(self) -> None:
        if self._listeners.are_listening:
            self.supervisor.announce_stop()
            # Who gives a stop no time does not want to wait for anybody.
            await self.farewell.wait(self._settings.pre_drain_wait if self._stop_timeout else 0.0)
        began = self._loop.time()
        await self.farewell.close_doors(self._stop_timeout)
        self._stop_timeout = max(self._stop_timeout - (self._loop.time() - began), 0.0)

    async def _stop_workers(self) -> None:
        self._cut = await self.supervisor.stop(self._stop_timeout)
        unserved = self._dispatcher.take_waiting()
        for connection in unserved:
            os.close(connection.fd)
        if unserved:
            log.warning("%d connections closed unserved: no worker had room", len(unserved))


def _count_of_workers(settings: Settings) -> int:
    cpus = available_cpus()
    count = worker_count(settings.workers, cpus)
    if (warning := too_many_workers_warning(count, cpus)) is not None:
        log.warning("%s", warning)
    return count


def _restarts(settings: Settings) -> RestartPolicy:
    config = RestartConfig(
        max_failures=settings.max_failures,
        half_life=settings.failure_half_life,
        max_delay=settings.max_restart_delay,
    )
    return RestartPolicy(config, random.random)

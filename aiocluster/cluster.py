"""Cluster: builds the parts, starts them in order, stops them in reverse."""

import asyncio
import logging
import os
import random
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

from aiocluster.config.cpus import available_cpus
from aiocluster.config.environment import checked_env
from aiocluster.config.settings import (
    Settings,
    checked_seconds,
    settings_from,
    too_many_workers_warning,
    worker_count,
)
from aiocluster.errors import BootError, ConfigError, WorkerGone
from aiocluster.events import Event, EventsMissed, Upgraded
from aiocluster.ipc.estate import Estate
from aiocluster.ipc.scoreboard import Scoreboard
from aiocluster.metrics.snapshot import Snapshot
from aiocluster.policies.round_robin import RoundRobin
from aiocluster.primary.bus import EventBus
from aiocluster.primary.dispatcher import Connection, Dispatcher
from aiocluster.primary.farewell import Farewell
from aiocluster.primary.fd_limit import raise_fd_limit
from aiocluster.primary.generations import Generations
from aiocluster.primary.handle import WorkerHandle
from aiocluster.primary.heritage import Heritage
from aiocluster.primary.inherited import take_inherited
from aiocluster.primary.interpreter import unpickling
from aiocluster.primary.listeners import Listeners
from aiocluster.primary.origin import Origin
from aiocluster.primary.orphans import Reaper, become_subreaper
from aiocluster.primary.reporting import Reporter
from aiocluster.primary.restarts import RestartConfig, RestartPolicy
from aiocluster.primary.supervisor import Supervisor
from aiocluster.primary.upgrade import Successor, Upgrader
from aiocluster.primary.watchdog import Watchdog
from aiocluster.worker.context import is_primary

log = logging.getLogger("aiocluster")

E = TypeVar("E", bound=Event)

_POLICIES = {"round_robin": RoundRobin}


class Cluster:
    """Workers that serve one aiohttp app behind one address, for a program with its own loop.

        async with Cluster(make_app, workers=4, bind="127.0.0.1:0") as cluster:
            print(cluster.addresses)

    `app` is a factory of an Application, sync or async, that the workers can import (a
    function at the top level of a module), or an import string "pkg.module:name". Settings
    are those of `aiocluster.run`. Raises ConfigError when something given makes no sense.
    """

    def __init__(self, app: object, **settings: Any) -> None:
        refuse_in_child("a Cluster was made")
        self.settings = settings_from(settings)
        self._begin_with(Origin(unpickling(app, self.settings)))

    @classmethod
    def of_program(cls, settings: Settings, origin: Origin) -> Self:
        """Make the cluster of `run`."""
        cluster = cls.__new__(cls)
        cluster.settings = settings
        cluster._begin_with(origin)
        return cluster

    def _begin_with(self, origin: Origin) -> None:
        self._origin = origin
        self._parts = AsyncExitStack()
        self._parts.callback(origin.close)
        weakref.finalize(self, origin.close)  # of one that is neither started nor stopped
        self._stop_timeout = self.settings.graceful_timeout
        self._stopped: asyncio.Task[None] | None = None
        self._cut: list[str] = []
        # There from the beginning, so that nobody need miss the first event.
        self._bus = EventBus()
        if self.is_heir:
            self._bus.hold()
        self._supervisor: Supervisor | None = None
        self._reporter: Reporter | None = None
        self._upgrader: Upgrader | None = None

    # ---- what the user asks

    @property
    def workers(self) -> Mapping[int, WorkerHandle]:
        """The workers that live, by id. Ids start at 1 and are never used again."""
        return MappingProxyType(self._supervisor.workers if self._supervisor else {})

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where the cluster listens: (host, port) each, with the real port."""
        return self._supervisor.addresses if self._supervisor else ()

    def subscribe(self, interval: float = 1.0) -> AsyncGenerator[Snapshot, None]:
        """Iterate over snapshots of the metrics, one every `interval` seconds.

        A subscriber that is too slow gets the newest, and in `missed` how many it did not
        see; it holds nothing up. Raises ConfigError for an interval that is none.
        """
        if self._reporter is None:
            raise ConfigError("subscribe: the cluster has not started yet")
        return self._reporter.subscribe(interval)

    def events(self) -> AsyncIterator[Event | EventsMissed]:
        """Iterate over the events from this call on; ends when the cluster has stopped."""
        return self._bus.events()

    def on(self, kind: type[E], callback: Callable[[E], Any]) -> Callable[[], None]:
        """Call `callback(event)` for each event of `kind`; return what takes it off again.

        A coroutine function runs as a task. What it raises is logged and hurts nobody.
        """
        return self._bus.on(kind, callback)

    async def fork(self, env: Mapping[str, str] | None = None) -> WorkerHandle:
        """Add a worker with `env` in its environment; return it as soon as it is forked.

        It is replaced like the others when it dies, and the replacement has the same `env`.
        """
        if self._supervisor is None:
            raise ConfigError("fork: the cluster has not started yet")
        return await self._supervisor.fork(checked_env(env or {}))

    async def reload(self) -> None:
        """Replace every worker by one that runs the code as it is now; lose no request.

        The app is imported anew; each old worker finishes what it has once a new one is ready
        in its slot. Returns when the old ones are gone. Asked for during a reload, one more
        follows it. Raises BootError, with the cause, when the new code does not come up, and
        then the old serves as before; ClusterStopping when a stop comes between.
        """
        if self._supervisor is None:
            raise ConfigError("reload: the cluster has not started yet")
        await self._supervisor.reload()

    async def upgrade(self) -> None:
        """Put this program, as it is now on the disk, in the place of this one; lose nothing.

        Only where `aiocluster.run` is the program. It is tried out first, then executed in
        this process: same pid, sockets, workers, messages and totals; new Python, aiocluster,
        `on_start` and settings, but for `bind` and `workers`. Workers get new code and settings
        by a `reload`. Never returns when it works: tasks of this program end where they are.
        Raises BootError, with the cause, when it does not, and then nothing has changed;
        ClusterStopping when a stop comes between.
        """
        if self._origin.successor is None:
            raise ConfigError(
                "upgrade: this Cluster is part of a program of yours, which cannot be replaced"
                " without its consent; start the cluster with aiocluster.run"
            )
        if self._upgrader is None:
            raise ConfigError("upgrade: the cluster has not started yet")
        await self._upgrader.upgrade()

    async def broadcast(self, message: Any) -> int:
        """Send `message` to every worker; return how many took it.

        Waits for the slowest. Raises MessageError when it cannot be sent.
        """
        workers = [*self.workers.values()]
        results = await asyncio.gather(*(_sent(worker, message) for worker in workers))
        return sum(results)

    async def stop(self, timeout: float | None = None) -> list[str]:  # noqa: ASYNC109
        """Stop: no new connections, finish what runs, at most `timeout` seconds for that.

        The default is `graceful_timeout`. Return the workers that had to be cut. Called
        again, it waits for the same end.
        """
        if self._stopped is None:
            seconds = self.settings.graceful_timeout if timeout is None else timeout
            self._stop_timeout = checked_seconds("stop: the timeout", seconds)
            self._stopped = asyncio.ensure_future(self._parts.aclose())
        await asyncio.shield(self._stopped)
        return self._cut

    def hurry(self) -> None:
        """Let a `stop` that is under way wait for nothing more: what still runs is cut."""
        if self._supervisor is not None and self._stopped is not None:
            self._farewell.hurry()
            self._supervisor.hurry()

    def end_wait(self) -> bool:
        """Let a `stop` that is in its `pre_drain_wait` go on; False when there is none."""
        if self._supervisor is None or not self._farewell.in_pre_drain_wait:
            return False
        self._farewell.end_wait()
        return True

    async def wait_empty(self) -> None:
        """Wait until no worker is left, nor one to come: each has ended and is not replaced."""
        if self._supervisor is None:
            raise ConfigError("wait_empty: the cluster has not started yet")
        await self._supervisor.empty.wait()

    def kill(self) -> None:
        """Kill every worker now; a `stop` that waits for them ends at once."""
        if self._supervisor is not None:
            if self._stopped is not None:
                self._farewell.hurry()
            self._supervisor.kill_all()

    def abandon(self) -> None:
        """Kill all children, from any thread, for a program that ends without its loop."""
        if self._supervisor is not None:
            self._generations.kill()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    # ---- start and stop

    async def start(self) -> None:
        """Return once the workers serve; BootError or ConfigError, and nothing left, if not."""
        if self._reporter is not None or self._stopped is not None:
            raise ConfigError("this cluster was started or stopped before; make a new one")
        try:
            await self._start()
        except BaseException:
            # Workers that were another program's know by themselves what to do when we end.
            if not self.is_heir:
                await self.stop(0.0)
            raise

    @property
    def is_heir(self) -> bool:
        """True when it goes on with the workers of the program that was here before."""
        return self._origin.estate is not None

    def announce(self) -> None:
        """Whoever wants to hear of an upgrade listens: let the events out. Idempotent."""
        self._bus.release()

    async def _start(self) -> None:
        """Build and start the parts. Each says, as it starts, how it will be stopped."""
        self._loop = asyncio.get_running_loop()
        raise_fd_limit()
        become_subreaper()
        settings, parts = self.settings, self._parts
        scoreboard = self._origin.scoreboard()
        parts.callback(scoreboard.close)
        parts.callback(self._bus.close)
        self._reporter = reporter = Reporter(scoreboard, lambda: self.workers.values())
        parts.callback(reporter.close)  # which ends every subscription
        self._generations = generations = Generations(
            self._origin.new_spawner, settings.boot_timeout
        )
        own_group = self._origin.interpreter.own_group
        reaper = Reaper(generations, own_group=own_group, is_heir=self.is_heir)
        parts.callback(reaper.reap_rest)
        parts.push_async_callback(generations.close)
        parts.callback(reaper.close)
        reaper.start()
        self._listeners = listeners = Listeners(self._on_connections)
        self._dispatcher = Dispatcher(
            _POLICIES[settings.policy](), listeners.pause, listeners.resume
        )
        self._supervisor = supervisor = Supervisor(
            settings, generations, self._dispatcher, self._bus, reporter, _restarts(settings)
        )
        self._watch(supervisor, scoreboard)
        parts.push_async_callback(self._stop_workers, supervisor)
        self._farewell = Farewell(listeners, self._dispatcher, supervisor.empty)
        parts.push_async_callback(self._say_farewell, supervisor)
        heritage = Heritage(
            settings, listeners, self._dispatcher, reporter, generations, supervisor
        )
        await (
            self._begin(supervisor)
            if self._origin.estate is None
            else self._adopt(heritage, self._origin.estate)
        )
        listeners.listen(settings.backlog)
        self._dispatcher.update(self._loop.time())
        if self._origin.successor is not None:
            self._be_upgradable(self._origin.successor, heritage)

    async def _begin(self, supervisor: Supervisor) -> None:
        # Bound before anything is imported: a port that is taken is told at once. Clients
        # are let in last, when there are workers to serve them.
        self._open(self._listeners)
        supervisor.listen_on(self._listeners)
        await self._generations.begin()
        await self._start_workers(supervisor)

    async def _adopt(self, heritage: Heritage, estate: Estate) -> None:
        self._bus.publish(Upgraded())
        await heritage.adopt(estate, self._loop.time())

    def _be_upgradable(self, successor: Successor, heritage: Heritage) -> None:
        self._upgrader = Upgrader(
            successor, heritage.supervisor, self._bus, self.settings.boot_timeout, heritage.state
        )
        self._parts.callback(self._upgrader.close)

    def _watch(self, supervisor: Supervisor, scoreboard: Scoreboard) -> None:
        watchdog = Watchdog(
            self.settings, scoreboard, self._dispatcher, supervisor.workers, self._bus.publish
        )
        self._parts.callback(watchdog.close)
        watchdog.start()

    def _open(self, listeners: Listeners) -> None:
        keepalive = self.settings.tcp_keepalive
        if sockets := self._origin.inherited or take_inherited(os.environ):
            log.info("serving the sockets that were handed down (LISTEN_FDS) in the place of bind")
            listeners.inherit(sockets, tcp_keepalive=keepalive)
        else:
            listeners.bind(self.settings.bind, tcp_keepalive=keepalive)

    async def _start_workers(self, supervisor: Supervisor) -> None:
        try:
            await supervisor.start(self._worker_count())
        except BootError:
            if self._stopped is None:
                raise
        if self._stopped is not None:
            raise BootError("the cluster was stopped while it started")

    def _worker_count(self) -> int:
        cpus = available_cpus()
        count = worker_count(self.settings.workers, cpus)
        if (warning := too_many_workers_warning(count, cpus)) is not None:
            log.warning("%s", warning)
        return count

    def _on_connections(self, connections: list[Connection]) -> None:
        self._dispatcher.dispatch(connections, self._loop.time())

    async def _say_farewell(self, supervisor: Supervisor) -> None:
        if self._listeners.are_listening:
            supervisor.announce_stop()
            # Who gives a stop no time does not want to wait for anybody.
            await self._farewell.wait(self.settings.pre_drain_wait if self._stop_timeout else 0.0)
        began = self._loop.time()
        await self._farewell.close_doors(self._stop_timeout)
        self._stop_timeout = max(self._stop_timeout - (self._loop.time() - began), 0.0)

    async def _stop_workers(self, supervisor: Supervisor) -> None:
        self._cut = await supervisor.stop(self._stop_timeout)
        unserved = self._dispatcher.take_waiting()
        for connection in unserved:
            os.close(connection.fd)
        if unserved:
            log.warning("%d connections closed unserved: no worker had room", len(unserved))


def _restarts(settings: Settings) -> RestartPolicy:
    config = RestartConfig(
        max_failures=settings.max_failures,
        half_life=settings.failure_half_life,
        max_delay=settings.max_restart_delay,
    )
    return RestartPolicy(config, random.random)


async def _sent(worker: WorkerHandle, message: Any) -> bool:
    try:
        await worker.send(message)
    except WorkerGone:
        return False
    return True


def refuse_in_child(what: str) -> None:
    """Raise ConfigError when this is not the program itself but a child that imports it."""
    if is_primary():
        return
    raise ConfigError(
        f"{what} while a child process imported the program: put what starts the cluster"
        ' under `if __name__ == "__main__":`, so that importing the module does not start another'
    )

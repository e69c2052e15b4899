"""Cluster: what a program can ask of its workers and of the primary that supervises them."""

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

from aiocluster.config.elsewhere import on_linux, system_name
from aiocluster.config.environment import checked_env
from aiocluster.config.roles import Plan, Role, plan_from
from aiocluster.config.settings import Settings, checked_seconds
from aiocluster.errors import BootError, ConfigError, WorkerGone
from aiocluster.events import Event, EventsMissed
from aiocluster.fds import raise_fd_limit
from aiocluster.launch.interpreter import InterpreterSpec
from aiocluster.launch.pickled_app import unpickling
from aiocluster.launch.subreaper import become_subreaper
from aiocluster.log_limit import limit_own_lines
from aiocluster.metrics.snapshot import Snapshot
from aiocluster.primary.event_bus import EventBus
from aiocluster.primary.launch_spec import LaunchSpec
from aiocluster.primary.primary import Primary
from aiocluster.primary.role import check_fds
from aiocluster.primary.workers.handle import WorkerHandle
from aiocluster.shortage import is_shortage, shortage
from aiocluster.worker.api.context import is_primary
from aiocluster.zygote.run_app import note_cluster

E = TypeVar("E", bound=Event)


class Cluster:
    """A set of workers that serve an app behind one address, for a program with its own loop.

        async with Cluster(make_app, workers=4, bind="127.0.0.1:0") as cluster:
            print(cluster.addresses)

    `app` is a factory of an Application, sync or async, that the workers can import (a
    function at the top level of a module), or an import string "pkg.module:name". Settings
    are those of `aiocluster.run`. Raises ConfigError if an argument makes no sense.
    """

    def __init__(
        self, app: object = None, *, roles: Mapping[str, Role] | None = None, **settings: Any
    ) -> None:
        note_cluster()
        refuse_in_child("a Cluster was made")
        limit_own_lines()
        plan = plan_from(app, roles, settings)
        self._begin_with(plan, LaunchSpec(_interpreters(plan) if on_linux() else {}))

    @classmethod
    def of_program(cls, plan: Plan, origin: LaunchSpec) -> Self:
        """Make the cluster of `run`."""
        cluster = cls.__new__(cls)
        cluster._begin_with(plan, origin)
        return cluster

    def _begin_with(self, plan: Plan, origin: LaunchSpec) -> None:
        self.plan = plan
        self._origin = origin
        weakref.finalize(self, origin.close)  # of one that is neither started nor stopped
        # Made at once, so that a subscriber can get the first event.
        self._bus = EventBus()
        if self.is_upgrade:
            self._bus.hold()
        self._primary: Primary | None = None  # until it is started
        self._stopped: asyncio.Future[list[str]] | None = None

    # ---- what the user asks

    @property
    def workers(self) -> Mapping[int, WorkerHandle]:
        """The workers that live, by id. Ids start at 1 and are never used again."""
        return MappingProxyType(self._primary.workers if self._primary else {})

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where the cluster listens: (host, port) each, with the real port."""
        return self._primary.addresses if self._primary else ()

    @property
    def addresses_of(self) -> Mapping[str, tuple[tuple[str, int], ...]]:
        """The same of each role, by its name."""
        roles = self._primary.roles if self._primary else {}
        return {name: role.supervisor.addresses for name, role in roles.items()}

    def subscribe(self, interval: float = 1.0) -> AsyncGenerator[Snapshot, None]:
        """Iterate over snapshots of the metrics, one every `interval` seconds.

        A subscriber that is too slow gets the newest, and in `missed` how many it did not
        see; it holds nothing up. Raises ConfigError for an interval that is none.
        """
        return self._started("subscribe").reporter.subscribe(interval)

    def events(self) -> AsyncIterator[Event | EventsMissed]:
        """Iterate over the events from this call on; ends when the cluster has stopped."""
        return self._bus.events()

    def on(self, kind: type[E], callback: Callable[[E], Any]) -> Callable[[], None]:
        """Call `callback(event)` for each event of `kind`; return a function that ends that.

        A coroutine function runs as a task. An exception of the callback is logged.
        """
        return self._bus.on(kind, callback)

    @property
    def settings(self) -> Settings:
        """What was given to the cluster, and holds for each role that has nothing of its own."""
        return self.plan.settings

    @property
    def graceful_timeout(self) -> float:
        """Seconds that the role which takes longest may take to stop."""
        if self._primary is None:
            return self.plan.graceful_timeout
        return self._primary.graceful_timeout

    async def fork(
        self, env: Mapping[str, str] | None = None, *, role: str | None = None
    ) -> WorkerHandle:
        """Add a worker with `env` in its environment; return it as soon as it is forked.

        It is replaced like the others when it dies, and the replacement has the same `env`.
        Where there are several roles, `role` says of which it is to be.
        """
        supervisor = self._started("fork").role(role, "fork").supervisor
        return await supervisor.fork(checked_env(env or {}))

    async def scale(self, workers: int | str, *, role: str | None = None) -> int:
        """Have so many workers, or one "+1" more or "-1" fewer; return how many there are now.

        Fewer: those in the highest slots drain, and their idle connections move. More: returns
        once they are ready. Where there are several roles, `role` says of which. Raises
        BootError, and nothing has changed, when a new one does not come up; ConfigError for a
        count that makes no sense, or is beyond the bounds of `autoscale`; ClusterStopping when a
        stop comes between.
        """
        parts = self._started("scale")
        return await parts.role(role, "scale").supervisor.scale(workers, "asked for")

    async def reload(self, role: str | None = None) -> None:
        """Replace every worker by one that runs the code as it is now; lose no request.

        Or those of one role. The app is imported anew; each old worker finishes what it has once
        a new one is ready in its slot. Returns when the old ones are gone. Asked for during a
        reload, one more follows it. Raises BootError, with the cause, when the new code does not
        come up, and then the old serves as before; ClusterStopping when a stop comes between.
        Roles are reloaded one after the other; those after one that fails stay as they are.
        """
        parts = self._started("reload")
        for one in [parts.role(role, "reload")] if role is not None else parts.roles.values():
            await one.supervisor.reload()

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
        if (upgrader := self._started("upgrade").upgrader) is None:
            raise _not_started("upgrade")
        await upgrader.upgrade()

    async def broadcast(self, message: Any) -> int:
        """Send `message` to every worker; return how many took it.

        Waits for the slowest. Raises MessageError when it cannot be sent.
        """
        workers = [*self.workers.values()]
        results = await asyncio.gather(*(_sent(worker, message) for worker in workers))
        return sum(results)

    async def stop(self, timeout: float | None = None) -> list[str]:  # noqa: ASYNC109
        """Stop accepting connections, finish what runs within `timeout` seconds, and end.

        The default is `graceful_timeout`. Return the names of the workers that had to be cut, and
        "the primary" if it still held connections that no worker could take. A second call waits
        for the same end.
        """
        if self._stopped is None:
            if timeout is not None:
                timeout = checked_seconds("stop: the timeout", timeout)
            self._stopped = self._begin_to_stop(timeout)
        return await asyncio.shield(self._stopped)

    def stop_now(self) -> None:
        """End a `stop` that is under way at once: what still runs is cut."""
        if self._primary is not None and self._stopped is not None:
            self._primary.hurry()

    def skip_pre_drain_wait(self) -> bool:
        """End the `pre_drain_wait` of a `stop`. Return False if there is none."""
        return self._primary is not None and self._primary.skip_pre_drain_wait()

    def end_idle_grace(self) -> None:
        """Close idle connections at once in every `stop`, also in one that is under way."""
        if self._primary is not None:
            self._primary.end_idle_grace()

    async def wait_empty(self) -> None:
        """Wait until each worker has ended and none is to be replaced."""
        await self._started("wait_empty").wait_empty()

    @property
    def all_finished(self) -> bool:
        """True when no worker is left nor to come because each one's job has returned."""
        supervisors = [role.supervisor for role in self._started("all_finished").roles.values()]
        return all(one.empty.is_set() and one.all_finished for one in supervisors)

    @property
    def exit_code(self) -> int:
        """The code with which the app's own code has ended a worker in the stop (`sys.exit`), or 0.

        Codes 0 and 1 do not count: 1 means that something was cut, and `stop` returns that.
        """
        return self._primary.exit_code if self._primary else 0

    def kill(self) -> None:
        """Kill every worker now; a `stop` that waits for them ends at once."""
        if self._primary is not None:
            self._primary.kill(stopping=self._stopped is not None)

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
        if self._primary is not None or self._stopped is not None:
            raise ConfigError("this cluster was started or stopped before; make a new one")
        if not on_linux():
            raise ConfigError(
                f"a Cluster needs Linux, and this is {system_name()}; aiocluster.run(app, ...)"
                " serves the app here too, in one process"
            )
        try:
            raise_fd_limit()
            if self._origin.successor is None:  # else the program has done so before its forks
                check_fds(self.plan, loop_fds=0)
            become_subreaper()
            self._primary = Primary(self.plan, self._origin, self._bus)
            await self._primary.start()
        except BaseException as error:
            # Workers that were another program's know by themselves what to do when we end.
            if not self.is_upgrade:
                await self.stop(0.0)
            if isinstance(error, OSError) and is_shortage(error):
                raise BootError(shortage(error, "what the start needs")) from error
            raise

    @property
    def is_upgrade(self) -> bool:
        """True if the cluster goes on with the workers of the program before an upgrade."""
        return self._origin.handover_state is not None

    def announce(self) -> None:
        """Publish the events held since an upgrade: the subscribers are there. Idempotent."""
        self._bus.release()

    def _started(self, asked: str) -> Primary:
        if self._primary is None:
            raise _not_started(asked)
        return self._primary

    def _begin_to_stop(self, timeout: float | None) -> asyncio.Future[list[str]]:
        if self._primary is not None:
            return self._primary.stop(timeout)
        self._origin.close()
        self._bus.close()
        none_cut: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        none_cut.set_result([])
        return none_cut


def _interpreters(plan: Plan) -> dict[str, InterpreterSpec]:
    with contextlib.ExitStack() as unused:
        interpreters: dict[str, InterpreterSpec] = {}
        for name, spec in plan.roles.items():
            interpreters[name] = unpickling(spec)
            unused.callback(interpreters[name].close)
        unused.pop_all()
    return interpreters


def _not_started(asked: str) -> ConfigError:
    return ConfigError(f"{asked}: the cluster has not started yet")


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

"""run() on a system that is not Linux: the cluster is this one process.

Each role has one worker here, which serves by aiohttp's own runner. `on_start` gets a cluster as
on Linux, and can receive and send messages; methods that need further processes raise ConfigError.
The start, the stop, the signals and the exit codes are those of runner.py.
"""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, cast

from aiocluster.children.app import enter_folder
from aiocluster.cluster import Cluster
from aiocluster.config.elsewhere import one_process_warning, system_name
from aiocluster.config.kinds import kind_of
from aiocluster.config.roles import Plan, RoleSpec
from aiocluster.config.target import import_target
from aiocluster.errors import BootError, ChannelClosed, ClusterError, ConfigError, WorkerGone
from aiocluster.events import StopBegan, WorkerExited, WorkerMessage
from aiocluster.ipc.channel import Channel
from aiocluster.ipc.loopback import connect
from aiocluster.ipc.messages import DrainRequest, FromWorker, Message, UserMessage
from aiocluster.metrics.feed import check_interval
from aiocluster.metrics.snapshot import Snapshot
from aiocluster.primary.launch_spec import LaunchSpec
from aiocluster.primary.workers.handle import WorkerHandle
from aiocluster.primary.workers.phases import Phase
from aiocluster.program.output import discard_unwritable_output
from aiocluster.program.runner import EXIT_CUT, EXIT_OK, OnStart, ProgramRunner, boot_failed, close
from aiocluster.program.stop_watchdog import StopWatchdog
from aiocluster.worker.api.context import enter, share_process
from aiocluster.worker.app_exit import describe_start, exit_code
from aiocluster.worker.http.runner import setting_notes
from aiocluster.worker.single_process import LoneWorker, set_environment

log = logging.getLogger("aiocluster")

# Seconds for each step in the end of a worker that must end at once.
_CUT_GRACE = 0.25

# The log's words for the work that was cut.
_CUT = "what it was doing"


def run_in_one_process(
    plan: Plan, on_start: OnStart | None, loop: asyncio.AbstractEventLoop | None = None
) -> int:
    """Serve until the program is to stop, on `loop` or a new one; return its exit code."""
    log.warning("%s", one_process_warning(system_name(), plan))
    for note in {note for spec in plan.roles.values() for note in setting_notes(spec.settings)}:
        log.warning("%s", note)
    try:
        given = _imported(plan)
    except KeyboardInterrupt:
        return EXIT_OK  # the program was stopped before it served
    except BaseException as error:
        return boot_failed(BootError(*describe_start(error, "the app")))
    try:
        return _live(SingleCluster(plan, given), on_start, loop)
    finally:
        enter("primary")


def _imported(plan: Plan) -> dict[str, object]:
    """Import the apps, before there is a loop: a module may run one of its own."""
    specs = [*enumerate(plan.roles.values(), 1)]
    here = os.getcwd() if any(spec.settings.chdir for _, spec in specs) else ""
    for worker_id, spec in reversed(specs):  # the first role decides what all share
        set_environment(spec, worker_id)
        if spec.settings.chdir is not None:
            os.chdir(here)  # each chdir is relative to this folder
            enter_folder(spec)
    return {spec.name: _target_of(spec) for _, spec in specs}


def _target_of(spec: RoleSpec) -> object:
    target = import_target(spec.app) if isinstance(spec.app, str) else spec.app
    kind_of(target, is_role=spec.is_named)
    return target


def _live(
    cluster: "SingleCluster", on_start: OnStart | None, own: asyncio.AbstractEventLoop | None
) -> int:
    guard = StopWatchdog()
    life = ProgramRunner(cluster, on_start, guard)

    async def live() -> int:
        share_process(None)
        return await life.live()

    runner = asyncio.Runner(loop_factory=None if own is None else lambda: own)
    try:
        loop = runner.get_loop()
        return _until_over(loop, loop.create_task(live()), life)
    finally:
        try:
            close(runner)
            discard_unwritable_output()
        finally:
            guard.close()


def _until_over(
    loop: asyncio.AbstractEventLoop, living: "asyncio.Task[int]", life: ProgramRunner
) -> int:
    """Run the loop; an exit from within the app stops the program gracefully, as in aiohttp."""
    while True:
        try:
            return loop.run_until_complete(living)
        except (SystemExit, KeyboardInterrupt) as exit_:
            if living.done():
                raise
            life.exit(SystemExit(exit_code(exit_)))


class SingleCluster(Cluster):
    """A cluster with its workers, one of each role, in this process. `given` are their apps."""

    def __init__(self, plan: Plan, given: Mapping[str, object]) -> None:
        self._begin_with(plan, LaunchSpec({}))
        self._bus.hold()  # until `announce`: on_start misses nothing that a worker sends
        self._given = given
        self._handles: dict[int, _Handle] = {}
        self._all_over = asyncio.Event()

    @property
    def workers(self) -> Mapping[int, WorkerHandle]:
        """See Cluster."""
        living = {id_: one for id_, one in self._handles.items() if not one.is_dead}
        return MappingProxyType(cast(dict[int, WorkerHandle], living))

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """See Cluster."""
        return tuple(address for of_role in self.addresses_of.values() for address in of_role)

    @property
    def addresses_of(self) -> Mapping[str, tuple[tuple[str, int], ...]]:
        """See Cluster."""
        return {one.role: one.worker.addresses for one in self._handles.values()}

    async def subscribe(self, interval: float = 1.0) -> AsyncGenerator[Snapshot, None]:
        """Wait until the stop: nothing is measured here."""
        check_interval(interval)
        await self._all_over.wait()
        for snapshot in tuple[Snapshot]():
            yield snapshot

    async def upgrade(self) -> None:
        """Raise ConfigError."""
        self._started("upgrade")

    async def start(self) -> None:
        """See Cluster."""
        specs = self.plan.roles.values()
        for worker_id, spec in enumerate(specs, 1):
            worker = LoneWorker(worker_id, spec, self._given[spec.name])
            self._handles[worker_id] = _Handle(worker, self)
        enter("primary", self._handles[1].worker.context)  # for threads, which have no task
        up = asyncio.gather(*(handle.up() for handle in self._handles.values()))
        try:
            await up
        except BaseException:
            await self.stop(0.0)
            raise

    def stop_now(self) -> None:
        """See Cluster."""
        for handle in self._handles.values():
            handle.end(0.0)

    def skip_pre_drain_wait(self) -> bool:
        """See Cluster: a stop does not wait here before it begins."""
        return False

    def end_idle_grace(self) -> None:
        """See Cluster: idle connections always close at once here."""

    async def wait_empty(self) -> None:
        """See Cluster."""
        await self._all_over.wait()

    @property
    def all_finished(self) -> bool:
        """See Cluster."""
        return not any(handle.worker.failed for handle in self._handles.values())

    def kill(self) -> None:
        """See Cluster."""
        for handle in self._handles.values():
            handle.cut()

    def publish_message(self, handle: "_Handle", message: Any, size: int) -> None:
        """Publish a worker's message to all subscribers; return its credit once they keep up."""
        self._bus.publish(WorkerMessage(handle, message))
        if self._bus.congested:
            self._bus.when_relieved(lambda: handle.channel.consumed(size))
        else:
            handle.channel.consumed(size)

    def note_end(self, handle: "_Handle") -> None:
        """Note that a worker has ended."""
        self._bus.publish(handle.exited.result())
        if all(one.is_dead for one in self._handles.values()):
            self._all_over.set()

    def _started(self, asked: str) -> NoReturn:
        raise ConfigError(
            f"{asked}: only on Linux; on {system_name()} the program serves in one process"
        )

    def _begin_to_stop(self, timeout: float | None) -> asyncio.Future[list[str]]:
        return asyncio.ensure_future(self._stop_all(timeout))

    async def _stop_all(self, seconds: float | None) -> list[str]:
        self._bus.publish(StopBegan())
        handles = self._handles.values()
        for handle in handles:
            handle.end(seconds)
        if handles:
            await asyncio.wait({handle.exited for handle in handles})
        self._bus.close()
        return [f"{handle}: {what}" for handle in handles for what in handle.worker.cut]


class _Handle:
    """A worker of this process as `on_start` sees it: see WorkerHandle."""

    generation = 1
    restarts = 0

    def __init__(self, worker: LoneWorker, cluster: SingleCluster) -> None:
        self.worker = worker
        self.id, self.slot = worker.context.id, worker.context.slot
        self.role, self.started_at = worker.context.role, worker.started_at
        self.env: dict[str, str] = {}
        self.pid = os.getpid()
        self.exited: asyncio.Future[WorkerExited] = asyncio.get_running_loop().create_future()
        self.channel = Channel(FromWorker, self._on_message, lambda error: None)
        self._cluster = cluster
        connect(self.channel, worker.channel)
        self._task = asyncio.create_task(worker.run())
        self._task.add_done_callback(self._on_end)

    def __str__(self) -> str:
        return f"worker {self.id} ({self.role})"

    @property
    def phase(self) -> Phase:
        """The phase of the worker."""
        if self.is_dead:
            return Phase.EXITED
        if self.worker.is_stopping:
            return Phase.DRAINING
        return Phase.READY if self.worker.started.done() else Phase.ONLINE

    @property
    def is_dead(self) -> bool:
        """True once the worker has ended."""
        return self.exited.done()

    @property
    def is_connected(self) -> bool:
        """True while messages can be exchanged with the worker."""
        return not self.channel.closed

    @property
    def is_leader(self) -> bool:
        """True while the worker leads its role, as the only worker."""
        return self.worker.context.is_leader

    async def up(self) -> None:
        """Return once the worker is ready, or its job has ended; raise why its start failed."""
        await asyncio.wait({self.worker.started, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if self.worker.started.done():
            return
        try:
            await self._task
        except ClusterError:
            raise
        except asyncio.CancelledError:
            raise BootError("CancelledError: the app cancelled its own start") from None
        except BaseException as error:
            raise BootError(*describe_start(error, "the app")) from error

    async def send(self, message: Any) -> None:
        """See WorkerHandle.send."""
        try:
            await self.channel.send(message)
        except ChannelClosed:
            raise WorkerGone(f"{self} is no longer connected") from None

    def drain(self, timeout: float | None = None) -> "asyncio.Future[WorkerExited]":
        """See WorkerHandle.drain; no worker replaces this one."""
        self.end(timeout)
        return asyncio.shield(self.exited)

    def kill(self, number: int = signal.SIGTERM) -> "asyncio.Future[WorkerExited]":
        """Drain at TERM, as on Linux; end at once at any other signal."""
        if number == signal.SIGTERM:
            return self.drain()
        self.cut()
        return asyncio.shield(self.exited)

    def end(self, timeout: float | None) -> None:
        """Let the worker end, within `timeout` seconds."""
        self.worker.stop(timeout)
        if not self.worker.started.done():
            self._task.cancel()
        if timeout is not None:
            asyncio.get_running_loop().call_later(timeout + _CUT_GRACE, self.cut)

    def cut(self) -> None:
        """End the worker now: each step of its end has a moment, and is then cut, too."""
        if self._task.done():
            return
        if _CUT not in self.worker.cut:
            self.worker.cut.append(_CUT)
        self._task.cancel()
        asyncio.get_running_loop().call_later(_CUT_GRACE, self.cut)

    def _on_end(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and self.worker.started.done():
            self.worker.failed = True
            log.error("%s ended with an error", self, exc_info=error)
        code = EXIT_CUT if self.worker.failed or self.worker.cut else EXIT_OK
        self.exited.set_result(WorkerExited(self, code, None, True, "stop"))
        self._cluster.note_end(self)

    def _on_message(self, message: Message, size: int) -> None:
        match message:
            case UserMessage(payload=payload):
                self._cluster.publish_message(self, payload, size)
            case DrainRequest():
                log.warning("%s drains, as its code asked; nothing takes its place here", self)
                self.end(None)
            case _:
                log.debug("%s: %r has no effect in one process", self, message)

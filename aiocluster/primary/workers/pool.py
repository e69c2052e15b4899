"""All workers of a role, from fork to exit: which live, which get connections, which drain."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from aiocluster.config.settings import Settings
from aiocluster.events import Event, WorkerForked
from aiocluster.ipc.handover import WorkerState
from aiocluster.ipc.messages import (
    GiveBack,
    Listen,
    Serving,
    Subscribe,
    Unlisten,
    Unready,
    Unsubscribe,
)
from aiocluster.metrics.snapshot import Report
from aiocluster.primary.dispatch.capacity import Limits
from aiocluster.primary.dispatch.dispatcher import Dispatching
from aiocluster.primary.dispatch.shared_accept import SharedAccept
from aiocluster.primary.ingress.ingress import Ingress
from aiocluster.primary.ingress.worker_servers import WorkerServers
from aiocluster.primary.processes.generations import Generation, Generations
from aiocluster.primary.processes.process import Process
from aiocluster.primary.sockets.connection import Connection
from aiocluster.primary.sockets.descriptor import peek
from aiocluster.primary.tasks import start_task
from aiocluster.primary.workers.exit_log import ExitLog
from aiocluster.primary.workers.factory import WorkerFactory
from aiocluster.primary.workers.handle import WorkerHandle, WorkerSpec
from aiocluster.primary.workers.leader import LeaderElection
from aiocluster.primary.workers.phases import Phase
from aiocluster.primary.workers.shared import ClusterShared
from aiocluster.timeouts import KILL_GRACE, Countdown, running_timeout

log = logging.getLogger("aiocluster.supervisor")

# Seconds. A worker that lives this long after its channel was closed is not about to die.
_DEATH_MOMENT = 1.0

# Seconds. A signal to all processes reaches the workers and the primary in any order. This long
# after a worker has asked to drain, the primary knows whether it is to stop as well.
_SAME_SIGNAL = 0.1

# If a serving worker has more untaken connections than this, other workers return none for now:
# a new connection would wait behind all of them, some 50 µs each.
_MANY_UNTAKEN = 96

# Seconds that the kernel may take to end a killed worker.
_DEATH_TIMEOUT = 5.0


class Care(Protocol):
    """The observer of a pool: it decides when a worker has served enough."""

    def on_serving(self, worker: WorkerHandle) -> None:
        """Note that the worker gets connections from now on."""
        ...

    def on_report(self, worker: WorkerHandle, report: Report) -> None:
        """Handle the worker's report."""
        ...

    def on_due(self, worker: WorkerHandle, reason: str) -> None:
        """Replace the worker, which has served enough."""
        ...

    def replace_first(self, worker: WorkerHandle, reason: str) -> bool:
        """Let another worker serve before this one drains; return False if none will."""
        ...


class WorkerPool:
    """The workers of all slots and generations of a role. It is the Owner of their handles."""

    def __init__(
        self,
        settings: Settings,
        generations: Generations,
        dispatcher: Dispatching,
        servers: WorkerServers,
        cluster_shared: ClusterShared,
        care: Care,
    ) -> None:
        self.all: dict[int, WorkerHandle] = {}
        self.exit_log = ExitLog(settings.boot_timeout)
        self.addresses: tuple[tuple[str, int], ...] = ()
        self.graceful_timeout = settings.graceful_timeout
        self.idle_grace = settings.idle_grace
        self.stop_is_announced = False
        self._is_ending = self._makes_room = False
        self._unwell: list[str] = []  # workers that ended badly in the stop
        self.exit_code = 0  # not 0 of the first worker that ended well in the stop
        self.take_connections: bool | None = None  # None: no worker was ready yet
        self._stopping = False
        self._stop_timeout: float | None = None  # seconds of a stop that drains
        self._boot_timeout = settings.boot_timeout
        self._generations = generations
        self._dispatcher = dispatcher
        self._servers = servers
        self._bus = cluster_shared.bus
        self._reporter = cluster_shared.reporter
        self._care = care
        self._loop = asyncio.get_running_loop()
        self._held: set[int] = set()  # workers that get no connections yet
        self._asking: set[int] = set()  # workers that asked to drain, and wait for the answer
        self._parting: dict[int, str] = {}  # workers that drain once another serves, and why
        self._leader_election = LeaderElection()
        self._oom_kills = cluster_shared.oom_kills
        self._sharing = SharedAccept(lambda: len(self.all), self.serving)
        self._ends: set[asyncio.Task[None]] = set()
        self._factory = WorkerFactory(
            cluster_shared.reporter.scoreboard,
            self,
            Limits.of(settings),
            self._update_dispatcher,
            self._on_returned,
        )

    def pin_to(self, cpus: Sequence[int]) -> None:
        """Pin the workers of the first slots to one of `cpus` each."""
        self._factory.cpus = cpus

    def listen_on(self, ingress: Ingress) -> None:
        """Take the workers' connections from `ingress`."""
        self.addresses = ingress.listeners.addresses
        self._sharing.begin_with(ingress)
        self._factory.families = ingress.listeners.families
        self._factory.shared = lambda: ingress.shared
        self._servers.numbers.reserve(len(ingress.listeners.families))

    def begin_accepting(self) -> None:
        """See SharedAccept.begin_accepting."""
        self._sharing.begin_accepting()

    # ---- start

    async def spawn(
        self, spec: WorkerSpec, generation: Generation, *, held: bool = False
    ) -> WorkerHandle:
        """Fork a worker; WorkerGone if that failed this time. A `held` one waits for `admit`."""
        if held:
            self._held.add(spec.worker_id)
        self._generations.joined(generation)
        try:
            worker, process = await self._factory.spawn(spec, generation.spawner)
        except BaseException:
            self._generations.left(generation.number)
            self._held.discard(spec.worker_id)
            raise
        worker.began(process, time.time(), self._loop.time())
        self.all[worker.id] = worker
        self._servers.expect()
        self.publish(WorkerForked(worker))
        self._look_after(worker, process)
        return worker

    def admit(self, worker: WorkerHandle, before: WorkerHandle | None = None) -> None:
        """Give connections to a worker that was held back until it had lasted. Idempotent.

        The worker `before` gets no more: the new one must first have capacity for its connections.
        """
        if before is not None:
            self._leave(before)
        if worker.id in self._held:
            self._held.discard(worker.id)
            if _may_serve(worker):
                self._enter_service(worker)

    async def adopt(self, states: Sequence[WorkerState]) -> Callable[[], None]:
        """Take over the previous program's workers; return the function that lets them go on."""
        processes = [self._adopt_process(state) for state in states]
        for state, process in zip(states, processes, strict=True):
            self.all[state.worker_id] = await self._factory.adopt(state, process)
        adopted = [*self.all.values()]
        self._leader_election.adopt(next((worker for worker in adopted if worker.is_leader), None))
        for worker in adopted:
            if worker.was_ready:
                self._note_kind(worker)

        def begin() -> None:
            for worker in adopted:
                self._resume(worker)
            for worker, process in zip(adopted, processes, strict=True):
                self._look_after(worker, process)

        return begin

    @property
    def busy_reason(self) -> str:
        """Return what is half done, and must be over before an upgrade; or ""."""
        forked = self._generations.worker_ids
        if self._generations.is_forking or not forked <= self.all.keys():
            return "a worker is being forked"
        if self._asking:
            return "a worker has asked to drain"
        if self._parting:
            return "the only worker that serves drains when another is ready"
        return next((worker.busy_reason for worker in self.all.values() if worker.busy_reason), "")

    # ---- stop

    def announce_stop(self) -> None:
        """Let all workers report that they are not ready."""
        self.stop_is_announced = True
        for worker in self.all.values():
            worker.channel.post(Unready())

    def mark_stopping(self) -> None:
        """Count what is lost from now on as lost to the stop. Idempotent.

        Connections move no more, and those that are on their way go to workers that still serve.
        """
        self._is_ending = True
        for worker in self.all.values():
            if worker.phase is Phase.DRAINING:
                worker.begin_drain("stop")

    def shed_idle_connections(self, count: int) -> None:
        """Let each worker return at most `count` idle connections; the primary closes them."""
        self._makes_room = True
        for worker in self.serving():
            worker.channel.post(GiveBack(count))

    def stop_spawning(self) -> None:
        """Drain at once each worker that is still forked. Idempotent."""
        self._stopping = True

    async def drain(self, seconds: float) -> list[str]:
        """Drain all workers for at most `seconds`; return the names of those that had to be cut."""
        self._stop_timeout = seconds
        workers = [*self.all.values()]
        exits = [worker.begin_drain("stop", seconds) for worker in workers]
        if exits:
            await _all_in(seconds + KILL_GRACE + _DEATH_TIMEOUT, exits)
        if self._ends:
            await _all_in(_DEATH_TIMEOUT, self._ends)
        unwell = [str(worker) for worker in workers if not worker.ended_well]
        return [*dict.fromkeys([*self._unwell, *unwell])]

    def end_idle_grace(self) -> None:
        """Close idle connections at once in a stop, also if it is under way. Idempotent."""
        self.idle_grace = 0.0
        if self._stop_timeout is not None:
            for worker in self.all.values():
                worker.begin_drain("stop", self._stop_timeout)

    def hurry(self) -> None:
        """Let all workers cut what is open."""
        for worker in self.all.values():
            worker.begin_drain("stop", 0.0)

    def kill(self) -> None:
        """Kill every worker now."""
        for worker in self.all.values():
            worker.kill_for("stop")

    # ---- Owner

    def publish(self, event: Event) -> None:
        """See Owner."""
        self._bus.publish(event)

    def when_heard(self, heard: Callable[[], None]) -> None:
        """See Owner."""
        if self._bus.congested:
            self._bus.when_relieved(heard)
        else:
            heard()

    def others_serve(self) -> bool:
        """See Owner."""
        return bool(self.serving())

    def is_last(self, worker: WorkerHandle) -> bool:
        """See Owner: True if no other worker gets connections and stays."""
        if not worker.serves:  # a job
            return False
        staying = [one for one in self.serving() if one.id not in self._parting]
        return staying == [worker] or (worker.id in self._parting and not staying)

    def let_go(self, worker: WorkerHandle, reason: str) -> None:
        """See Owner: drain the worker, or, if no other serves, let it wait for another."""
        if not self.is_last(worker) or not self._care.replace_first(worker, reason):
            worker.begin_drain(reason)
        elif worker.id not in self._parting:
            log.info(
                "%s is the only worker that serves: it drains (%s) when another is ready",
                worker,
                reason,
            )
            self._parting[worker.id] = reason

    def serving(self) -> list[WorkerHandle]:
        """Return the workers that get connections."""
        workers = self.all.values()
        return [one for one in workers if _may_serve(one) and one.id not in self._held]

    def on_ready(self, worker: WorkerHandle) -> None:
        """See Owner."""
        log.info("%s is ready", worker)
        self._note_kind(worker)
        if worker.id not in self._held:
            self._enter_service(worker)
        self._admit_held_if_alone()

    def on_unready(self, worker: WorkerHandle) -> None:
        """See Owner."""
        self._servers.leave(worker.id)
        self._leave(worker)
        self._sharing.end(worker)
        self._admit_held_if_alone()
        self._sharing.divide()
        self._update_dispatcher()
        self._choose_leader()

    def on_lost_channel(self, worker: WorkerHandle) -> None:
        """See Owner."""
        # Its figures need not be known any more, nor be true.
        self._dispatcher.remove(worker.backend)
        self._give_to_others(worker, worker.backend.close())
        if worker.was_ready:
            self._loop.call_later(_DEATH_MOMENT, self._replace_disconnected, worker)

    def on_drain_request(self, worker: WorkerHandle, reason: str) -> None:
        """See Owner."""
        if self._stopping:  # the request crossed the Drain
            return
        if reason == "max_requests":
            self._care.on_due(worker, reason)
        elif reason == "drain":
            self._asking.add(worker.id)
            self._loop.call_later(_SAME_SIGNAL, self._hear_out, worker)
        else:
            worker.begin_drain(reason)

    def _hear_out(self, worker: WorkerHandle) -> None:
        """Drain a worker that has asked for it; a stop drains all in its own time."""
        self._asking.discard(worker.id)
        if not self.stop_is_announced and not self._stopping and not worker.is_dead:
            self.let_go(worker, "drain")

    def on_report(self, worker: WorkerHandle, report: Report) -> None:
        """See Owner."""
        self._oom_kills.look(self._loop.time())
        self._reporter.report(worker, report)
        self._care.on_report(worker, report)

    def on_subscribe(self, worker: WorkerHandle, request: Subscribe | Unsubscribe) -> None:
        """See Owner."""
        self._reporter.serve(worker.id, worker.channel, request)

    def on_server(self, worker: WorkerHandle, message: Listen | Serving | Unlisten) -> None:
        """See Owner."""
        if not worker.is_leaving and not worker.backend.is_closed:  # else its servers are gone
            self._servers.hear(worker, message)

    # ---- inside

    def _adopt_process(self, state: WorkerState) -> Process:
        generation = self._generations.numbered(state.generation)
        self._generations.joined(generation)
        return generation.spawner.adopt_worker(state.worker_id, state.pid, state.pidfd)

    def _resume(self, worker: WorkerHandle) -> None:
        """Let a worker go on as it was when the previous program ended."""
        if _may_serve(worker):
            self._enter_service(worker)
        elif worker.was_ready:
            self._leave(worker)  # its open connections still count

    def _look_after(self, worker: WorkerHandle, process: Process) -> None:
        """Watch over the worker until its exit."""
        worker.backend.would_flood = self._have_enough_to_take
        worker.announced()
        process.on_death(lambda: self._on_death(worker))
        if not worker.settled.done():  # a worker that was taken over may be ready
            left = worker.born + self._boot_timeout - self._loop.time()
            boot = Countdown(left, lambda: worker.kill_for("boot_timeout"))
            worker.settled.add_done_callback(lambda _: boot.cancel())
        end = start_task(self._see_off(worker, process), f"seeing off {worker}")
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)
        if self.stop_is_announced:
            worker.channel.post(Unready())
        if self._stopping:
            worker.begin_drain("stop", 0.0)

    def _enter_service(self, worker: WorkerHandle) -> None:
        if worker.serves:
            worker.backend.look_for_room()
            self._dispatcher.add(worker.backend)
            self._sharing.let_accept(worker)
            self._sharing.divide()
            self._update_dispatcher()
        self._servers.enter(worker)
        self._choose_leader()
        self._care.on_serving(worker)
        self._let_parting_go()

    def _let_parting_go(self) -> None:
        """Drain the workers that have waited for another, if one serves now."""
        if all(one.id in self._parting for one in self.serving()):
            return
        parting, self._parting = self._parting, {}
        for worker_id, reason in parting.items():
            self.all[worker_id].begin_drain(reason)

    def _note_kind(self, worker: WorkerHandle) -> None:
        """Note whether a ready worker takes connections or runs a job."""
        if self.take_connections is None:
            self.take_connections = worker.serves
        elif self.take_connections != worker.serves:
            what = "takes connections" if worker.serves else "runs a job"
            log.error("%s %s, unlike the first one: that needs a stop and a start", worker, what)

    def _leave(self, worker: WorkerHandle) -> None:
        if not worker.backend.is_closed:  # else it is dead and was removed
            self._dispatcher.leave(worker.backend, self._loop.time())

    def _admit_held_if_alone(self) -> None:
        """Admit the held workers if no other serves: an unproven worker is better than none."""
        if self._held and not self.others_serve():
            for worker_id in [*self._held]:
                if (worker := self.all.get(worker_id)) is not None and worker.was_ready:
                    self.admit(worker)

    def _on_death(self, worker: WorkerHandle) -> None:
        """Give the connections that the dead worker had not taken to others, at once."""
        self._servers.leave(worker.id)
        self._dispatcher.remove(worker.backend)
        left = worker.backend.close()
        self._admit_held_if_alone()
        self._sharing.divide()
        self._update_dispatcher()
        self._choose_leader()
        self._give_to_others(worker, left)

    def _give_to_others(self, worker: WorkerHandle, left: list[Connection]) -> None:
        if left:
            log.info("%d connections of %s go to others", len(left), worker)
            self._dispatcher.dispatch(left, self._loop.time())

    def _replace_disconnected(self, worker: WorkerHandle) -> None:
        """Replace the worker while it finishes what it has, which may take long."""
        if not worker.is_leaving and not self._stopping:
            self._care.on_due(worker, "disconnected")

    def _on_returned(self, connections: list[Connection]) -> None:
        """Dispatch the connections that a worker returned: idle ones, or of a server it has closed.

        In a stop they are closed if no worker serves any more, or if they were given up for others.
        """
        if self._makes_room or self._stopping:
            connections = self._closed_but_for(connections)
        if connections:
            self._dispatcher.dispatch(connections, self._loop.time())

    def _closed_but_for(self, connections: list[Connection]) -> list[Connection]:
        """Close the connections, and return those that workers still take.

        A connection is kept if its next request has come, or if it is for a worker's own server: no
        worker has served it yet.
        """
        apps = len(self._factory.families)
        kept = [one for one in connections if one.listener >= apps or peek(one.fd, 1)]
        kept = [] if self._stopping else kept
        for connection in connections:
            if connection not in kept:
                os.close(connection.fd)
        return kept

    async def _see_off(self, worker: WorkerHandle, process: Process) -> None:
        status = await process.wait()
        if status.signal == signal.SIGKILL and not worker.ending.is_ours(status.signal):
            worker.ending.out_of_memory = self._oom_kills.claim(self._loop.time())
        await worker.flush_channel()
        self._reporter.retire(worker)
        self._reporter.scoreboard.release(worker.row)
        del self.all[worker.id]
        self._held.discard(worker.id)
        self._parting.pop(worker.id, None)
        exited = worker.ended(status)
        if self._is_ending:
            self._note_end(worker, exited.code)
        self.exit_log.tell(worker, exited)
        self.publish(exited)
        self._generations.left(worker.generation)

    def _note_end(self, worker: WorkerHandle, code: int | None) -> None:
        """Note that the worker has ended in the stop, with this exit code."""
        if not worker.ended_well:
            self._unwell.append(str(worker))
        elif worker.was_ready:
            self.exit_code = self.exit_code or code or 0

    def _have_enough_to_take(self) -> bool:
        """Return True if a serving worker with a turning loop has many connections to take."""
        if self._is_ending:  # a connection that is not returned now never is
            return False
        backends = [worker.backend for worker in self.serving()]
        return any(one.queued > _MANY_UNTAKEN and not one.is_stuck for one in backends)

    def _choose_leader(self) -> None:
        # In a stop no other worker takes the lead of one that exits.
        self._leader_election.update([] if self._stopping else self.serving())

    def _update_dispatcher(self) -> None:
        self._dispatcher.update(self._loop.time())


def _may_serve(worker: WorkerHandle) -> bool:
    # The worker's death may be seen, and not be published yet.
    seen_dead = worker.backend.is_closed
    return worker.phase is Phase.READY and worker.is_connected and not seen_dead


async def _all_in(seconds: float, futures: "Iterable[asyncio.Future[Any]]") -> None:
    """Wait for all `futures`, at most `seconds`."""
    with contextlib.suppress(TimeoutError):
        async with running_timeout(seconds):
            await asyncio.wait(futures)

"""Decides which workers of a role are started, replaced and stopped."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Sequence

from aiocluster.config.roles import RoleSpec
from aiocluster.errors import BootError, ClusterStopping, ProtocolError
from aiocluster.events import WorkerMessage
from aiocluster.ipc.framing import decode_user, encode_user
from aiocluster.ipc.handover import SupervisionState
from aiocluster.metrics.snapshot import Report
from aiocluster.primary.dispatch.dispatcher import Dispatching
from aiocluster.primary.ingress.ingress import Ingress
from aiocluster.primary.ingress.worker_servers import WorkerServers
from aiocluster.primary.lifecycle.reload import Reloader
from aiocluster.primary.lifecycle.startup import first_start
from aiocluster.primary.lifecycle.upgrade import RoleLocks
from aiocluster.primary.processes.generations import Generation, Generations
from aiocluster.primary.scaling.sizing import Sizing
from aiocluster.primary.supervision.circuit_breaker import CircuitBreaker
from aiocluster.primary.supervision.recycle_monitor import RecycleMonitor
from aiocluster.primary.supervision.recycler import Recycler
from aiocluster.primary.supervision.restart_policy import RestartPolicy
from aiocluster.primary.supervision.slot import Slot
from aiocluster.primary.supervision.slots import Slots
from aiocluster.primary.tasks import start_task
from aiocluster.primary.workers.handle import WorkerHandle, WorkerSpec
from aiocluster.primary.workers.pool import WorkerPool
from aiocluster.primary.workers.shared import ClusterShared

log = logging.getLogger("aiocluster.supervisor")


class Supervisor:
    """The supervisor of one role. It implements Crew for the slots, and Care for the pool."""

    def __init__(
        self,
        spec: RoleSpec,
        generations: Generations,
        dispatcher: Dispatching,
        servers: WorkerServers,
        cluster_shared: ClusterShared,
        restarts: RestartPolicy,
    ) -> None:
        settings, bus = spec.settings, cluster_shared.bus
        self._role = spec.name
        self._env = settings.env
        self._restart = settings.restart
        self._ids = cluster_shared.ids
        self._bus = bus
        self._generations = generations
        self.pool = WorkerPool(settings, generations, dispatcher, servers, cluster_shared, self)
        self._slots = Slots(self, settings.restart, spec.name)
        self._breaker = CircuitBreaker(self._role, restarts, bus.publish)
        self._first_start_over = asyncio.Event()
        self._stopping = False
        self._recycle_monitor = RecycleMonitor(settings, self.on_due)
        self._recycler = Recycler(settings.boot_timeout, self._recycle_monitor.is_still_due)
        self._watch = start_task(
            self._recycle_monitor.watch(self.workers.values), "watching memory"
        )
        self._sizing = Sizing(spec, self, cluster_shared, dispatcher, self.pool.serving)
        self._reloader = Reloader(spec, generations, self, bus, self.pool.exit_log)

    @property
    def workers(self) -> dict[int, WorkerHandle]:
        """Return the live workers, by id."""
        return self.pool.all

    @property
    def slots(self) -> Collection[Slot]:
        """Return the open slots."""
        return self._slots.all

    @property
    def empty(self) -> asyncio.Event:
        """Return an event that is set while no slot is open."""
        return self._slots.empty

    @property
    def all_finished(self) -> bool:
        """True if the jobs of all closed slots have returned."""
        return self._slots.all_finished

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Return the addresses of the listeners, as (host, port)."""
        return self.pool.addresses

    @property
    def take_connections(self) -> bool | None:
        """True if the workers take connections, False if they run jobs; None: none was ready."""
        return self.pool.take_connections

    def listen_on(self, ingress: Ingress) -> None:
        """Take the workers' connections from `ingress`."""
        self.pool.listen_on(ingress)

    def give_time(self, graceful_timeout: float) -> None:
        """Set the default time of a drain, in seconds."""
        self.pool.graceful_timeout = graceful_timeout

    def begin_accepting(self) -> None:
        """Let workers accept from shared listeners: clients may connect now."""
        self.pool.begin_accepting()

    # ---- start and stop

    def pin_to(self, cpus: Sequence[int]) -> None:
        """Pin the workers of the first slots to one of `cpus` each."""
        self.pool.pin_to(cpus)

    async def start(self, count: int) -> None:
        """Start `count` workers; BootError, with the first one's cause, if none becomes ready."""
        await first_start([self.open_slot({}) for _ in range(count)], self.pool.exit_log)
        self._end_first_start()

    async def fork(self, env: dict[str, str]) -> WorkerHandle:
        """Add a slot for a worker with `env`; return the worker once it is forked.

        ConfigError if `env` and the settings' variables together are too large.
        """
        if self._stopping:
            raise ClusterStopping("cannot fork: the cluster is stopping")
        self._env.of(self._slots.next_number, env)
        return await asyncio.shield(self.open_slot(env).first)

    async def scale(self, wanted: int | str, reason: str) -> int:
        """See Scaler.scale."""
        return await self._sizing.scale(wanted, reason)

    async def reload(self) -> None:
        """See Reloader.reload."""
        await self._reloader.reload()

    def announce_stop(self) -> None:
        """Prepare for a stop: all workers report that they are not ready."""
        self._change_no_more()
        self.pool.announce_stop()

    def mark_stopping(self) -> None:
        """See WorkerPool.mark_stopping."""
        self.pool.mark_stopping()

    def shed_idle_connections(self, count: int) -> None:
        """See WorkerPool.shed_idle_connections."""
        self.pool.shed_idle_connections(count)

    async def stop(self, timeout: float) -> list[str]:  # noqa: ASYNC109
        """Drain all workers for at most `timeout` seconds; return the names of those cut."""
        self._stop_spawning()
        return await self.pool.drain(timeout)

    def hurry(self) -> None:
        """Let all workers cut what is open."""
        self._stop_spawning()
        self.pool.hurry()

    def kill_all(self) -> None:
        """Kill every worker now. A stop that is under way then ends at once."""
        if self.pool.stop_is_announced:
            self._stop_spawning()
        self.pool.kill()

    # ---- from one program to the next

    @property
    def turns(self) -> RoleLocks:
        """Return the locks of all that replaces workers, or changes their number."""
        return RoleLocks(self._reloader.turn, self._recycler.turn, self._sizing.turn)

    @property
    def busy_reason(self) -> str:
        """Return what is half done, and must be over before an upgrade; or ""."""
        return self.pool.busy_reason or self._slots.busy_reason

    def state(self) -> SupervisionState:
        """Return what the next program must know; call only while there is no `busy_reason`."""
        return SupervisionState(
            workers=[worker.state() for worker in self.workers.values()],
            slots=[slot.state() for slot in self.slots],
            due=self._recycler.due,
            unread=self._unread(),
            failures=self._breaker.state(),
            reload_wanted=self._reloader.is_wanted,
        )

    async def adopt(self, state: SupervisionState) -> None:
        """Take over the previous program's workers; those that died meanwhile are replaced."""
        self._end_first_start()
        self._breaker.adopt(state.failures)
        begin = await self.pool.adopt(state.workers)
        adopted = dict(self.workers)
        # From here on nothing awaits, so that earlier messages are published before later ones.
        for worker_id, frame in state.unread:
            self._bus.publish(WorkerMessage(adopted[worker_id], decode_user(frame)))
        # All is restored before the workers' messages are read.
        self._slots.adopt(state.slots, self._generations, adopted)
        begin()
        # Recycling and reloads that still waited for their turn.
        for worker_id, reason in state.due:
            if worker_id in adopted:
                self.on_due(adopted[worker_id], reason)
        if state.reload_wanted:
            self._reloader.ask()

    # ---- Crew

    async def spawn(
        self, slot: Slot, generation: Generation, restarts: int, *, held: bool = False
    ) -> WorkerHandle:
        """See Crew."""
        spec = WorkerSpec(
            worker_id=self._ids.take(),
            slot=slot.number,
            role=self._role,
            generation=generation.number,
            restarts=restarts,
            env=self._env.of(slot.number, slot.env),
        )
        return await self.pool.spawn(spec, generation, held=held)

    def admit(self, worker: WorkerHandle, before: WorkerHandle | None) -> None:
        """See Crew."""
        self.pool.admit(worker, before)

    def delay_after_failure(self, weight: float) -> float:
        """See Crew."""
        return self._breaker.delay_after_failure(weight)

    async def take_turn(self) -> Callable[[], None]:
        """See Crew."""
        return await self._breaker.take_turn()

    async def first_start_over(self) -> None:
        """See Crew."""
        await self._first_start_over.wait()

    def why_not_ready(self, worker: WorkerHandle) -> BootError:
        """See Crew."""
        return self.pool.exit_log.why_not_ready(worker)

    # ---- Care

    def on_serving(self, worker: WorkerHandle) -> None:
        """See Care."""
        self._recycle_monitor.on_ready(worker)

    def on_report(self, worker: WorkerHandle, report: Report) -> None:
        """See Care."""
        self._recycle_monitor.on_report(worker, report)

    def on_due(self, worker: WorkerHandle, reason: str) -> None:
        """Replace the worker in its turn, or drain it if no other would take its place."""
        if (slot := self._slots.place_of(worker)) is not None:
            self._recycler.recycle(slot, worker, reason)
        elif not worker.is_leaving and self._recycle_monitor.is_still_due(worker, reason):
            worker.begin_drain(reason)

    def replace_first(self, worker: WorkerHandle, reason: str) -> bool:
        """See Care."""
        if self.pool.stop_is_announced or self._restart != "always" or not self.slots:
            return False
        if (slot := self._slots.place_of(worker)) is not None:
            self._recycler.recycle(slot, worker, reason)
        return True

    # ---- Positions

    def open_slot(self, env: dict[str, str]) -> Slot:
        """Open one more slot for workers with `env`, and start its first worker."""
        return self._slots.open(env, self._generations.current)

    def close_slot(self, slot: Slot, reason: str) -> None:
        """Close a slot: its worker drains for `reason`, and is not replaced."""
        self._slots.give_up(slot)
        if slot.current is not None:
            self.pool.let_go(slot.current, reason)

    def why_not_up(self, slot: Slot) -> BootError:
        """Return why the first worker of a slot is not ready."""
        return self.pool.exit_log.why_not_ready(slot.first.result())

    # ---- inside

    def _end_first_start(self) -> None:
        self._first_start_over.set()
        self.pool.exit_log.release()
        self._sizing.begin()

    def _stop_spawning(self) -> None:
        self._stopping = True
        self._change_no_more()
        self._recycler.close()
        self._breaker.close()
        self._watch.cancel()
        self.pool.stop_spawning()
        self._slots.close()

    def _change_no_more(self) -> None:
        """End scaling and reloads, which a stop would only have to undo. Idempotent."""
        self._sizing.close()
        self._reloader.close()

    def _unread(self) -> list[tuple[int, bytes]]:
        """Return the unread messages of the workers that still live."""
        unread, kept = self._bus.unread, list[tuple[int, bytes]]()
        for event in unread:
            # What is no message is lost; its worker is disconnected for it.
            with contextlib.suppress(ProtocolError):
                if event.worker.id in self.workers:
                    kept.append((event.worker.id, encode_user(event.message)))
        if len(kept) < len(unread):
            log.warning("lost %d unread messages of exited workers", len(unread) - len(kept))
        return kept

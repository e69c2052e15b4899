"""Keeps every slot filled; starts and stops all workers."""

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

from aiocluster.config.settings import Settings
from aiocluster.errors import BootError, ClusterStopping
from aiocluster.events import Event, StopBegan, WorkerForked, WorkerMessage
from aiocluster.ipc.estate import CrewState, SlotState, WorkerState
from aiocluster.ipc.framing import decode_user, encode_user
from aiocluster.ipc.messages import Subscribe, Unready, Unsubscribe
from aiocluster.metrics.snapshot import Report
from aiocluster.patience import Countdown, patience
from aiocluster.primary.breaker import Breaker
from aiocluster.primary.bus import EventBus
from aiocluster.primary.dispatcher import Connection, Dispatcher
from aiocluster.primary.exit_log import ExitLog
from aiocluster.primary.first_start import first_start
from aiocluster.primary.generations import Generation, Generations
from aiocluster.primary.handle import KILL_GRACE, WorkerHandle, WorkerSpec
from aiocluster.primary.hiring import Hiring
from aiocluster.primary.lifecycle import Phase
from aiocluster.primary.listeners import Listeners
from aiocluster.primary.process import Process
from aiocluster.primary.recycling import Recycler
from aiocluster.primary.reload import Reloader
from aiocluster.primary.reporting import Reporter
from aiocluster.primary.restarts import RestartPolicy
from aiocluster.primary.slot import Slot
from aiocluster.primary.tasks import start_task
from aiocluster.primary.upkeep import Upkeep

log = logging.getLogger("aiocluster.supervisor")

# The only role so far.
_ROLE = "web"

# What a killed worker may take to be gone: only the kernel is left to wait for.
_DEATH_TIMEOUT = 5.0


class Supervisor:
    """All workers: an Owner to their handles, a Crew to their slots."""

    def __init__(
        self,
        settings: Settings,
        generations: Generations,
        dispatcher: Dispatcher,
        bus: EventBus,
        reporter: Reporter,
        restarts: RestartPolicy,
    ) -> None:
        self.workers: dict[int, WorkerHandle] = {}
        self.empty = asyncio.Event()  # no slot is left to be filled
        self.addresses: tuple[tuple[str, int], ...] = ()
        self.graceful_timeout = settings.graceful_timeout
        self._settings = settings
        self._dispatcher = dispatcher
        self._bus = bus
        self._reporter = reporter
        self._breaker = Breaker(_ROLE, restarts, self.publish)
        self._scoreboard = reporter.scoreboard
        self._loop = asyncio.get_running_loop()
        self._next_id = 1
        self._slots: dict[int, Slot] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.Task[None]] = set()
        self._first_start_over = asyncio.Event()
        self._held: set[int] = set()  # workers that are given nothing yet
        self._leaving = False  # a stop was announced
        self._stopping = False
        self._exit_log = ExitLog(settings.boot_timeout)
        self._generations = generations
        self._recycler = Recycler()
        self._upkeep = Upkeep(settings, self._recycle)
        self._watch = start_task(self._upkeep.watch(self.workers.values), "watching memory")
        self._reloader = Reloader(settings, generations, self, bus, self._exit_log)
        self._hiring = Hiring(
            self._scoreboard,
            self,
            settings.behind_after,
            self._update_dispatcher,
            self._on_returned,
        )

    @property
    def slots(self) -> Collection[Slot]:
        """The places for workers."""
        return self._slots.values()

    def listen_on(self, listeners: Listeners) -> None:
        """From here the workers' connections will come."""
        self.addresses = listeners.addresses
        self._hiring.families = listeners.families

    # ---- start and stop

    async def start(self, count: int) -> None:
        """Start `count` workers; BootError, with the first one's cause, when none comes up."""
        await first_start([self._open_slot({}) for _ in range(count)], self._exit_log)
        self._first_start_over.set()
        self._exit_log.release()

    def state(self) -> CrewState:
        """What the next program must know; only while there is no `unrest`."""
        return CrewState(
            next_worker_id=self._next_id,
            workers=[worker.state() for worker in self.workers.values()],
            slots=[slot.state() for slot in self._slots.values()],
            due=self._recycler.due,
            unread=self._unread(),
            failures=self._breaker.state(),
            reload_wanted=self._reloader.is_wanted,
        )

    async def adopt(self, state: CrewState) -> None:
        """Take over the workers of another program; those that died meanwhile are replaced."""
        self._next_id = state.next_worker_id
        self._first_start_over.set()
        self._exit_log.release()
        self._breaker.adopt(state.failures)
        processes = [self._adopt_process(one) for one in state.workers]
        for one, process in zip(state.workers, processes, strict=True):
            self.workers[one.worker_id] = await self._hiring.adopt(one, process)
        adopted = dict(self.workers)
        # From here on nothing waits, so that what they said before comes before what they say.
        for worker_id, frame in state.unread:
            self.publish(WorkerMessage(adopted[worker_id], decode_user(frame)))
        # All is in its place before what they said meanwhile is heard.
        for slot in state.slots:
            self._reopen_slot(slot, adopted)
        for worker in adopted.values():
            if worker.phase is Phase.READY and worker.is_connected:
                self._enter_service(worker)
        for worker, process in zip(adopted.values(), processes, strict=True):
            self._look_after(worker, process)
        self._take_up(state, adopted)

    @property
    def unrest(self) -> str:
        """What is half done, and must be over before an upgrade; or ""."""
        forked = self._generations.worker_ids
        if self._generations.is_forking or not forked <= self.workers.keys():
            return "a worker is being forked"
        return next((worker.unrest for worker in self.workers.values() if worker.unrest), "")

    async def fork(self, env: dict[str, str]) -> WorkerHandle:
        """Add a slot whose worker has `env`; return the worker as soon as it is forked."""
        if self._stopping:
            raise ClusterStopping("cannot fork: the cluster is stopping")
        return await asyncio.shield(self._open_slot(env).first)

    @property
    def turns(self) -> tuple[asyncio.Lock, asyncio.Lock]:
        """Whoever holds them is the only one who replaces workers that serve."""
        return self._reloader.turn, self._recycler.turn

    async def reload(self) -> None:
        """See Reloader.reload."""
        await self._reloader.reload()

    def announce_stop(self) -> None:
        """Let everybody know that a stop will follow: no worker calls itself ready any more."""
        self._leaving = True
        self._reloader.close()
        for worker in self.workers.values():
            worker.channel.post(Unready())
        self.publish(StopBegan())

    async def stop(self, timeout: float) -> list[str]:  # noqa: ASYNC109
        """Drain all workers for at most `timeout` seconds; name those that had to be cut."""
        self._stop_hiring()
        workers = [*self.workers.values()]
        exits = [worker.begin_drain("stop", timeout) for worker in workers]
        if exits:
            await _all_in(timeout + KILL_GRACE + _DEATH_TIMEOUT, exits)
        if self._ends:
            await _all_in(_DEATH_TIMEOUT, self._ends)
        return [str(worker) for worker in workers if not worker.ended_well]

    def hurry(self) -> None:
        """Let no worker that drains wait any longer."""
        self._stop_hiring()
        for worker in self.workers.values():
            worker.begin_drain("stop", 0.0)

    def kill_all(self) -> None:
        """End every worker now. A stop that is under way then ends at once."""
        if self._leaving:
            self._stop_hiring()
        for worker in self.workers.values():
            worker.kill_for("stop")

    def _stop_hiring(self) -> None:
        self._stopping = True
        self._reloader.close()
        self._recycler.close()
        self._breaker.close()
        self._watch.cancel()
        for task in self._tasks:
            task.cancel()

    # ---- Crew

    async def hire(
        self, slot: Slot, generation: Generation, restarts: int, *, held: bool = False
    ) -> WorkerHandle:
        """See Crew."""
        worker_id, self._next_id = self._next_id, self._next_id + 1
        if held:
            self._held.add(worker_id)
        spec = WorkerSpec(
            worker_id=worker_id,
            slot=slot.number,
            role=_ROLE,
            generation=generation.number,
            restarts=restarts,
            env=slot.env,
        )
        self._generations.joined(generation)
        try:
            worker, process = await self._hiring.hire(spec, generation.spawner)
        except BaseException:
            self._generations.left(generation.number)
            self._held.discard(worker_id)
            raise
        self._enlist(worker, process)
        return worker

    def admit(self, worker: WorkerHandle) -> None:
        """See Crew."""
        if worker.id in self._held:
            self._held.discard(worker.id)
            # Its death may be seen, and not be told yet.
            if worker.phase is Phase.READY and not worker.outbox.is_closed:
                self._enter_service(worker)

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
        return self._exit_log.why_not_ready(worker)

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
        return any(
            worker.phase is Phase.READY
            and worker.is_connected
            and not worker.outbox.is_closed
            and worker.id not in self._held
            for worker in self.workers.values()
        )

    def on_ready(self, worker: WorkerHandle) -> None:
        """See Owner."""
        log.info("%s is ready", worker)
        if worker.id not in self._held:
            self._enter_service(worker)
        self._leave_nobody_waiting()

    def on_unready(self, worker: WorkerHandle) -> None:
        """See Owner."""
        self._dispatcher.remove(worker.outbox)
        self._leave_nobody_waiting()
        self._update_dispatcher()

    def on_drain_request(self, worker: WorkerHandle, reason: str) -> None:
        """See Owner."""
        if self._stopping:  # it crossed the Drain on its way
            return
        if reason == "max_requests":
            self._recycle(worker, reason)
        else:
            worker.begin_drain(reason)

    def on_report(self, worker: WorkerHandle, report: Report) -> None:
        """See Owner."""
        self._reporter.report(worker.id, report)
        self._upkeep.on_report(worker, report)

    def on_subscribe(self, worker: WorkerHandle, request: Subscribe | Unsubscribe) -> None:
        """See Owner."""
        self._reporter.serve(worker.id, worker.channel, request)

    # ---- inside

    def _recycle(self, worker: WorkerHandle, reason: str) -> None:
        """Replace it in its turn, or let it end when nobody would take its place."""
        slot = self._slots.get(worker.slot)
        if slot is not None and slot.holds(worker):
            self._recycler.recycle(slot, worker, reason)
        elif not worker.is_leaving:
            worker.begin_drain(reason)

    def _open_slot(self, env: dict[str, str]) -> Slot:
        number = next(n for n in itertools.count() if n not in self._slots)
        slot = Slot(number, env, self._generations.current, self, self._settings.restart)
        self._fill(slot)
        return slot

    def _take_up(self, state: CrewState, adopted: dict[int, WorkerHandle]) -> None:
        """What was asked for and had not had its turn."""
        for worker_id, reason in state.due:
            if worker_id in adopted:
                self._recycle(adopted[worker_id], reason)
        if state.reload_wanted:
            self._reloader.ask()

    def _reopen_slot(self, state: SlotState, adopted: dict[int, WorkerHandle]) -> None:
        generation = self._generations.numbered(state.generation)
        slot = Slot(state.number, state.env, generation, self, self._settings.restart)
        slot.adopt(state, None if state.incumbent is None else adopted.get(state.incumbent))
        self._fill(slot)

    def _fill(self, slot: Slot) -> None:
        self._slots[slot.number] = slot
        self.empty.clear()
        task = self._loop.create_task(self._keep(slot))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, slot: Slot) -> None:
        try:
            await slot.keep()
        except Exception as error:
            log.exception("slot %d is given up", slot.number)
            if not slot.first.done():
                slot.first.set_exception(error)
        finally:
            self._close_slot(slot)

    def _close_slot(self, slot: Slot) -> None:
        del self._slots[slot.number]
        if not slot.first.done():
            slot.first.set_exception(ClusterStopping("the cluster is stopping"))
            slot.first.exception()  # perhaps nobody waits for it
        if not self._stopping:
            log.warning("slot %d stays empty: its worker is not replaced", slot.number)
        if not self._slots:
            self.empty.set()

    def _enlist(self, worker: WorkerHandle, process: Process) -> None:
        """The worker lives: look after it from here to its end."""
        worker.began(process, time.time(), self._loop.time())
        self.workers[worker.id] = worker
        self.publish(WorkerForked(worker))
        self._look_after(worker, process)

    def _adopt_process(self, state: WorkerState) -> Process:
        generation = self._generations.numbered(state.generation)
        self._generations.joined(generation)
        return generation.spawner.adopt_worker(state.worker_id, state.pid, state.pidfd)

    def _unread(self) -> list[tuple[int, bytes]]:
        """Return the messages that nobody has read yet, of the workers that still live."""
        unread = [(event.worker.id, event.message) for event in self._bus.unread]
        kept = [(number, encode_user(one)) for number, one in unread if number in self.workers]
        if len(kept) < len(unread):
            log.warning("%d unread messages of workers that are gone", len(unread) - len(kept))
        return kept

    def _look_after(self, worker: WorkerHandle, process: Process) -> None:
        worker.announced()
        process.on_death(lambda: self._on_death(worker))
        if not worker.settled.done():  # one that another program had may serve for long
            left = worker.born + self._settings.boot_timeout - self._loop.time()
            boot = Countdown(left, lambda: worker.kill_for("boot_timeout"))
            worker.settled.add_done_callback(lambda _: boot.cancel())
        end = start_task(self._see_off(worker, process), f"seeing off {worker}")
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)
        if self._leaving:
            worker.channel.post(Unready())
        if self._stopping:
            worker.begin_drain("stop", 0.0)

    def _enter_service(self, worker: WorkerHandle) -> None:
        self._dispatcher.add(worker.outbox)
        self._update_dispatcher()
        self._upkeep.on_ready(worker)

    def _leave_nobody_waiting(self) -> None:
        """One that is to show first that it lasts is better than none at all."""
        if self._held and not self.others_serve():
            for worker_id in [*self._held]:
                if (worker := self.workers.get(worker_id)) is not None and worker.was_ready:
                    self.admit(worker)

    def _on_death(self, worker: WorkerHandle) -> None:
        """At once: what it had not taken goes to others."""
        self._dispatcher.remove(worker.outbox)
        left = worker.outbox.close()
        self._leave_nobody_waiting()
        self._update_dispatcher()
        if left:
            log.info("%d connections of %s go to others", len(left), worker)
            self._dispatcher.dispatch(left, self._loop.time())

    def _on_returned(self, connections: list[Connection]) -> None:
        """A draining worker gave them back, idle."""
        if not self._stopping:
            self._dispatcher.dispatch(connections, self._loop.time())
            return
        for connection in connections:  # as every idle one is in a stop
            os.close(connection.fd)

    async def _see_off(self, worker: WorkerHandle, process: Process) -> None:
        status = await process.wait()
        await worker.read_last_words()
        self._reporter.retire(worker)
        self._scoreboard.release(worker.row)
        del self.workers[worker.id]
        self._held.discard(worker.id)
        exited = worker.ended(status)
        self._exit_log.tell(worker, exited)
        self.publish(exited)
        self._generations.left(worker.generation)

    def _update_dispatcher(self) -> None:
        self._dispatcher.update(self._loop.time())


async def _all_in(seconds: float, futures: "Iterable[asyncio.Future[Any]]") -> None:
    """Wait for all, or as long as that."""
    with contextlib.suppress(TimeoutError):
        async with patience(seconds):
            await asyncio.wait(futures)

"""Keeps one slot filled: starts a worker, replaces it when it dies or is due.

A slot is a worker's place: its number, its environment and its count of restarts stay when
its worker is replaced. Two methods fill the slot, and neither waits for the other: `keep`
replaces a worker that died, `renew` one that serves and drains only when the next is ready.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from aiocluster.config.settings import Restart
from aiocluster.errors import BootError, WorkerGone
from aiocluster.events import WorkerExited
from aiocluster.ipc.handover import SlotState
from aiocluster.primary.processes.generations import Generation
from aiocluster.primary.workers.exits import is_replaced, returned_at_once, weight_of
from aiocluster.primary.workers.handle import WorkerHandle
from aiocluster.timeouts import running_timeout

log = logging.getLogger("aiocluster.supervisor")

# Seconds after which a failed fork (no memory, no process left) is tried again.
_FORK_RETRY = 0.5

# After so many failed forks, the start of the cluster does not wait for this slot.
_MANY_REFUSALS = 5

# Why a job that returns as soon as it is called, without a failure, is called more slowly.
_WHY_SLOW = (
    "its job returns as soon as it has begun, again and again (a job that is done ends with"
    " restart='on_failure'; one that has more to do waits, say for worker.stopping())"
)


class Crew(Protocol):
    """The part of the supervisor that a slot needs."""

    async def spawn(
        self, slot: "Slot", generation: Generation, restarts: int, *, held: bool = False
    ) -> WorkerHandle:
        """Fork a worker for the slot; WorkerGone if that failed this time.

        A `held` worker gets no connections until it is admitted.
        """
        ...

    def admit(self, worker: WorkerHandle, before: WorkerHandle | None) -> None:
        """Give `worker` connections from now on, and the worker `before` no more."""
        ...

    def delay_after_failure(self, weight: float) -> float:
        """Count a failure; return the seconds to wait before the next start."""
        ...

    async def take_turn(self) -> Callable[[], None]:
        """Wait until a dead worker may be replaced; return the function that ends the turn."""
        ...

    async def first_start_over(self) -> None:
        """Wait until the first start is over: a worker is ready, or none will be."""
        ...

    def why_not_ready(self, worker: WorkerHandle) -> BootError:
        """Return why the worker did not become ready."""
        ...


class Slot:
    """A worker's place in a role, which is kept filled."""

    def __init__(
        self,
        number: int,
        env: dict[str, str],
        generation: Generation,
        crew: Crew,
        restart: Restart,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.number = number
        self.env = env
        self.generation = generation  # the generation of its next worker
        self.restarts = 0
        self.trouble = ""  # why the last fork failed
        self.is_refused = asyncio.Event()  # set when forks have failed for some time
        self.first: asyncio.Future[WorkerHandle] = asyncio.get_running_loop().create_future()
        self.current: WorkerHandle | None = None
        self.not_before = 0.0  # on the loop's clock: the earliest next start
        self.closed = False
        self.is_finished = False  # its last worker's job has returned
        self._crew = crew
        self._restart = restart
        self._refusals = 0
        self._sleep = sleep
        self._loop = asyncio.get_running_loop()
        self._renewing = asyncio.Lock()
        self._renewed = asyncio.Event()

    def state(self) -> SlotState:
        """Return what the next program must know of the slot."""
        return SlotState(
            number=self.number,
            env=self.env,
            generation=self.generation.number,
            restarts=self.restarts,
            current=None if self.current is None else self.current.id,
            not_before=self.not_before,
        )

    def adopt(self, state: SlotState, current: WorkerHandle | None) -> None:
        """Restore the previous program's slot; without `current`, as after its death."""
        self.restarts, self.current = state.restarts, current
        self.not_before = state.not_before

    # ---- when its worker dies

    async def keep(self) -> None:
        """Keep the slot filled, until a worker exits that is not to be replaced."""
        try:
            if self.current is None:  # else the previous program has filled it
                self.first.set_result(await self._fill(self._start_in_turn()))
            else:
                self.first.set_result(self.current)
            while is_replaced(exited := await self._vacancy(), self._restart):
                self.restarts += 1
                await self._fill(self._start_after(exited))
            self.is_finished = exited.reason == "finished" and exited.code == 0
        finally:
            self.closed = True

    async def _vacancy(self) -> WorkerExited:
        """Wait until the slot is empty; return the exit of its last worker."""
        while True:
            self._renewed.clear()
            assert self.current is not None
            current = self.current
            await _first_of(self._renewed.wait(), current.exited)
            if current is self.current and current.exited.done():
                self.current = None
                return current.exited.result()

    async def _fill(self, start: Coroutine[Any, Any, WorkerHandle]) -> WorkerHandle:
        """Let `start` fill the slot, unless a renewal is quicker; return the slot's worker."""
        self._renewed.clear()
        starting = asyncio.ensure_future(start)
        try:
            await _first_of(self._renewed.wait(), starting)
            if self.current is None:
                self.current = starting.result()
            elif starting.done():
                starting.result().begin_drain("reload")
        except asyncio.CancelledError:
            # The slot is being closed, and no other code knows a worker that was just forked.
            if starting.done() and not starting.cancelled() and starting.exception() is None:
                starting.result().begin_drain("scale_down")
            raise
        finally:
            starting.cancel()
        return self.current

    async def _start_after(self, exited: WorkerExited) -> WorkerHandle:
        worker = exited.worker
        assert isinstance(worker, WorkerHandle)
        if not worker.was_ready:
            await self._crew.first_start_over()
        lived = self._loop.time() - worker.ready_at
        weight = weight_of(exited, was_ready=worker.was_ready, lived=lived)
        delay = self._count_failure(weight, _WHY_SLOW if returned_at_once(exited, lived) else "")
        self.not_before = self._loop.time() + delay
        return await self._start_in_turn()

    async def _start_in_turn(self) -> WorkerHandle:
        if (delay := self.not_before - self._loop.time()) > 0:
            await self._sleep(delay)
        end_turn = await self._crew.take_turn()
        try:
            successor = await self._spawn()
        except BaseException:
            end_turn()
            raise
        successor.settled.add_done_callback(lambda _: end_turn())
        return successor

    # ---- while its worker serves

    async def renew(self, generation: Generation, reason: str, hold: float = 0.0) -> None:
        """Replace the slot's worker by one of `generation`; the old one drains for `reason`.

        The old worker drains only when the new one has been ready for `hold` seconds. Until then
        the new one gets no connections: if it crashes as soon as it runs, no request is lost.
        Raises BootError, and nothing has changed, if the new worker does not last that long.
        """
        async with self._renewing:
            await self._renew(generation, reason, hold)

    async def replace(
        self, worker: WorkerHandle, reason: str, is_still_due: Callable[[], bool]
    ) -> None:
        """Renew the slot in its turn, if the worker serves in it then, and is still due."""
        async with self._renewing:
            if self.holds(worker) and is_still_due():
                await self._renew(self.generation, reason, 0.0)

    def holds(self, worker: WorkerHandle) -> bool:
        """Return True if the worker serves in this slot, and would be replaced."""
        return worker is self.current and not worker.is_leaving and self._restart != "never"

    async def _renew(self, generation: Generation, reason: str, hold: float) -> None:
        # Held, so that no new client takes the capacity that the old worker's connections need.
        successor = await self._spawn(generation, held=True)
        try:
            await self._proven(successor, hold)
        except BaseException:
            successor.begin_drain(reason)
            raise
        if self.closed:
            successor.begin_drain(reason)
            return
        self._crew.admit(successor, self.current)
        self.generation = generation
        before, self.current = self.current, successor
        self.restarts += 1
        self._renewed.set()
        if before is not None:
            before.begin_drain(reason)

    async def _proven(self, worker: WorkerHandle, hold: float) -> None:
        await asyncio.shield(worker.settled)
        if worker.was_ready:
            with contextlib.suppress(TimeoutError):
                async with running_timeout(hold):  # paused time proves nothing
                    await asyncio.shield(worker.exited)
        # A worker that drains, or was disconnected for nonsense, will soon exit.
        if not worker.was_ready or worker.is_leaving or not worker.is_connected:
            exited = await asyncio.shield(worker.exited)
            if exited.reason == "finished":  # its job is done
                return
            raise self._crew.why_not_ready(worker)

    async def pause(self, weight: float) -> None:
        """Count a failure; wait as long as all failures demand."""
        if (delay := self._count_failure(weight)) > 0:
            await self._sleep(delay)

    # ---- inside

    def _count_failure(self, weight: float, why: str = "") -> float:
        delay = self._crew.delay_after_failure(weight)
        if delay > 0:
            why = why or "too many failures lately"
            log.warning("slot %d: %s, next start in %.1f s", self.number, why, delay)
        return delay

    async def _spawn(
        self, successors: Generation | None = None, *, held: bool = False
    ) -> WorkerHandle:
        """Fork a worker of `successors`, or, in place of a dead one, of the slot's generation."""
        while True:
            generation = successors or self.generation
            restarts = self.restarts + (successors is not None)
            try:
                worker = await self._crew.spawn(self, generation, restarts, held=held)
            except WorkerGone as error:
                self._note_trouble(str(error))
                await self._sleep(_FORK_RETRY)
            else:
                self.trouble = ""
                return worker

    def _note_trouble(self, trouble: str) -> None:
        # The caller that waits for the first worker reports its trouble. Later tries are many, so
        # each trouble is logged once.
        if self.first.done() and trouble != self.trouble:
            log.error("slot %d: %s; the fork is tried each %g s", self.number, trouble, _FORK_RETRY)
        self.trouble = trouble
        self._refusals += 1
        if self._refusals >= _MANY_REFUSALS:
            self.is_refused.set()


async def _first_of(waiting: Awaitable[Any], future: "asyncio.Future[Any]") -> None:
    """Wait for either. `waiting` is cancelled then, `future` is not."""
    task = asyncio.ensure_future(waiting)
    try:
        await asyncio.wait({task, future}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()

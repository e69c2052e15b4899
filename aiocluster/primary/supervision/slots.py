"""All slots of a role, each kept filled by a task of its own."""

import asyncio
import itertools
import logging
from collections.abc import Collection, Mapping, Sequence

from aiocluster.config.roles import ONLY_ROLE
from aiocluster.config.settings import Restart
from aiocluster.errors import ClusterStopping
from aiocluster.ipc.handover import SlotState
from aiocluster.launch.interpreter import CannotStart
from aiocluster.primary.processes.generations import Generation, Generations
from aiocluster.primary.supervision.slot import Crew, Slot
from aiocluster.primary.workers.handle import WorkerHandle

log = logging.getLogger("aiocluster.supervisor")


class Slots:
    """The slots of a role, numbered from 0; a closed slot's number is used again."""

    def __init__(self, crew: Crew, restart: Restart, role: str = ONLY_ROLE) -> None:
        self.empty = asyncio.Event()  # set while no slot is open
        self.all_finished = True  # the jobs of all closed slots have returned
        self._crew = crew
        self._restart = restart
        self._role = "" if role == ONLY_ROLE else f"{role} "
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, Slot] = {}
        self._keepers: dict[Slot, asyncio.Task[None]] = {}
        self._closed = False

    @property
    def all(self) -> Collection[Slot]:
        """Return the open slots."""
        return self._open.values()

    @property
    def next_number(self) -> int:
        """Return the number of the slot to be opened next."""
        return next(n for n in itertools.count() if n not in self._open)

    def open(self, env: dict[str, str], generation: Generation) -> Slot:
        """Open one more slot for workers with `env`, and start its first worker."""
        slot = Slot(self.next_number, env, generation, self._crew, self._restart)
        self._fill(slot)
        return slot

    def adopt(
        self,
        states: Sequence[SlotState],
        generations: Generations,
        workers: Mapping[int, WorkerHandle],
    ) -> None:
        """Open the previous program's slots, with those of `workers` that were in them."""
        for state in states:
            self._reopen(state, generations.numbered(state.generation), workers)
        if not self._open:
            self.empty.set()

    def _reopen(
        self, state: SlotState, generation: Generation, workers: Mapping[int, WorkerHandle]
    ) -> None:
        slot = Slot(state.number, state.env, generation, self._crew, self._restart)
        slot.adopt(state, None if state.current is None else workers.get(state.current))
        self._fill(slot)

    @property
    def busy_reason(self) -> str:
        """Return what is half done, and must be over before an upgrade; or ""."""
        workers = (slot.current for slot in self._open.values())
        dead = next((worker for worker in workers if worker is not None and worker.is_dead), None)
        return "" if dead is None else f"{dead} is being replaced"

    def place_of(self, worker: WorkerHandle) -> Slot | None:
        """Return the slot in which the worker serves, if the slot would replace it."""
        slot = self._open.get(worker.slot)
        return slot if slot is not None and slot.holds(worker) else None

    def give_up(self, slot: Slot) -> None:
        """Close a slot: its worker is not replaced. Idempotent."""
        slot.closed = True
        if (keeper := self._keepers.get(slot)) is not None:
            keeper.cancel()
        self._end(slot)

    def close(self) -> None:
        """Fill no slot any more. Idempotent."""
        self._closed = True
        for task in self._keepers.values():
            task.cancel()

    def _fill(self, slot: Slot) -> None:
        self._open[slot.number] = slot
        self.empty.clear()
        self._keepers[slot] = self._loop.create_task(self._keep(slot))
        self._keepers[slot].add_done_callback(lambda _: self._keepers.pop(slot))

    async def _keep(self, slot: Slot) -> None:
        try:
            await slot.keep()
            if slot.is_finished:
                log.info("%sslot %d stays empty: its job has finished", self._role, slot.number)
            elif not self._closed:
                log.warning(
                    "%sslot %d stays empty: its worker is not replaced", self._role, slot.number
                )
            self.all_finished = self.all_finished and slot.is_finished
        except CannotStart as error:
            self._give_up(slot, error)
            log.error("%sslot %d stays empty: %s", self._role, slot.number, error)
        except Exception as error:
            self._give_up(slot, error)
            log.exception("%sslot %d is given up", self._role, slot.number)
        finally:
            self._end(slot)

    def _give_up(self, slot: Slot, error: Exception) -> None:
        self.all_finished = False
        if not slot.first.done():
            slot.first.set_exception(error)

    def _end(self, slot: Slot) -> None:
        if self._open.get(slot.number) is not slot:
            return
        del self._open[slot.number]
        if not slot.first.done():
            slot.first.set_exception(ClusterStopping("its slot was closed"))
            slot.first.exception()  # perhaps no caller waits for it
        if not self._open:
            self.empty.set()

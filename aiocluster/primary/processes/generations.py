"""Generations: each is one import of the code, in a zygote of its own, and its workers.

The first generation serves until a reload replaces it. A retired generation forks no more
workers; its zygote ends when its last worker has ended.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from aiocluster.config.run_app import RunAppCall
from aiocluster.ipc.handover import GenerationsState, GenerationState, ZygoteState
from aiocluster.primary.processes.process import Process
from aiocluster.primary.processes.spawner import Spawner
from aiocluster.primary.tasks import start_task


class GenerationSpawner(Spawner, Protocol):
    """A spawner that forks the workers of one generation, and starts and ends with it."""

    @property
    def call(self) -> RunAppCall | None: ...
    @property
    def is_job(self) -> bool: ...
    @property
    def zygote_pids(self) -> set[int]: ...
    @property
    def worker_ids(self) -> set[int]: ...
    @property
    def is_forking(self) -> bool: ...
    def state(self) -> ZygoteState | None: ...
    def drop_unready(self) -> None: ...
    def adopt(self, state: GenerationState, boot_timeout: float) -> None: ...
    def adopt_worker(self, worker_id: int, pid: int, pidfd: int) -> Process: ...
    async def start(self, boot_timeout: float) -> None:
        """Import the app; BootError if that fails."""
        ...

    def knows(self, pid: int) -> bool: ...
    def retire(self) -> None: ...
    async def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class Generation:
    """One import of the code."""

    number: int
    spawner: GenerationSpawner
    members: int = 0  # workers that live, or are being forked
    is_retired: bool = False


class Generations:
    """The generations that have workers or may get some; `current` is the one that serves."""

    def __init__(
        self,
        new_spawner: Callable[[], GenerationSpawner],
        boot_timeout: float,
        on_imported: Callable[[RunAppCall | None, bool], None] = lambda call, is_job: None,
    ) -> None:
        """`on_imported(call, is_job)` is called for each generation that was imported.

        `call` is what the code has passed to aiohttp's run_app; `is_job` is True if the app is
        known to be a job. If `on_imported` raises, the generation ends before it has begun.
        """
        self._new_spawner = new_spawner
        self._on_imported = on_imported
        self._boot_timeout = boot_timeout
        self._begun = 0
        self._living: dict[int, Generation] = {}
        self._current: Generation | None = None
        self._past_zygotes: set[int] = set()
        self._ends: dict[int, asyncio.Task[None]] = {}

    @property
    def current(self) -> Generation:
        """The generation from which new workers are forked."""
        assert self._current is not None
        return self._current

    @property
    def next_number(self) -> int:
        """The number that the next `begin` will use. A number is never used again."""
        return self._begun + 1

    @property
    def zygote_pids(self) -> set[int]:
        """The pids of all zygotes, past ones included."""
        living = (generation.spawner.zygote_pids for generation in self._living.values())
        return self._past_zygotes.union(*living)

    async def begin(self) -> Generation:
        """Import the code as it is now; if that fails, clean up and raise BootError."""
        self._begun += 1
        generation = Generation(self._begun, self._new_spawner())
        self._living[generation.number] = generation
        try:
            await generation.spawner.start(self._boot_timeout)
            self._on_imported(generation.spawner.call, generation.spawner.is_job)
        except BaseException:
            await self._ended(generation)
            raise
        if self._current is None:
            self._current = generation
        return generation

    def serve(self, generation: Generation) -> Generation:
        """Make this generation the current one; return the one before, not yet retired."""
        before, self._current = self.current, generation
        return before

    def retire(self, generation: Generation) -> None:
        """Fork no more workers of this generation; it ends with its last one. Idempotent."""
        generation.is_retired = True
        generation.spawner.retire()
        self._end_if_done(generation)

    def joined(self, generation: Generation) -> None:
        """Count one more worker of this generation, which lives or is being forked."""
        generation.members += 1

    def left(self, number: int) -> None:
        """Count one worker less: it is gone, or could not be forked."""
        if (generation := self._living.get(number)) is not None:
            generation.members -= 1
            self._end_if_done(generation)

    def numbered(self, number: int) -> Generation:
        """Return the living generation with this number."""
        return self._living[number]

    @property
    def worker_ids(self) -> set[int]:
        """The ids of all workers that are not known to have ended."""
        return set().union(*(one.spawner.worker_ids for one in self._living.values()))

    @property
    def is_forking(self) -> bool:
        """True while a zygote has not answered an order to fork."""
        return any(generation.spawner.is_forking for generation in self._living.values())

    def state(self) -> GenerationsState:
        """Return what the next program must know; ending generations end by themselves."""
        living = [one for one in self._living.values() if one.number not in self._ends]
        pids = {one.number: one.spawner.zygote_pids for one in living}
        return GenerationsState(
            begun=self._begun,
            current=self.current.number,
            past_zygotes=sorted(self.zygote_pids.difference(*pids.values())),
            living=[
                GenerationState(
                    number=one.number,
                    is_retired=one.is_retired,
                    zygote=one.spawner.state(),
                    zygote_pids=sorted(pids[one.number]),
                )
                for one in living
            ],
        )

    def drop_unready(self) -> None:
        """Kill the zygotes that are not ready yet; the next program starts others."""
        for generation in self._living.values():
            generation.spawner.drop_unready()

    def adopt(self, state: GenerationsState) -> None:
        """Take over the generations of the previous program; their workers join one by one."""
        self._begun = state.begun
        self._past_zygotes = {*state.past_zygotes}
        for one in state.living:
            generation = Generation(one.number, self._new_spawner(), is_retired=one.is_retired)
            self._living[one.number] = generation
            generation.spawner.adopt(one, self._boot_timeout)
        self._current = self._living[state.current]

    def knows(self, pid: int) -> bool:
        """Return True if this is a zygote, or a worker that is not known to have ended."""
        return any(generation.spawner.knows(pid) for generation in self._living.values())

    async def close(self) -> None:
        """End all generations; their workers must be gone already. Idempotent."""
        for generation in [*self._living.values()]:
            await self._ended(generation)

    def _end_if_done(self, generation: Generation) -> None:
        if generation.is_retired and generation.members == 0:
            self._ended(generation)

    def _ended(self, generation: Generation) -> asyncio.Task[None]:
        """Begin to end a generation, once; return the task to wait for."""
        number = generation.number
        if number not in self._ends:
            end = start_task(self._end(generation), f"ending generation {number}")
            self._ends[number] = end
            end.add_done_callback(lambda _: self._ends.pop(number, None))
        return self._ends[number]

    async def _end(self, generation: Generation) -> None:
        await generation.spawner.close()
        self._past_zygotes |= generation.spawner.zygote_pids
        self._living.pop(generation.number, None)

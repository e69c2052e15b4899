"""Generations: each is one import of the code, in a zygote of its own, and the workers of it.

The first serves until a reload has put another in its place. A generation that is retired
forks nobody any more; its zygote goes when the last of its workers has.
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
    """A spawner with a life of its own: what a generation is forked by."""

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
        """Import the app; BootError when it cannot be."""
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
    """All generations that have workers or may get some; `current` is what serves."""

    def __init__(
        self,
        new_spawner: Callable[[], GenerationSpawner],
        boot_timeout: float,
        on_imported: Callable[[RunAppCall | None, bool], None] = lambda call, is_job: None,
    ) -> None:
        """`on_imported` is called with what each generation's code has given to aiohttp's run_app.

        And with whether its app is known to be a job. What it raises ends the generation before it
        has begun.
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
        """The one that new slots are filled from."""
        assert self._current is not None
        return self._current

    @property
    def next_number(self) -> int:
        """The number that the next `begin` gives. A number is never used again."""
        return self._begun + 1

    @property
    def zygote_pids(self) -> set[int]:
        """Those of all zygotes there ever were."""
        living = (generation.spawner.zygote_pids for generation in self._living.values())
        return self._past_zygotes.union(*living)

    async def begin(self) -> Generation:
        """Import the code as it is now; BootError, and nothing left, when that fails."""
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
        """From now on this is the current one; return the one before, not yet retired."""
        before, self._current = self.current, generation
        return before

    def retire(self, generation: Generation) -> None:
        """Fork nothing more from it; it ends with its last worker. Idempotent."""
        generation.is_retired = True
        generation.spawner.retire()
        self._end_if_done(generation)

    def joined(self, generation: Generation) -> None:
        """One more worker of it lives, or is being forked."""
        generation.members += 1

    def left(self, number: int) -> None:
        """One of its workers is gone, or did not come."""
        if (generation := self._living.get(number)) is not None:
            generation.members -= 1
            self._end_if_done(generation)

    def numbered(self, number: int) -> Generation:
        """Return the living one of this number."""
        return self._living[number]

    @property
    def worker_ids(self) -> set[int]:
        """Those of all workers whose end is still to be told."""
        return set().union(*(one.spawner.worker_ids for one in self._living.values()))

    @property
    def is_forking(self) -> bool:
        """True while a zygote has not answered an order."""
        return any(generation.spawner.is_forking for generation in self._living.values())

    def state(self) -> GenerationsState:
        """What the next program must know. Those that are ending end by themselves."""
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
        """Go on with those of another program; their workers join one by one."""
        self._begun = state.begun
        self._past_zygotes = {*state.past_zygotes}
        for one in state.living:
            generation = Generation(one.number, self._new_spawner(), is_retired=one.is_retired)
            self._living[one.number] = generation
            generation.spawner.adopt(one, self._boot_timeout)
        self._current = self._living[state.current]

    def knows(self, pid: int) -> bool:
        """Is this a zygote, or a worker whose end is still to be told?"""
        return any(generation.spawner.knows(pid) for generation in self._living.values())

    async def close(self) -> None:
        """End all; their workers must be gone already. Idempotent."""
        for generation in [*self._living.values()]:
            await self._ended(generation)

    def _end_if_done(self, generation: Generation) -> None:
        if generation.is_retired and generation.members == 0:
            self._ended(generation)

    def _ended(self, generation: Generation) -> asyncio.Task[None]:
        """Begin to end it, once; return what to wait for."""
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

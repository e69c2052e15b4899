"""Replaces workers that are due, one at a time, the new one before the old.

One at a time, since workers that started together are due together: each has served as many
requests, grown as much, and is as old as its neighbour. A turn may be long in coming, so whether
it is still due is asked when it has come.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from aiocluster.errors import BootError
from aiocluster.patience import patience
from aiocluster.primary.handle import WorkerHandle
from aiocluster.primary.restarts import CRASH_WEIGHT
from aiocluster.primary.spawner import FORK_PATIENCE
from aiocluster.primary.tasks import start_task

log = logging.getLogger("aiocluster.supervisor")


class Place(Protocol):
    """What the recycler needs of a slot."""

    def holds(self, worker: WorkerHandle) -> bool: ...
    async def replace(
        self, worker: WorkerHandle, reason: str, is_still_due: Callable[[], bool]
    ) -> None: ...
    async def pause(self, weight: float) -> None: ...


class Recycler:
    """Takes the workers that are due, in the order in which it heard of them."""

    def __init__(
        self, boot_timeout: float, is_still_due: Callable[[WorkerHandle, str], bool]
    ) -> None:
        self._limit = boot_timeout + FORK_PATIENCE
        self._is_still_due = is_still_due
        self.turn = asyncio.Lock()
        self._due: dict[int, asyncio.Task[None]] = {}
        self._reasons: dict[int, str] = {}

    def recycle(self, place: Place, worker: WorkerHandle, reason: str) -> None:
        """Replace this worker when its turn has come. Idempotent."""
        if worker.id in self._due:
            return
        recycling = start_task(self._recycle(place, worker, reason), f"replacing {worker}")
        self._due[worker.id], self._reasons[worker.id] = recycling, reason

    @property
    def due(self) -> list[tuple[int, str]]:
        """Those that are to be replaced, in their order, and why."""
        return [*self._reasons.items()]

    def close(self) -> None:
        """Replace nobody any more. Idempotent."""
        for recycling in self._due.values():
            recycling.cancel()

    async def _recycle(self, place: Place, worker: WorkerHandle, reason: str) -> None:
        try:
            while place.holds(worker):
                try:
                    async with self.turn:
                        await self._replace(place, worker, reason)
                    return
                except BootError as error:
                    log.error("%s is due (%s), and goes on: %s", worker, reason, error)
                    # Others may have their turn meanwhile.
                    await place.pause(CRASH_WEIGHT)
        finally:
            # At once: one that was found not to be due may be so again in the next moment.
            self._due.pop(worker.id, None)
            self._reasons.pop(worker.id, None)

    async def _replace(self, place: Place, worker: WorkerHandle, reason: str) -> None:
        try:
            async with patience(self._limit):
                await place.replace(worker, reason, lambda: self._is_still_due(worker, reason))
        except TimeoutError:
            raise BootError(f"no other could be started in {self._limit:g} s") from None

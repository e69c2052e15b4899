"""Replaces workers that are due, one at a time; the new worker is ready before the old drains.

Workers that started together are due together, since each has served as many requests, grown as
much, and is as old as its neighbour. So they take turns. A turn may take long to come, so the
recycler checks then whether the worker is still due.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from aiocluster.errors import BootError
from aiocluster.primary.processes.spawner import FORK_PATIENCE
from aiocluster.primary.tasks import start_task
from aiocluster.primary.workers.exits import CRASH_WEIGHT
from aiocluster.primary.workers.handle import WorkerHandle
from aiocluster.timeouts import running_timeout

log = logging.getLogger("aiocluster.supervisor")


class Place(Protocol):
    """The part of a slot that the recycler needs."""

    def holds(self, worker: WorkerHandle) -> bool: ...
    async def replace(
        self, worker: WorkerHandle, reason: str, is_still_due: Callable[[], bool]
    ) -> None: ...
    async def pause(self, weight: float) -> None: ...


# Reasons that may not hold any more when the worker's turn comes. Other reasons come before them.
_MAY_PASS = {"memory_limit"}


class Recycler:
    """A queue of the workers that are due, replaced in their order of arrival."""

    def __init__(
        self, boot_timeout: float, is_still_due: Callable[[WorkerHandle, str], bool]
    ) -> None:
        self._limit = boot_timeout + FORK_PATIENCE
        self._is_still_due = is_still_due
        self.turn = asyncio.Lock()
        self._due: dict[int, asyncio.Task[None]] = {}
        self._reasons: dict[int, list[str]] = {}

    def recycle(self, place: Place, worker: WorkerHandle, reason: str) -> None:
        """Replace a worker in its turn, if one of its reasons still holds then. Idempotent."""
        reasons = self._reasons.setdefault(worker.id, [])
        if reason not in reasons:
            reasons.append(reason)
            reasons.sort(key=_MAY_PASS.__contains__)
        if worker.id not in self._due:
            recycling = start_task(self._recycle(place, worker, reasons), f"replacing {worker}")
            self._due[worker.id] = recycling

    @property
    def due(self) -> list[tuple[int, str]]:
        """Return the workers to be replaced, in their order, with the reasons."""
        return [(worker, reason) for worker, all_ in self._reasons.items() for reason in all_]

    def close(self) -> None:
        """Replace no more workers. Idempotent."""
        for recycling in self._due.values():
            recycling.cancel()

    async def _recycle(self, place: Place, worker: WorkerHandle, reasons: list[str]) -> None:
        try:
            while place.holds(worker):
                try:
                    async with self.turn:
                        await self._replace(place, worker, reasons)
                    return
                except BootError as error:
                    log.error(
                        "could not replace %s (%s): %s; it keeps serving",
                        worker,
                        reasons[0],
                        error,
                    )
                    # Other workers may have their turn meanwhile.
                    await place.pause(CRASH_WEIGHT)
        finally:
            # At once: a worker that was not due any more may be due again in the next moment.
            self._due.pop(worker.id, None)
            self._reasons.pop(worker.id, None)

    async def _replace(self, place: Place, worker: WorkerHandle, reasons: list[str]) -> None:
        def is_still_due() -> bool:
            return any(self._is_still_due(worker, reason) for reason in [*reasons])

        try:
            async with running_timeout(self._limit):
                await place.replace(worker, reasons[0], is_still_due)
        except TimeoutError:
            raise BootError(f"no other worker could be started in {self._limit:g} s") from None

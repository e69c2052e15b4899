"""Keeps one slot filled: starts a worker, replaces it when it dies or is due.

A slot is a worker's place: its number, its environment and its count of restarts stay when
the worker in it is replaced.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiocluster.config.settings import Restart
from aiocluster.errors import WorkerGone
from aiocluster.events import WorkerExited
from aiocluster.primary.exits import is_replaced, weight_of
from aiocluster.primary.handle import WorkerHandle

log = logging.getLogger("aiocluster.supervisor")

# A fork that fails (no memory, no process left) is tried again after this many seconds.
_FORK_RETRY = 0.5


class Crew(Protocol):
    """What a slot needs from the supervisor."""

    async def hire(self, slot: "Slot") -> WorkerHandle:
        """Fork a worker for the slot; WorkerGone when that failed this time."""
        ...

    def delay_after_failure(self, weight: float) -> float:
        """Count a failure; return the seconds to wait before the next start."""
        ...

    async def first_start_over(self) -> None:
        """Wait until it is known whether any worker of the first start came up."""
        ...


class Slot:
    """One place for a worker."""

    def __init__(
        self,
        number: int,
        env: dict[str, str],
        crew: Crew,
        restart: Restart,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.number = number
        self.env = env
        self.restarts = 0
        self.trouble = ""  # why the last fork failed
        self.first: asyncio.Future[WorkerHandle] = asyncio.get_running_loop().create_future()
        self._crew = crew
        self._restart = restart
        self._sleep = sleep
        self._due = asyncio.Event()
        self._incumbent: WorkerHandle | None = None

    def succeed(self, worker: WorkerHandle) -> bool:
        """Replace this worker, the new one first; False when it does not hold the slot."""
        if worker is not self._incumbent or self._restart == "never":
            return False
        self._due.set()
        return True

    async def keep(self) -> None:
        """Keep the slot filled, until a worker goes that is not to be replaced."""
        while True:
            self._due.clear()  # it was meant for the one before
            worker = await self._hire()
            if not self.first.done():
                self.first.set_result(worker)
            exited = await self._watch(worker)
            self._incumbent = None
            if not is_replaced(exited, self._restart):
                return
            self.restarts += 1
            if not _of(exited).was_ready:
                await self._crew.first_start_over()
            await self._pause_after(exited)

    async def _watch(self, worker: WorkerHandle) -> WorkerExited:
        """Return how the slot's last worker ended; it may not be the one we began with."""
        while True:
            self._incumbent = worker
            due = asyncio.ensure_future(self._due.wait())
            ends: set[asyncio.Future[Any]] = {worker.exited, due}
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                due.cancel()
            if worker.exited.done():
                return worker.exited.result()
            self._due.clear()
            worker = await self._successor_of(worker)

    async def _successor_of(self, worker: WorkerHandle) -> WorkerHandle:
        """Start the next worker; only when it is ready does the old one go."""
        successor = await self._hire()
        await asyncio.shield(successor.settled)
        if not successor.was_ready:
            exited = await asyncio.shield(successor.exited)
            log.error("%s could not replace %s, which goes on", successor, worker)
            await self._pause_after(exited)
            self._due.set()
            return worker
        self.restarts += 1
        worker.begin_drain("max_requests", at_once=False)
        return successor

    async def _hire(self) -> WorkerHandle:
        while True:
            try:
                return await self._crew.hire(self)
            except WorkerGone as error:
                self.trouble = str(error)
                log.error("slot %d: %s; next try in %g s", self.number, error, _FORK_RETRY)
                await self._sleep(_FORK_RETRY)

    async def _pause_after(self, exited: WorkerExited) -> None:
        delay = self._crew.delay_after_failure(weight_of(exited, was_ready=_of(exited).was_ready))
        if delay > 0:
            log.warning(
                "slot %d: too many failures lately, next start in %.1f s", self.number, delay
            )
            await self._sleep(delay)


def _of(exited: WorkerExited) -> WorkerHandle:
    worker = exited.worker
    assert isinstance(worker, WorkerHandle)
    return worker

"""Checks that the workers of a new generation last.

Time in which the program was paused does not count: no code ran in it that could fail.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Self

from aiocluster.errors import BootError
from aiocluster.events import WorkerExited, WorkerListening
from aiocluster.primary.event_bus import EventBus
from aiocluster.primary.workers.exit_log import ExitLog
from aiocluster.primary.workers.handle import WorkerHandle
from aiocluster.timeouts import Countdown, running_timeout


class StabilityCheck:
    """A context manager that notes if a worker of a new generation dies too soon."""

    def __init__(self, number: int, min_uptime: float, bus: EventBus, exit_log: ExitLog) -> None:
        self._number = number
        self._min_uptime = min_uptime
        self._exit_log = exit_log
        self._failed: asyncio.Future[BootError] = asyncio.get_running_loop().create_future()
        self._bus = bus
        self._young: dict[int, Countdown] = {}  # by worker that has not lasted yet
        self._offs: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        self._offs.append(self._bus.on(WorkerListening, self._on_listening))
        self._offs.append(self._bus.on(WorkerExited, self._on_exited))
        return self

    def __exit__(self, *_: object) -> None:
        for off in self._offs:
            off()
        for countdown in self._young.values():
            countdown.cancel()

    def seconds_left(self) -> float:
        """Return the seconds until the youngest worker has lasted."""
        return max((countdown.left() for countdown in self._young.values()), default=0.0)

    async def failure(self) -> None:
        """Wait for a worker that dies too soon; raise the BootError that says so."""
        raise await asyncio.shield(self._failed)

    async def last(self, seconds: float) -> None:
        """Wait for `seconds`; BootError if a worker dies too soon meanwhile."""
        with contextlib.suppress(TimeoutError):
            async with running_timeout(seconds):
                await self.failure()

    def _on_listening(self, listening: WorkerListening) -> None:
        worker = listening.worker
        assert isinstance(worker, WorkerHandle)
        if worker.generation == self._number and self._min_uptime:
            number = worker.id
            self._young[number] = Countdown(self._min_uptime, lambda: self._young.pop(number))

    def _on_exited(self, exited: WorkerExited) -> None:
        worker = exited.worker
        assert isinstance(worker, WorkerHandle)
        if countdown := self._young.pop(worker.id, None):
            countdown.cancel()
        if worker.generation != self._number or exited.voluntary or self._failed.done():
            return
        if countdown or not worker.was_ready:
            self._failed.set_result(self._exit_log.why_not_ready(worker))

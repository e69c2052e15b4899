"""The time in which a new generation must show that it lasts."""

import asyncio
from collections.abc import Callable
from typing import Self

from aiocluster.errors import BootError
from aiocluster.events import WorkerExited
from aiocluster.primary.bus import EventBus
from aiocluster.primary.exit_log import ExitLog
from aiocluster.primary.handle import WorkerHandle


class Probation:
    """Hears of workers of a new generation that die too soon; a context manager."""

    def __init__(self, number: int, min_uptime: float, bus: EventBus, exit_log: ExitLog) -> None:
        self._number = number
        self._min_uptime = min_uptime
        self._exit_log = exit_log
        self._loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[BootError] = self._loop.create_future()
        self._bus = bus
        self._off: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        self._off = self._bus.on(WorkerExited, self._on_exited)
        return self

    def __exit__(self, *_: object) -> None:
        if self._off is not None:
            self._off()

    async def failure(self) -> None:
        """Wait for one that dies too soon; raise the BootError that says so."""
        raise await asyncio.shield(self._failed)

    async def last(self, seconds: float) -> None:
        """Wait this long; BootError when one dies too soon meanwhile."""
        await asyncio.wait({self._failed}, timeout=seconds)
        if self._failed.done():
            raise self._failed.result()

    def _on_exited(self, exited: WorkerExited) -> None:
        worker = exited.worker
        assert isinstance(worker, WorkerHandle)
        if worker.generation != self._number or exited.voluntary or self._failed.done():
            return
        if not worker.was_ready or self._loop.time() - worker.ready_at < self._min_uptime:
            self._failed.set_result(self._exit_log.why_not_ready(worker))

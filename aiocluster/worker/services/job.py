"""The service that runs a job: the user's coroutine function, called with the worker."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from functools import partial
from typing import Any

from aiocluster.config.kinds import refused_result, returned_at_once
from aiocluster.ipc.handoff import Client
from aiocluster.ipc.scoreboard import CONNECTIONS_CLOSED
from aiocluster.worker.api.context import WorkerContext
from aiocluster.worker.app_exit import is_exit
from aiocluster.worker.services.adopt import RejectProtocol
from aiocluster.worker.services.deadline import DrainDeadline

log = logging.getLogger("aiocluster.worker")

Job = Callable[[WorkerContext], Coroutine[Any, Any, object]]

# Seconds that a job and the on_drain hooks get if no time is left: they may be about to end.
_END_GRACE = 0.25

# A job that returns in its first step, within this many seconds, has returned at once.
_MOMENT = 1.0

# Seconds that a cancelled job gets to clean up: as many as a request's handler.
_CANCEL_GRACE = 0.25


class JobService:
    """The service of a worker that runs a job."""

    serves = False

    def __init__(
        self,
        job: Job,
        worker: WorkerContext,
        row: memoryview,
        run_on_drain_callbacks: Callable[[], Awaitable[None]],
        *,
        is_repeated: bool = False,
    ) -> None:
        """`is_repeated`: the job is called again when it has returned."""
        self._job = job
        self._worker = worker
        self._row = row
        self._say_goodbye = run_on_drain_callbacks
        self._is_repeated = is_repeated
        self._loop = asyncio.get_running_loop()
        self._deadline = DrainDeadline()
        self._task: asyncio.Task[object] | None = None
        self.context = copy_context()
        self.over: asyncio.Future[None] = self._loop.create_future()
        self.cut: list[str] = []
        self.code = 0

    async def start(self) -> None:
        """Start the job, and let it run to its first wait.

        If the job has returned by then, raise ConfigError when its result shows that it is no job,
        or when it would only be called again and again.
        """
        began = self._loop.time()
        job = self._job(self._worker)
        self._task = self._loop.create_task(job, name=self._name, context=self.context)
        self._task.add_done_callback(self._on_end)
        await asyncio.sleep(0)
        if _is_done(self._task):
            if refused := refused_result(self._job, self._task.result()):
                raise refused
            is_soon = self._loop.time() - began < _MOMENT
            if self._is_repeated and is_soon and not self._worker.is_stopping:
                raise returned_at_once(self._job)

    def give_back(self, count: int) -> None:
        """Do nothing: a job has no connections."""

    def adopt(
        self,
        fd: int,
        family: int,
        client: Client | None = None,
        peer: Any = None,
        *,
        listener: int = 0,
    ) -> None:
        """Close the connection: a job should get none."""
        os.close(fd)
        self._note_unserved()

    def protocol(self, listener: int) -> asyncio.Protocol:
        """Return a protocol that rejects the connection: a job should get none."""
        self._note_unserved()
        return RejectProtocol()

    def _note_unserved(self) -> None:
        self._row[CONNECTIONS_CLOSED] += 1
        log.error("%s was given a connection, which is closed", self._name)

    def hurry(
        self, timeout: float, *, moving: bool, stopping: bool = False, idle_grace: float = 0.0
    ) -> None:
        """See Service."""
        self._deadline.at_latest_in(timeout)

    def take_latency(self) -> dict[int, int]:
        """Return no latencies: a job has no requests."""
        return {}

    async def drain(self) -> None:
        """Wait for the job, which can see the drain; cancel it when no time is left."""
        assert self._task is not None
        # The callbacks see the values in the job's context.
        goodbye = self._loop.create_task(self._goodbye(), context=self.context)
        await self._deadline.wait_for({self._task, goodbye}, _END_GRACE)
        if not goodbye.done():
            goodbye.cancel()
            self.cut.append("the on_drain hooks")
        if not self._task.done():
            self.cut.append(self._name)
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_CANCEL_GRACE)
        await asyncio.sleep(0)  # `_on_end` runs
        # asyncio raised an exit out of the loop, so the runtime knows it already.
        if self.over.done() and (error := self.over.exception()) and not is_exit(error):
            self.code = 1
            log.error("%s raised", self._name, exc_info=error)

    async def _goodbye(self) -> None:
        await self._say_goodbye()

    def _on_end(self, task: "asyncio.Task[object]") -> None:
        error: BaseException | None
        if not task.cancelled():
            error = task.exception() or refused_result(self._job, task.result())
        elif self._worker.is_stopping:
            error = None
        else:
            error = asyncio.CancelledError("the job cancelled itself")
        if error is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(error)
            self.over.exception()  # marked as read: it may have no reader

    @property
    def _name(self) -> str:
        job: Any = self._job
        while isinstance(job, partial):
            job = job.func
        return f"the job {getattr(job, '__qualname__', type(job).__name__)}"


def _is_done(task: "asyncio.Task[object]") -> bool:
    """Return True if the task has returned."""
    return task.done() and not task.cancelled() and task.exception() is None

"""The one task in which an app's factory and all its hooks run, from the first to the last.

Under `web.run_app` they run in one task, too. So a hook at the end may undo what a hook at the
start did: reset a context variable by its token, leave a TaskGroup, a timeout or a cancel scope
that spans the `yield` of a clean-up context. Between two steps the task waits.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any

# How often a step that must end is cancelled: its hooks run one after the other, and each must be
# cancelled before the next one runs.
_CANCELS = 5

# A cancelled scope of anyio cancels its task in each turn of the loop until the task leaves it, at
# the end of the drain: the loop would use a core all that time. So each such turn sleeps for this
# many seconds. The turns that are left are enough for a drain's requests.
_TURN = 0.001

Step = Callable[[], Awaitable[Any]]


class AppTask:
    """A task that runs one step after the other.

    `on_cancelled()` is called when the app's own code cancels the task, as a TaskGroup does when
    one of its tasks fails. The task goes on, for the hooks at the end. Without `on_cancelled`, or
    after `close`, a cancellation ends the task.
    """

    def __init__(self, on_cancelled: Callable[[], None] | None = None) -> None:
        self.context = copy_context()
        self._on_cancelled = on_cancelled
        self._loop = asyncio.get_running_loop()
        self._next: tuple[Step, asyncio.Future[Any]] | None = None
        self._wake: asyncio.Future[None] = self._loop.create_future()
        self._running: asyncio.Future[Any] | None = None
        self._cancels = 0  # of the running step, by `cancel`
        self._task = self._new_task()

    def begin(self, step: Step) -> "asyncio.Future[Any]":
        """Run `step` in the task; return the future of its result or exception.

        The previous step must be over, or given up.
        """
        if self._running is not None:
            # The step was cancelled and does not end. A new task keeps the context, at least.
            self._running, self._cancels = None, 0
            self._task = self._new_task()
        result: asyncio.Future[Any] = self._loop.create_future()
        self._next = (step, result)
        self._wake_up()
        return result

    def cancel(self) -> None:
        """Cancel the running step."""
        if self._next is not None:  # the step has not begun
            _, result = self._next
            self._next = None
            result.cancel()
        elif self._running is not None:
            self._cancels += 1
            self._task.cancel()

    async def cut(self, grace: float) -> None:
        """Cancel the running step; return when it is over, or after `grace` seconds."""
        running = self._running
        for _ in range(_CANCELS):
            self.cancel()
            if running is None or running.done():
                return
            await asyncio.wait({running}, timeout=grace / _CANCELS)

    @property
    def is_cut(self) -> bool:
        """True if `cancel` or `cut` has cancelled the running step."""
        return self._cancels > 0

    def close(self) -> None:
        """End the task: there is no further step. Idempotent."""
        self._on_cancelled = None
        self._task.cancel()

    def _new_task(self) -> "asyncio.Task[None]":
        return self._loop.create_task(self._live(), name="the app's hooks", context=self.context)

    def _wake_up(self) -> None:
        if not self._wake.done():
            self._wake.set_result(None)

    async def _live(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        while task is self._task:
            await self._wait()
            if self._next is not None:
                step, result = self._next
                self._next, self._running = None, result
                await self._perform(task, step, result)

    async def _wait(self) -> None:
        cancelled = 0
        while self._next is None:
            self._wake = self._loop.create_future()
            try:
                await self._wake
            except asyncio.CancelledError:
                self._note_cancelled()
                cancelled += 1
                if cancelled > 1:
                    _pause(_TURN)

    async def _perform(
        self, task: "asyncio.Task[None]", step: Step, result: "asyncio.Future[Any]"
    ) -> None:
        before = task.cancelling()
        value, error = None, None
        try:
            value = await step()
        except GeneratorExit:  # the loop is gone
            raise
        except BaseException as raised:
            error = raised
        if task is not self._task:  # the step was given up
            return
        self._running, cuts, self._cancels = None, self._cancels, 0
        for _ in range(cuts):
            task.uncancel()
        _settle(result, value, error)
        if task.cancelling() > before:
            self._note_cancelled()

    def _note_cancelled(self) -> None:
        if self._on_cancelled is None:
            raise asyncio.CancelledError
        self._on_cancelled()


# Blocks the loop: its turns are to be slowed down.
_pause = time.sleep  # noqa: TID251


def _settle(result: "asyncio.Future[Any]", value: Any, error: BaseException | None) -> None:
    if result.done():
        return
    if error is None:
        result.set_result(value)
    elif isinstance(error, asyncio.CancelledError):
        result.cancel()
    else:
        result.set_exception(error)
        result.exception()  # marked as read: it may have no reader any more

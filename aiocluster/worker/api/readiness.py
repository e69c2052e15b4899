"""How this worker stands with the cluster, as the user's code may ask and be told."""

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiocluster.errors import ConfigError

log = logging.getLogger("aiocluster.worker")


class Readiness:
    """Whether the app says that it is ready, whether it is, and who wants to hear of the drain."""

    def __init__(self, *, explicit: bool = False) -> None:
        self._serving = False
        self._leaving = False
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._declared = asyncio.Event()
        if not explicit:
            self._declared.set()
        self._on_drain: dict[object, Callable[[], Any]] = {}

    @property
    def is_ready(self) -> bool:
        """See WorkerContext.is_ready."""
        return self._serving and not self._leaving

    def serve(self) -> None:
        """It is ready from now on, unless it leaves already."""
        self._serving = True

    def leave(self) -> None:
        """It is not ready any more, and will not be again. Idempotent."""
        self._leaving = True

    def stop(self) -> None:
        """It is told to drain. Idempotent."""
        self.leave()
        self._stopping.set()

    @property
    def is_stopping(self) -> bool:
        """See WorkerContext.is_stopping."""
        return self._stopping.is_set()

    async def stopping(self) -> None:
        """See WorkerContext.stopping."""
        await self._stopping.wait()

    def declare_ready(self) -> None:
        """See WorkerContext.ready."""
        # A thread may be late: with the loop, all that could be ready has gone.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._declared.set)

    @property
    def is_declared(self) -> bool:
        """Has the app said that it is ready, if it was asked to?"""
        return self._declared.is_set()

    async def wait_declared(self) -> None:
        """Wait until the app says that it is ready, unless nobody asked it to."""
        await self._declared.wait()

    def on_drain(self, callback: Callable[[], Any]) -> Callable[[], None]:
        """See WorkerContext.on_drain."""
        if not callable(callback):
            raise ConfigError(f"on_drain: {callback!r:.80} is not a function without arguments")

        key = object()  # the same callback may be registered twice
        self._on_drain[key] = callback

        def off() -> None:
            self._on_drain.pop(key, None)

        return off

    async def run_on_drain_callbacks(self) -> None:
        """Call all that asked for it, and wait for those that take their time. Once."""
        callbacks, self._on_drain = self._on_drain, {}
        awaited = [_call(callback) for callback in callbacks.values()]
        # One that cancels itself ends no other.
        await asyncio.gather(*filter(None, awaited), return_exceptions=True)


def _call(callback: Callable[[], Any]) -> Awaitable[None] | None:
    try:
        result = callback()
    except (Exception, SystemExit, KeyboardInterrupt):
        log.exception("an on_drain callback raised")
        return None
    return _finished(result) if inspect.isawaitable(result) else None


async def _finished(result: Awaitable[Any]) -> None:
    # Caught here: a loop lets an exit through that its task raises.
    try:
        await result
    except (Exception, SystemExit, KeyboardInterrupt):
        log.exception("an on_drain callback raised")

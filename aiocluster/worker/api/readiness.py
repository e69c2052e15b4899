"""A worker's readiness and drain, as the user's code sees them."""

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiocluster.errors import ConfigError

log = logging.getLogger("aiocluster.worker")


class Readiness:
    """A worker's readiness: declared by the app, and actual; and its callbacks for the drain."""

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
        """Become ready, unless the worker leaves already."""
        self._serving = True

    def leave(self) -> None:
        """Stop being ready, for good. Idempotent."""
        self._leaving = True

    def stop(self) -> None:
        """Note that the drain begins. Idempotent."""
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
        # A thread may call this after the loop has closed: then nothing is left to become ready.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._declared.set)

    @property
    def is_declared(self) -> bool:
        """True if the app has declared itself ready, or need not do so."""
        return self._declared.is_set()

    async def wait_declared(self) -> None:
        """Wait until the app has declared itself ready, or return at once if it need not."""
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
        """Call all registered callbacks, and wait for the async ones. Works once."""
        callbacks, self._on_drain = self._on_drain, {}
        awaited = [_call(callback) for callback in callbacks.values()]
        # A callback that cancels itself ends no other.
        await asyncio.gather(*filter(None, awaited), return_exceptions=True)


def _call(callback: Callable[[], Any]) -> Awaitable[None] | None:
    try:
        result = callback()
    except (Exception, SystemExit, KeyboardInterrupt):
        log.exception("an on_drain callback raised")
        return None
    return _finished(result) if inspect.isawaitable(result) else None


async def _finished(result: Awaitable[Any]) -> None:
    # Caught here: asyncio raises a task's exit out of the loop.
    try:
        await result
    except (Exception, SystemExit, KeyboardInterrupt):
        log.exception("an on_drain callback raised")

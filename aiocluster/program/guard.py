"""Ends a program that was told to stop and cannot, since its loop is blocked.

A log that nobody reads is enough for that: a write to a full pipe does not return, and whoever
writes does nothing else any more, the primary included. No handler of a log can help all who
have their own. So the signals that stop a program are heard twice: by the loop, and here, for
Python runs its handlers also amid a write. Then a thread waits until the stop must be over.
"""

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from aiocluster.program.signals import held_from_new_threads

log = logging.getLogger("aiocluster")

# Seconds between two looks at the time and the loop.
_LOOK_INTERVAL = 0.1

# What a loop that is well needs for a turn, on the busiest machine, seconds.
_TURN_TIMEOUT = 1.0

# What telling may take, seconds: the log may be what blocks.
_TELL_TIMEOUT = 1.0


class Guard:
    """Calls `end` in a thread of its own when the loop does not turn after the deadline."""

    def __init__(
        self, end: Callable[[], object], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._end = end
        self._now = now
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deadline = float("inf")
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def listen(self, seconds: dict[int, float]) -> None:
        """Watch the running loop, by these deadlines, from the moment that such a signal comes.

        Its own handlers must be there already, and are called as before.
        """
        self._loop = asyncio.get_running_loop()

        def on_signal(number: int, frame: Any) -> None:
            self.watch(seconds[number])
            if callable(hear := before[number]):
                hear(number, frame)

        # Mostly the loop hears of it by Python's wake-up descriptor; else by its own handler.
        before = {number: signal.signal(number, on_signal) for number in seconds}

    def watch(self, seconds: float) -> None:
        """From `seconds` from now on the loop must turn. Asked again it may only be sooner.

        May be called at any moment, within itself too: so it takes no lock.
        """
        self._deadline = min(self._deadline, self._now() + seconds)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)
            with held_from_new_threads():
                self._thread.start()

    def close(self) -> None:
        """Watch no more. Idempotent."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_INTERVAL):
            if self._now() >= self._deadline and not self._turns():
                self._end()
                return

    def _turns(self) -> bool:
        """Does the loop turn, or is all over, in a moment?"""
        assert self._loop is not None
        turned = threading.Event()
        try:
            self._loop.call_soon_threadsafe(turned.set)
        except RuntimeError:  # it is closed: only the last lines of the program are left
            turned = self._over
        return turned.wait(_TURN_TIMEOUT)


def leave(kill: Callable[[], None], code: int) -> None:
    """Kill the children, say so if somebody reads, and end this process without its loop."""
    try:
        kill()
        _tell("told to stop, but the loop is blocked (does nobody read the log?): killed the rest")
    finally:
        os._exit(code)


def _tell(message: str) -> None:
    telling = threading.Thread(target=log.error, args=(message,), daemon=True)
    telling.start()
    telling.join(_TELL_TIMEOUT)

"""Ends a program that should stop and cannot, since its loop is blocked.

A log that no process reads is enough for that: a write to a full pipe does not return, and blocks
the writing process, the primary included. A log handler of ours cannot help programs with their
own. So the signals that stop a program are handled twice: by the loop, and here, since Python runs
its handlers also amid a write. The kernel sends a SIGALRM when the stop must be over; a loop that
turns postpones it. The default action of SIGALRM ends the process, whatever blocks it. No thread
is needed, since none can start at the limit of processes. The zygotes then end the workers. The
timer also counts the time in which a process is paused (Ctrl-Z, a container's freezer): a primary
that is paused past the end of its stop ends when it goes on.
"""

import asyncio
import math
import signal
import time
from collections.abc import Callable
from typing import Any

# Seconds that a turn of a loop that is not blocked takes at most, on the busiest machine.
_TURN_TIMEOUT = 1.0

# Seconds between two turns in which the loop postpones its end.
_TURN_INTERVAL = 0.1


def end_in(seconds: float) -> None:
    """Let the kernel end this process in so many seconds; an earlier request is replaced.

    This does nothing on Windows, which has no such timer.
    """
    if not hasattr(signal, "setitimer"):
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    # 0 would cancel the timer.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))


def end_never() -> None:
    """Cancel `end_in`. Idempotent."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0.0)


class StopWatchdog:
    """A watchdog that ends the process, by `end_in`, if its loop is blocked after the deadline."""

    def __init__(
        self,
        end_in: Callable[[float], None] = end_in,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._end_in = end_in
        self._now = now
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deadline = math.inf
        self._closed = False

    def listen(self, seconds: dict[int, float]) -> None:
        """Watch the running loop from the first of these signals on, with the signal's deadline.

        The loop's own handlers must be set already, and are called as before.
        """
        self._loop = asyncio.get_running_loop()

        def on_signal(number: int, frame: Any) -> None:
            self.watch(seconds[number])
            if callable(hear := before[number]):
                hear(number, frame)

        # Usually Python's wake-up descriptor informs the loop; otherwise the loop's own handler.
        before = {number: signal.signal(number, on_signal) for number in seconds}

    def watch(self, seconds: float) -> None:
        """Watch the loop with a deadline in `seconds`; a later call can only make that sooner.

        It may be called at any moment, even within itself, so it takes no lock.
        """
        assert self._loop is not None
        if self._closed:
            return
        is_first = self._deadline == math.inf
        self._deadline = min(self._deadline, self._now() + seconds)
        self._put_off()
        if is_first:
            self._loop.call_soon_threadsafe(self._turn)

    def close(self) -> None:
        """Stop watching, and cancel the timer. Idempotent."""
        self._closed = True
        end_never()

    def _turn(self) -> None:
        assert self._loop is not None
        if not self._closed:
            self._put_off()
            self._loop.call_later(_TURN_INTERVAL, self._turn)

    def _put_off(self) -> None:
        self._end_in(max(self._deadline - self._now(), 0.0) + _TURN_TIMEOUT)

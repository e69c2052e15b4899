"""Ends a program that was told to stop and cannot, since its loop is blocked.

A log that nobody reads is enough for that: a write to a full pipe does not return, and whoever
writes does nothing else any more, the primary included. No handler of a log can help all who
have their own. So the signals that stop a program are heard twice: by the loop, and here, for
Python runs its handlers also amid a write. The kernel is asked for a SIGALRM when the stop must
be over, and a loop that turns puts that off. Its default action ends the process, whatever that
is blocked in; no thread is started, which at the limit of processes is not to be had. The zygotes
then end the workers. The timer also counts the time in which a process is paused (Ctrl-Z, a
container's freezer): a primary that is paused past the end of its stop ends when it goes on.
"""

import asyncio
import math
import signal
import time
from collections.abc import Callable
from typing import Any

# What a loop that is well needs for a turn, on the busiest machine, seconds.
_TURN_TIMEOUT = 1.0

# Seconds between two turns by which the loop puts its end off.
_TURN_INTERVAL = 0.1


def end_in(seconds: float) -> None:
    """Let the kernel end this process in so many seconds, in the place of when it was asked before.

    Not on Windows, which has no such timer.
    """
    if not hasattr(signal, "setitimer"):
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    # 0 would be never.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))


def end_never() -> None:
    """Take `end_in` back. Idempotent."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0.0)


class StopWatchdog:
    """Has the process ended, by `end_in`, when its loop does not turn after the deadline."""

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
        assert self._loop is not None
        if self._closed:
            return
        is_first = self._deadline == math.inf
        self._deadline = min(self._deadline, self._now() + seconds)
        self._put_off()
        if is_first:
            self._loop.call_soon_threadsafe(self._turn)

    def close(self) -> None:
        """Watch no more, and take back what was asked for. Idempotent."""
        self._closed = True
        end_never()

    def _turn(self) -> None:
        assert self._loop is not None
        if not self._closed:
            self._put_off()
            self._loop.call_later(_TURN_INTERVAL, self._turn)

    def _put_off(self) -> None:
        self._end_in(max(self._deadline - self._now(), 0.0) + _TURN_TIMEOUT)

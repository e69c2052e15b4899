"""The latest time at which a worker is killed, and the reason."""

import asyncio
from collections.abc import Callable

from aiocluster.timeouts import Countdown


class KillTimer:
    """A timer that calls `kill(reason)`. Its end may be brought nearer, and never moved away."""

    def __init__(self, kill: Callable[[str], None]) -> None:
        self._kill = kill
        self._countdown: Countdown | None = None
        self._reason = ""

    def at_latest_in(self, seconds: float, reason: str) -> None:
        """Kill for `reason` in `seconds`, unless an earlier kill is due."""
        if self._countdown is not None:
            if self._countdown.left() <= seconds:
                return
            self._countdown.cancel()
        self._countdown = Countdown(seconds, lambda: self._kill(reason))
        self._reason = reason

    def cancel(self) -> None:
        """Stop the timer. Idempotent."""
        if self._countdown is not None:
            self._countdown.cancel()
            self._countdown = None

    def state(self) -> tuple[float, str] | None:
        """Return when the kill is due, on the loop's clock, and its reason; None if none is due."""
        if self._countdown is None:
            return None
        return asyncio.get_running_loop().time() + self._countdown.left(), self._reason

    def adopt(self, state: tuple[float, str] | None) -> None:
        """Restore the timer of the previous program."""
        if state is not None:
            when, reason = state
            self.at_latest_in(when - asyncio.get_running_loop().time(), reason)

"""When a worker is killed at the latest, and for what."""

import asyncio
from collections.abc import Callable

from aiocluster.timeouts import Countdown


class KillTimer:
    """May be brought nearer, and never moved away. `kill(reason)` is called when it passes."""

    def __init__(self, kill: Callable[[str], None]) -> None:
        self._kill = kill
        self._countdown: Countdown | None = None
        self._reason = ""

    def at_latest_in(self, seconds: float, reason: str) -> None:
        """Kill for `reason` in so many seconds, unless it is due for another before."""
        if self._countdown is not None:
            if self._countdown.left() <= seconds:
                return
            self._countdown.cancel()
        self._countdown = Countdown(seconds, lambda: self._kill(reason))
        self._reason = reason

    def cancel(self) -> None:
        """Kill for nothing any more. Idempotent."""
        if self._countdown is not None:
            self._countdown.cancel()
            self._countdown = None

    def state(self) -> tuple[float, str] | None:
        """Return when it is, on the loop's clock, and for what; None if there is none."""
        if self._countdown is None:
            return None
        return asyncio.get_running_loop().time() + self._countdown.left(), self._reason

    def adopt(self, state: tuple[float, str] | None) -> None:
        """Go on with the one of another program."""
        if state is not None:
            when, reason = state
            self.at_latest_in(when - asyncio.get_running_loop().time(), reason)

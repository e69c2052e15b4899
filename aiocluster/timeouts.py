"""Deadlines that count only the time in which this process could run.

If a whole container is paused, a deadline that passes during the pause says nothing about the
process that is waited for: it could not run either. So time is counted in ticks, and a tick that
comes late counts little more than one that is on time. A late tick is never the last one: what
other processes did during the pause is still to be read.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

# A worker cuts what is left at the end of its own graceful_timeout and then runs the app's
# clean-up hooks; this many seconds later it is killed.
KILL_GRACE = 3.0

# A zygote ends with its socket: it runs the exit hooks of the import and ends what that has
# started, for which it has a little less than this; after so many seconds it is killed.
EXIT_TIMEOUT = 5.0

# Seconds between two looks at the clock.
_TICK = 0.5

# A tick so many seconds late is a busy machine's, and counts whole; what is beyond was a pause.
_LATE = 0.5


class Countdown:
    """A timer: calls `callback` once, after `seconds` in which this process could run.

    It looks at the clock every `tick` seconds: of a pause so much may count, and `late` more.
    """

    def __init__(
        self,
        seconds: float,
        callback: Callable[[], object],
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        tick: float = _TICK,
        late: float = _LATE,
    ) -> None:
        self._loop = loop or asyncio.get_running_loop()
        self._longest_tick, self._late = tick, late
        self._callback = callback
        self._left = max(seconds, 0.0)
        self._was_paused = False  # at the last tick
        self._tick()

    def left(self) -> float:
        """Return the seconds until its end; 0.0 when that is due."""
        return max(self._left - self._passed(), 0.0)

    def cancel(self) -> None:
        """Never call back. Idempotent."""
        self._timer.cancel()

    def _passed(self) -> float:
        return min(self._loop.time() - self._looked, self._due + self._late)

    def _tick(self) -> None:
        self._looked = self._loop.time()
        self._due = min(self._left, self._longest_tick)
        self._timer = self._loop.call_at(self._looked + self._due, self._on_tick)

    def _on_tick(self) -> None:
        is_paused = self._loop.time() - self._looked > self._due + self._late
        self._left -= self._passed()
        # Once: what is late at every tick is no pause, and must end too.
        if is_paused and not self._was_paused:
            self._left = max(self._left, self._late)
        self._was_paused = is_paused
        # The clock may be a rounding short of what was asked for.
        if self._left > 1e-6:
            self._tick()
        else:
            self._callback()


@asynccontextmanager
async def running_timeout(seconds: float) -> AsyncIterator[None]:
    """End what is inside with TimeoutError after such a countdown."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as timeout:
        countdown = Countdown(seconds, lambda: timeout.reschedule(loop.time()))
        try:
            yield
        finally:
            countdown.cancel()

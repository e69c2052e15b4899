"""Decides when a dead worker may start again.

Failures fade: each counts half after `half_life` seconds. So a worker that crashes once a
day is always replaced at once, and a worker that crashes in a loop is slowed down more and
more, whatever the number of workers. The first `max_failures` are free; each one beyond
doubles the wait, up to `max_delay`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log2

from aiocluster.ipc.handover import FailuresState
from aiocluster.primary.workers.exits import CRASH_WEIGHT

# Seconds to wait after the first failure too many; the wait doubles from there.
_FIRST_DELAY = 0.1

# If so few failures still count, the role is well, even if no failure is free.
_CALM = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartConfig:
    """The limits for starts after failures. Times are seconds."""

    max_failures: float = 10.0
    half_life: float = 30.0
    max_delay: float = 15.0


class RestartPolicy:
    """A count of failures that fade, and the wait after each.

    `jitter()` returns a number from 0 to 1: workers that died together should not all start
    again in the same millisecond.
    """

    def __init__(self, config: RestartConfig, jitter: Callable[[], float]) -> None:
        self._config = config
        self._jitter = jitter
        self._failures = 0.0
        self._last_failure = 0.0

    def state(self, *, is_degraded: bool) -> FailuresState:
        """Return what the next program must know."""
        return FailuresState(count=self._failures, last=self._last_failure, is_degraded=is_degraded)

    def adopt(self, state: FailuresState) -> None:
        """Restore the previous program's count."""
        self._failures, self._last_failure = state.count, state.last

    def delay_after_failure(self, now: float, weight: float = CRASH_WEIGHT) -> float:
        """Count a failure at `now`; return the seconds to wait before a restart."""
        self._failures = self.failures(now) + weight
        self._last_failure = now
        excess = self._failures - self._config.max_failures
        if excess <= 0:
            return 0.0
        # Beyond 2**20 the wait is at its limit, whatever the base.
        wait = _FIRST_DELAY * 2.0 ** min(excess, 20.0)
        return float(min(wait, self._config.max_delay)) * (0.75 + 0.25 * self._jitter())

    def is_past_limit(self, now: float) -> bool:
        """Return True if more failures count at `now` than are free."""
        return self.failures(now) > self._config.max_failures

    def recovers_in(self, now: float) -> float:
        """Return the seconds from `now` until only half of the free failures still count.

        With half, one more failure does not degrade the role again at once. 0 if that is so now.
        """
        calm = max(self._config.max_failures / 2, _CALM)
        excess = self.failures(now) / calm
        return self._config.half_life * log2(excess) if excess > 1.0 else 0.0

    def failures(self, now: float) -> float:
        """Return the failures that still count at `now`."""
        age = max(now - self._last_failure, 0.0)
        return self._failures * float(0.5 ** (age / self._config.half_life))

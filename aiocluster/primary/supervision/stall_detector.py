"""Measures how long a worker's loop has not turned, and raises the alarms for that.

The primary counts time in its own ticks, and limits what one tick counts. If the machine was
asleep, the whole cluster was stopped or the primary was starved, one tick comes late. That
proves nothing against any worker.
"""

from dataclasses import dataclass
from enum import StrEnum

# Seconds between two beats of a loop that turns (worker/heartbeat.py).
BEAT = 0.1


# Seconds. If a tick comes later than this, the cause is the primary, not a worker.
LATE = 0.05


def counted(elapsed: float, due: float) -> float:
    """Return how many of the `elapsed` seconds count if a tick was due after `due`."""
    return min(elapsed, due + LATE)


@dataclass(frozen=True, slots=True)
class StallLimits:
    """The seconds of a stall after which something is done; 0 in the last two: never."""

    steal_after: float
    lag_warning: float
    hang_timeout: float


class Alarm(StrEnum):
    """An alarm about a worker's loop that does not turn."""

    LAGS = "lags"  # log it, once
    HANGS = "hangs"  # log it, and kill the worker


class StallDetector:
    """A detector of stalls in one worker's loop, by the heartbeat that the loop counts."""

    def __init__(self, limits: StallLimits) -> None:
        self.stalled = 0.0  # seconds since the last beat
        # Both until the next beat:
        self.is_late = False  # the worker has left connections untaken
        self.queue_was_reclaimed = False  # the primary took them back, and has logged that
        self._limits = limits
        # A loop that turns may seem still for up to two beats.
        self._stuck_after = max(limits.steal_after, 2 * BEAT)
        self._beat = 0
        self._raised: Alarm | None = None

    @property
    def is_stuck(self) -> bool:
        """Return True if the worker should get no connections as long as others can."""
        return self.is_late or self.stalled >= self._stuck_after

    @property
    def was_told(self) -> bool:
        """Return True if an alarm was raised since the last beat."""
        return self._raised is not None

    def has_beaten(self, beat: int) -> bool:
        """Return True if the beat has changed since the last look, or is 0: the worker leaves."""
        return beat != self._beat or not beat

    def observe(self, beat: int, passed: float) -> Alarm | None:
        """Note the beat (0: the worker leaves) after `passed` more seconds; return a due alarm.

        Each alarm is raised once in a stall; the next beat ends the stall.
        """
        if self.has_beaten(beat):
            self._beat, self.stalled = beat, 0.0
            self.is_late = self.queue_was_reclaimed = False
            self._raised = None
            return None
        self.stalled += passed
        return self._alarm()

    def _alarm(self) -> Alarm | None:
        alarm = self._due()
        if alarm is None or self._raised in (alarm, Alarm.HANGS):
            return None
        self._raised = alarm
        return alarm

    def _due(self) -> Alarm | None:
        limits = self._limits
        if limits.hang_timeout and self.stalled >= limits.hang_timeout:
            return Alarm.HANGS
        # The loop may have turned until just before its next beat was due.
        if limits.lag_warning and self.stalled > limits.lag_warning + BEAT:
            return Alarm.LAGS
        return None

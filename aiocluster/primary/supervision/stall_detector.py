"""How long a worker's loop has not turned, and what that calls for.

Time is counted in the primary's own ticks, and no tick counts more than a little: a machine
that was asleep, a cluster that was stopped as a whole and a primary that was starved all look
like one tick that came late, which proves nothing against any worker.
"""

from dataclasses import dataclass
from enum import StrEnum

# Seconds between two beats of a loop that turns (worker/heartbeat.py).
BEAT = 0.1


# A tick that comes so many seconds late tells of the primary, not of the workers.
LATE = 0.05


def counted(elapsed: float, due: float) -> float:
    """Return how many of the `elapsed` seconds count when a tick was due after `due`."""
    return min(elapsed, due + LATE)


@dataclass(frozen=True, slots=True)
class StallLimits:
    """What a stall calls for after how many seconds; 0 in the last two: never."""

    steal_after: float
    lag_warning: float
    hang_timeout: float


class Alarm(StrEnum):
    """What must be done about a worker's loop that does not turn."""

    LAGS = "lags"  # tell, once
    HANGS = "hangs"  # tell, and end it


class StallDetector:
    """The heart of one worker."""

    def __init__(self, limits: StallLimits) -> None:
        self.stalled = 0.0  # seconds since its last beat
        # Both until its next beat:
        self.is_late = False  # it has left connections untaken
        self.queue_was_reclaimed = False  # of these, and it was told
        self._limits = limits
        # Less than two beats is what a loop that turns may look like.
        self._stuck_after = max(limits.steal_after, 2 * BEAT)
        self._beat = 0
        self._raised: Alarm | None = None

    @property
    def is_stuck(self) -> bool:
        """Is it better to give it nothing, as long as there are others?"""
        return self.is_late or self.stalled >= self._stuck_after

    @property
    def was_told(self) -> bool:
        """Was an alarm raised since its last beat?"""
        return self._raised is not None

    def has_beaten(self, beat: int) -> bool:
        """Has its heart beaten since the last look, or stopped because it leaves?"""
        return beat != self._beat or not beat

    def feel(self, beat: int, passed: float) -> Alarm | None:
        """Look at its heart (0: it has stopped it, and leaves) after `passed` more seconds.

        Each alarm is raised once an episode; the next beat ends that.
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
        # It may have turned until just before its next beat was due.
        if limits.lag_warning and self.stalled > limits.lag_warning + BEAT:
            return Alarm.LAGS
        return None

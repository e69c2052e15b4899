"""How quickly a worker's loop turns, told from when it was woken for connections."""

# Woken again within this many seconds (the loop's clock counts milliseconds), it turns quickly.
QUICK = 0.0015

# To stand last costs 2 µs: who turns quickly does it only once in so many wake-ups.
_QUICK_IN_A_ROW = 8


class Pace:
    """What the last wake-ups tell."""

    def __init__(self) -> None:
        self.is_time = True
        """Is it time to let the other workers be woken before this one?"""

        self.was_slow = False
        """Was the loop slow twice in a row? Once alone tells nothing: perhaps nobody had come."""

        self._was_slow_before = False
        self._woken = 0.0
        self._quick_in_a_row = 0

    def woken(self, now: float) -> None:
        """It was woken at this moment, in seconds of the loop's clock."""
        is_quick, self._woken = now - self._woken < QUICK, now
        self.was_slow = self._was_slow_before and not is_quick
        self._was_slow_before = not is_quick
        self.is_time = not is_quick or self._quick_in_a_row >= _QUICK_IN_A_ROW
        self._quick_in_a_row = 0 if self.is_time else self._quick_in_a_row + 1

"""The speed at which a worker's loop turns, measured by its wake-ups for connections."""

# The loop is quick if its wake-ups are less than this apart, in seconds (its clock counts ms).
QUICK = 0.0015

# Going to the end of the kernel's queue costs 2 µs: a quick loop does so after this many wake-ups.
_QUICK_IN_A_ROW = 8


class Pace:
    """The pace of a loop, as its last wake-ups show it."""

    def __init__(self) -> None:
        self.is_time = True
        """True if this worker should go to the end of the kernel's queue of waiters."""

        self.was_slow = False
        """True if the loop was slow twice in a row; once may only mean that no client came."""

        self._was_slow_before = False
        self._woken = 0.0
        self._quick_in_a_row = 0

    def woken(self, now: float) -> None:
        """Note a wake-up at `now`, in seconds of the loop's clock."""
        is_quick, self._woken = now - self._woken < QUICK, now
        self.was_slow = self._was_slow_before and not is_quick
        self._was_slow_before = not is_quick
        self.is_time = not is_quick or self._quick_in_a_row >= _QUICK_IN_A_ROW
        self._quick_in_a_row = 0 if self.is_time else self._quick_in_a_row + 1

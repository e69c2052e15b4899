"""The policy `least_connections`: the worker with the fewest open connections, equals in turn.

Reading the figures of 128 workers for each connection would cost more than the handoff. So each
choice reads a few figures anew, in rotation, and counts one more for the chosen worker until its
figure is read again. Up to four workers the figures are exact. With 8, no figure is older than
the choice before; with 128, than 31 choices. An old figure only misses connections closed since.
"""

from collections.abc import Sequence

from aiocluster.policies.base import C, Candidate
from aiocluster.policies.round_robin import first_after

# With four, a choice costs 1.2 µs among 8 workers and 3.2 among 128. With eight, it costs 0.4 µs
# more, which is over 2 µs among 8 workers when a machine is slow for a while.
_ASKED_EACH_TIME = 4


class LeastConnections:
    """A policy for connections of unequal length, which round robin does not even out."""

    may_rebalance = True

    def __init__(self) -> None:
        self._order: Sequence[object] = ()
        self._loads: list[int] = []  # one for each candidate
        self._ask_next = 0
        self._next = 0  # the position that has its turn among equals
        self._last_slot = -1

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        """Return the candidate with the fewest connections, by the figures read so far."""
        if candidates is not self._order:
            self._begin(candidates)
        loads = self._loads
        start = self._ask_next
        stop = start + _ASKED_EACH_TIME
        loads[start:stop] = [candidate.open_connections for candidate in candidates[start:stop]]
        self._ask_next = stop if stop < len(loads) else 0

        # The loads stand twice, so that the search goes on from the beginning.
        position = (loads + loads).index(min(loads), self._next) % len(loads)
        loads[position] += 1
        self._next = position + 1
        chosen = candidates[position]
        self._last_slot = chosen.slot
        return chosen

    def _begin(self, candidates: Sequence[Candidate]) -> None:
        self._loads = [candidate.open_connections for candidate in candidates]
        self._ask_next = 0
        self._next = first_after(self._last_slot, candidates)
        self._order = candidates

"""The policy `round_robin`: each worker in turn, by slot.

The policy remembers the slot that was chosen last, not a position. So when a worker comes or
goes, the others neither lose a turn nor get two.
"""

from collections.abc import Sequence

from aiocluster.policies.base import C, Candidate


class RoundRobin:
    """A policy by which, over the same candidates, no worker is ever two connections ahead."""

    may_rebalance = True

    def __init__(self) -> None:
        self._order: Sequence[object] = ()
        self._next = 0
        self._last_slot = -1

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        """Return the next candidate in turn."""
        if candidates is not self._order:
            self._order = candidates
            self._next = first_after(self._last_slot, candidates)
        chosen = candidates[self._next]
        self._next = (self._next + 1) % len(candidates)
        self._last_slot = chosen.slot
        return chosen


def first_after(slot: int, candidates: Sequence[Candidate]) -> int:
    """Return the position of the first candidate above `slot`; if there is none, 0."""
    for position, candidate in enumerate(candidates):
        if candidate.slot > slot:
            return position
    return 0

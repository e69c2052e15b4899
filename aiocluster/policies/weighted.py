"""Each worker in turn, by slot, and some more often than others.

A worker of weight 3 is due every 1/3 of the time in which one of weight 1 is due once, the first
time after half its interval; who is due first is chosen. So turns are spread as evenly as
they can be, and over each cycle (as many connections as all weights together) everyone
has exactly its share.

When a worker comes or goes the others stay due when they were. One that comes back after it has
missed turns is due at once, but for one turn only: it is not given those all in one burst.
"""

from collections.abc import Mapping, Sequence
from heapq import heapify, heapreplace
from math import lcm
from typing import TypeGuard

from aiocluster.errors import ConfigError
from aiocluster.policies.base import C, Candidate

# Shares finer than a thousandth could not be told from equal ones.
MAX_WEIGHT = 1000


def weighted(*weights: int | Mapping[int, int]) -> "Weighted":
    """Make the policy: `weighted(3, 1)`, by slot, or `weighted({4: 3})`; all others have 1."""
    match weights:
        case (Mapping() as by_slot,):
            return Weighted(by_slot)
    return Weighted(dict(enumerate(weights)))


class Weighted:
    """Connections in proportion to weights; one of weight 0 gets some only where all have 0.

    Time is whole numbers, so that nothing is lost by rounding, however long it runs.
    """

    def __init__(self, weights: Mapping[int, object] | None = None) -> None:
        self._weights = {slot: _checked(slot, weight) for slot, weight in (weights or {}).items()}
        # In which every weight goes twice: half an interval is a whole number, too.
        self._cycle = 2 * lcm(*(weight for weight in self._weights.values() if weight))
        self._order: Sequence[Candidate] = ()
        self._queue: list[tuple[int, int, int]] = []  # when due, position, interval
        self._due: dict[int, int] = {}  # by slot: also of those that went, as they may be back
        self._now = 0

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        """Return the candidate that is due first."""
        if candidates is not self._order:
            self._line_up(candidates)
        due, position, interval = self._queue[0]
        heapreplace(self._queue, (due + interval, position, interval))
        self._now = due
        return candidates[position]

    def _line_up(self, candidates: Sequence[Candidate]) -> None:
        self._due |= {self._order[position].slot: due for due, position, _ in self._queue}
        self._queue = [
            (self._due_again(candidates[position].slot, interval), position, interval)
            for position, interval in self._intervals(candidates)
        ]
        heapify(self._queue)
        self._order = candidates

    def _due_again(self, slot: int, interval: int) -> int:
        return max(self._due.get(slot, self._now + interval // 2), self._now)

    def _intervals(self, candidates: Sequence[Candidate]) -> list[tuple[int, int]]:
        """Return (position, interval) of those that may be chosen."""
        weights = [self._weights.get(candidate.slot, 1) for candidate in candidates]
        if not any(weights):
            weights = [1] * len(weights)
        return [
            (position, self._cycle // weight) for position, weight in enumerate(weights) if weight
        ]


def _checked(slot: object, weight: object) -> int:
    """Return the weight, as an int; ConfigError when one of both is no whole number."""
    if not _is_whole(slot):
        raise ConfigError(f"weighted: {slot!r} is no slot; give a whole number from 0")
    if not _is_whole(weight) or weight > MAX_WEIGHT:
        raise ConfigError(
            f"weighted: {weight!r} is no weight, of slot {slot}; "
            f"give a whole number from 0 to {MAX_WEIGHT}"
        )
    return weight


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

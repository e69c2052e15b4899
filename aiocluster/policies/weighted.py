"""The policy `weighted`: each worker in turn, by slot, some more often than others.

The worker that is due first is chosen. A worker of weight 3 is due three times as often as one
of weight 1, the first time after half its interval. So turns are spread as evenly as possible,
and over each cycle (as many connections as the sum of the weights) each worker gets exactly its
share.

When a worker comes or goes, the times of the others do not change. A worker that comes back after
it has missed turns is due at once, but for one turn only: it does not get the others in a burst.
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
    """Return the policy: `weighted(3, 1)`, by slot, or `weighted({4: 3})`; all others have 1."""
    match weights:
        case (Mapping() as by_slot,):
            return Weighted(by_slot)
    return Weighted(dict(enumerate(weights)))


class Weighted:
    """A policy that gives workers connections in proportion to their weights.

    A worker of weight 0 gets connections only if all weights are 0. Times are whole numbers, so
    that no rounding error grows, however long the policy runs.
    """

    def __init__(self, weights: Mapping[int, object] | None = None) -> None:
        self._weights = {slot: _checked(slot, weight) for slot, weight in (weights or {}).items()}
        # The cycle is a multiple of twice each weight, so that half an interval is whole, too.
        self._cycle = 2 * lcm(*(weight for weight in self._weights.values() if weight))
        self._order: Sequence[Candidate] = ()
        self._queue: list[tuple[int, int, int]] = []  # when due, position, interval
        self._due: dict[int, int] = {}  # by slot; kept for a worker that may come back
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
        """Return (position, interval) of each candidate that may be chosen."""
        weights = [self._weights.get(candidate.slot, 1) for candidate in candidates]
        if not any(weights):
            weights = [1] * len(weights)
        return [
            (position, self._cycle // weight) for position, weight in enumerate(weights) if weight
        ]


def _checked(slot: object, weight: object) -> int:
    """Return the weight as an int; raise ConfigError if it or the slot is no whole number."""
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

"""The policy `least_loaded`: of two workers chosen at random, the one with less to do.

Why two, and not the least loaded of all: the figures of a worker are always a little old. If all
connections went to the worker that was idle a moment ago, that worker would become the busiest.
Two at random are nearly as good as all, and cost the same for any number of workers.

A request in flight and a queued connection count one each: both come before a new connection.
If the sums are equal, requests in flight decide, because one may be blocking the event loop; then
lag decides. Lag comes last because it is old: a loop reports that it was blocked only when it is
free again (measured, benchmarks/slow_requests.py: added up with the others, lag sent the next
requests to blocked workers, and p99 was that of round robin).
"""

import random
from collections.abc import Callable, Sequence

from aiocluster.policies.base import C, Candidate

# Lag is compared in steps of 10 ms: a smaller difference is mostly noise of the measurement.
_LAG_STEPS = 100  # a second


class LeastLoaded:
    """A policy for requests that differ much: a worker busy with a heavy one gets fewer others.

    `draw()` returns a number from 0 to 1, 1 excluded.
    """

    may_rebalance = True

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        """Return the less loaded of two; if they are equal, the one with fewer connections."""
        others = len(candidates) - 1
        if not others:
            return candidates[0]
        # One draw makes an ordered pair; all pairs are equally likely.
        first, second = divmod(int(self._draw() * (others + 1) * others), others)
        one, other = candidates[first], candidates[second + (second >= first)]
        return one if _load(one) <= _load(other) else other


def _load(worker: Candidate) -> tuple[int, int, int, int]:
    in_flight = worker.requests_in_flight
    late = int(worker.lag * _LAG_STEPS)
    # Open connections come last: one that is idle now may be a request later.
    return in_flight + worker.queued, in_flight, late, worker.open_connections

"""Of two workers at random, the one with less to do.

Why two, and not the least loaded of all: what is known of a worker is always a little old, and
a crowd that all runs to the one that was idle a moment ago makes it the busiest. Two at random
are nearly as good as all, never follow each other blindly, and cost the same for any number.

One in flight and one queued count one each: both are work that comes before what is given now.
Where that is equal, what is in flight counts more, for it may be what blocks the loop, and then
who is late. Lag comes last because it is old: a loop that was blocked says so when it is free
again, and one that is blocked now does not (measured, benchmarks/slow_requests.py: added up with
the others it sent the next requests to whoever was blocked, and p99 was that of round robin).
"""

import random
from collections.abc import Callable, Sequence

from aiocluster.policies.base import C, Candidate

# Lag is told apart in steps of 10 ms: less is mostly the noise of the measuring.
_LAG_STEPS = 100  # a second


class LeastLoaded:
    """For requests that differ much: who is held up by a heavy one is given no more.

    `draw()` returns a number from 0 to 1, 1 excluded.
    """

    may_rebalance = True

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        """Return the better of two; if they are equal, that with fewer open connections."""
        others = len(candidates) - 1
        if not others:
            return candidates[0]
        # One draw makes an ordered pair, each as likely as any other.
        first, second = divmod(int(self._draw() * (others + 1) * others), others)
        one, other = candidates[first], candidates[second + (second >= first)]
        return one if _load(one) <= _load(other) else other


def _load(worker: Candidate) -> tuple[int, int, int, int]:
    in_flight = worker.requests_in_flight
    # A connection that is idle now is a request later.
    late = int(worker.lag * _LAG_STEPS)
    return in_flight + worker.queued, in_flight, late, worker.open_connections

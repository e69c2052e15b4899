"""Of two workers at random, the one with less to do.

Why two, and not the least loaded of all: what is known of a worker is always a little old, and
a crowd that all runs to the one that was idle a moment ago makes it the busiest. Two at random
are nearly as good as all, never follow each other blindly, and cost the same for any number.

The figures are added up to requests. One in flight and one queued count one each: both are work
that comes before what is given now. A late loop delays all of it, so lag counts as the requests
it would take to fill that time.
"""

import random
from collections.abc import Callable, Sequence

from aiocluster.policies.base import C, Candidate

# 10 ms of a loop are a heavy request. Whole ones count: less is mostly the noise of the measuring,
# and must not decide.
_REQUESTS_A_SECOND = 100


class LeastLoaded:
    """For requests that differ much: who is held up by a heavy one is given no more.

    `draw()` returns a number from 0 to 1, 1 excluded.
    """

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
        # A connection that is idle now is a request later.
        lead = _load(one) - _load(other) or one.open_connections - other.open_connections
        return one if lead <= 0 else other


def _load(worker: Candidate) -> int:
    return worker.requests_in_flight + worker.queued + int(worker.lag * _REQUESTS_A_SECOND)

"""Checks whether a worker's row of the scoreboard can be true.

A wild pointer in the worker's code may have written there. The primary chooses, watches and counts
a worker by its figures. If these contradict each other, or the primary's, the worker is of no use.
"""

from collections.abc import Sequence

from msgspec.structs import astuple

from aiocluster.ipc.scoreboard import (
    ACCEPTED,
    CONNECTIONS_CLOSED,
    CONNECTIONS_TAKEN,
    HEARTBEAT,
    REQUESTS_BEGUN,
    REQUESTS_DONE,
)
from aiocluster.metrics.snapshot import Counters

# No true count gets this far; a count that has wrapped around is far beyond.
_MOST = 2**53

# A difference up to this may be a fault of the primary, for which no worker is disconnected.
_SLACK = 1000

# Nanoseconds: two processors may read slightly different times from one clock.
_CLOCK_SLACK = 10**9


# The figures that only grow. A heartbeat does not: it is 0 when the worker leaves.
_COUNTS = {
    CONNECTIONS_TAKEN: "taken connections",
    CONNECTIONS_CLOSED: "closed connections",
    ACCEPTED: "accepted connections",
    REQUESTS_BEGUN: "begun requests",
    REQUESTS_DONE: "done requests",
}


def contradiction(
    known: Sequence[int], before: Sequence[int], after: Sequence[int], sent: int, now: int
) -> str:
    """Return why a worker's figures cannot be true; "" if they can.

    The figures were read twice, since the worker counts on meanwhile: ends are taken from `before`,
    beginnings from `after`. The primary `sent` the worker so many connections. `now` is the
    monotonic clock after that, in nanoseconds. The `known` figures were true at an earlier time.
    """
    if after[HEARTBEAT] > now + _CLOCK_SLACK:
        return "its heartbeat lies in the future"
    taken, begun = after[CONNECTIONS_TAKEN], after[REQUESTS_BEGUN]
    if max(taken, begun, after[ACCEPTED]) > _MOST:
        return "it has counted to more than there can be"
    if taken > sent + _SLACK:
        return f"it has taken {taken} connections, and was given {sent}"
    if (closed := before[CONNECTIONS_CLOSED]) > taken + after[ACCEPTED] + _SLACK:
        return f"it has closed {closed} connections, and had {taken + after[ACCEPTED]}"
    if (done := before[REQUESTS_DONE]) > begun + _SLACK:
        return f"it has done {done} requests, and begun {begun}"
    fallen = (field for field in _COUNTS if before[field] < known[field])
    if (field := next(fallen, None)) is not None:
        return f"its {_COUNTS[field]} fell from {known[field]} to {before[field]}"
    return ""


def has_grown(before: Counters, after: Counters) -> bool:
    """Return True if `after` may follow `before` of the same worker: no count ever falls."""
    pairs = zip(astuple(before)[1:], astuple(after)[1:], strict=True)
    return all(old <= new <= _MOST for old, new in pairs)

"""Can a worker's row of the scoreboard be true?

A pointer of its code that has run wild may have written there. A worker whose figures contradict
each other, or what we know, is of no use: by them it is chosen, watched and counted.
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

# Nothing is counted up to this; a count that has wrapped around is far beyond.
_MOST = 2**53

# Figures that are so little apart may be a fault of ours, for which no worker is to go.
_SLACK = 1000

# Nanoseconds: a clock that two processors read is nearly one.
_CLOCK_SLACK = 10**9


# What is only counted up. A heartbeat is not: it is 0 when the worker leaves.
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
    """Say why a worker's figures cannot be true; "" if they can.

    They were read twice, as it counts on meanwhile: what ends was read `before` what begins. It was
    `sent` so many connections, and `now` is the monotonic clock, in nanoseconds, after that. The
    figures that are `known` were true at an earlier time.
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
    """May one follow the other, of the same worker? Nothing that was done is undone."""
    pairs = zip(astuple(before)[1:], astuple(after)[1:], strict=True)
    return all(old <= new <= _MOST for old, new in pairs)

"""What a policy is: one method that chooses among candidates. This is all of one:

    class FewestRequests:
        def choose(self, candidates, affinity):
            return min(candidates, key=lambda worker: worker.requests_in_flight)

    aiocluster.run(make_app, policy=FewestRequests())

It runs in the primary, for every connection, between `accept` and the handing over: so it must
answer at once, from what it is given and what it remembers. Asking a candidate for a figure
costs about 0.1 µs, which is little for 8 workers and much for 128. If it raises, or answers with
anything but a candidate, that is logged and counted, and round robin chooses in its place.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """The part of a worker that a policy may look at: facts, as they are now."""

    @property
    def slot(self) -> int:
        """Its place in the cluster, from 0. A worker that replaces another inherits its slot."""
        ...

    @property
    def worker_id(self) -> int:
        """Its own number, which no other worker ever has."""
        ...

    @property
    def open_connections(self) -> int:
        """Given to it, those of the batch that is being given included, and not closed."""
        ...

    @property
    def queued(self) -> int:
        """Given to it and not yet taken."""
        ...

    @property
    def requests_in_flight(self) -> int:
        """Begun and not yet answered, WebSockets included."""
        ...

    @property
    def lag(self) -> float:
        """How late its loop was lately, in seconds: more where a handler computes or blocks."""
        ...


C = TypeVar("C", bound=Candidate)


class Policy(Protocol):
    """Chooses a worker for one connection.

    Three more attributes are read if there are any:

    affinity_by: str     What `affinity` is made of: "ip", the client's address, packed, of 4 or
                         16 bytes; "header:NAME", "cookie:NAME" or "path:N", the value of that
                         header, cookie or segment (from 1) of the first request's path. A client
                         that does not send it in time has the affinity that "ip" would give.
                         Without `affinity_by`, or without an address, as on a Unix socket, it
                         is b"".
    strict: bool         True: the chosen worker gets the connection even if it is slow to take
                         what it was given. Otherwise another worker is asked for in that case.
    may_rebalance: bool  True: it does not matter which worker has a connection. Idle connections
                         may then be moved to even out their numbers, and one that a worker gives
                         back goes to the worker with the fewest. Otherwise it goes on in its
                         slot, or, without a worker there, where the policy says.
    """

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        """Return one of `candidates`: never empty, ordered by slot, all fit to serve.

        The same sequence object is passed again and again until a candidate comes or
        goes, so a policy may keep its place in it, or what it has worked out for it.
        While a reload replaces a worker, two candidates may have the same slot.
        """
        ...

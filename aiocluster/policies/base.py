"""The interface of a policy: one method that chooses among candidates. A whole policy is:

    class FewestRequests:
        def choose(self, candidates, affinity):
            return min(candidates, key=lambda worker: worker.requests_in_flight)

    aiocluster.run(make_app, policy=FewestRequests())

A policy runs in the primary, for every connection, between `accept` and the handoff. So it must
return at once, from its arguments and what it remembers. Reading a figure of a candidate costs
about 0.1 µs, which is little for 8 workers and much for 128. If the policy raises an exception or
returns anything but a candidate, the failure is logged and counted, and round robin chooses.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """The part of a worker that a policy may look at: its figures, as they are now."""

    @property
    def slot(self) -> int:
        """The worker's place in its role, from 0; the worker that replaces it takes it over."""
        ...

    @property
    def worker_id(self) -> int:
        """The worker's own number, which no other worker ever has."""
        ...

    @property
    def open_connections(self) -> int:
        """Connections that the worker has or is just being sent, and that are not closed."""
        ...

    @property
    def queued(self) -> int:
        """Connections that were sent to the worker and that it has not taken yet."""
        ...

    @property
    def requests_in_flight(self) -> int:
        """Requests that have begun and are not answered yet, WebSockets included."""
        ...

    @property
    def lag(self) -> float:
        """Recent seconds by which the event loop ran late: more if a handler computes or blocks."""
        ...


C = TypeVar("C", bound=Candidate)


class Policy(Protocol):
    """An object that chooses the worker for a new connection.

    Three more attributes are read if the policy has them:

    affinity_by: str     What `affinity` is made of: "ip", the client's address, packed, of 4 or
                         16 bytes; "header:NAME", "cookie:NAME" or "path:N", the value of that
                         header, cookie or segment (from 1) of the first request's path. If the
                         client does not send that in time, `affinity` is as with "ip". Without
                         `affinity_by`, or without an address, as on a Unix socket, `affinity`
                         is b"".
    strict: bool         True: the chosen worker gets the connection even if it is slow to take
                         its connections. Otherwise the policy chooses another worker then.
    may_rebalance: bool  True: any worker may have any connection. Idle connections may then be
                         moved to even out their numbers, and a return goes to the worker with
                         the fewest. Otherwise a return goes to the worker in the same slot, or,
                         without a worker there, to the worker that the policy chooses.
    """

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        """Return one of `candidates`, which are never empty, ordered by slot, and fit to serve.

        The same sequence object is passed again and again until a candidate comes or
        goes. So a policy may remember its position in the sequence, or figures for it.
        While a reload replaces a worker, two candidates may have the same slot.
        """
        ...

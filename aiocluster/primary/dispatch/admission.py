"""How many new connections may be admitted, over all listeners of a role together.

Open connections count towards `max_connections_total`, those of draining workers included.
Capacity is reserved for connections that draining workers will hand back. A connection admitted
once is not counted again: it may go to any worker with capacity, and goes before new ones.

Counting for each connection would cost more than choosing its worker, so the result of a count is
a budget that is spent before the next count.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

# Seconds for which capacity is reserved for a draining worker's connections: by then it has given
# back the idle ones. A connection that stays longer must not block free capacity; if it does come
# back, it goes before new ones.
_RETURN_TIME = 1.0

# The largest budget: a count holds only for a while.
MANY = 128


class AdmittedBackend(Protocol):
    """The part of a Backend that admission needs."""

    @property
    def open_connections(self) -> int: ...

    @property
    def places(self) -> int:
        """How many more connections the settings allow this worker."""
        ...

    @property
    def is_giving_back(self) -> bool:
        """True while connections that this worker gave back wait in its handoff."""
        ...

    def notify_on_close(self) -> None:
        """Update the dispatcher when a connection of this worker has ended."""
        ...

    def look_soon(self) -> None:
        """Update the dispatcher in a moment, too: workers do not report every end."""
        ...


class AdmissionControl:
    """The admission control of one role: the limit on its open connections."""

    def __init__(
        self,
        members: Callable[[], Iterable[AdmittedBackend]],
        max_connections: int | None = None,
        *,
        keeps_room: bool = True,
    ) -> None:
        """`members()` returns the backends of the workers that get connections.

        `max_connections` is for all workers together; None: any number. `keeps_room`: capacity
        is reserved, as a user's limit could leave none for connections that are given back.
        """
        self._members = members
        self._max_connections = max_connections
        self._keeps_room = keeps_room
        self._leaving: dict[
            AdmittedBackend, float
        ] = {}  # until when capacity is reserved for the connections of each
        self.budget = 0  # how many may be admitted before the next count
        self.are_limited = max_connections is not None

    def leave(self, member: AdmittedBackend, now: float) -> None:
        """Count `member` as draining: it finishes or gives back its connections. Idempotent."""
        if self._keeps_room:
            self._leaving.setdefault(member, now + _RETURN_TIME)
            self.are_limited = True
            self.forget()

    def remove(self, member: AdmittedBackend) -> None:
        """Stop counting `member` as draining: it is gone, or serves again. Idempotent."""
        self._leaving.pop(member, None)
        self.are_limited = self._max_connections is not None or bool(self._leaving)
        self.forget()

    def spend(self, count: int) -> None:
        """Take the `count` connections that were admitted off the budget."""
        self.budget = max(self.budget - count, 0)

    def forget(self) -> None:
        """Require a new count before the next admission, as figures have changed otherwise."""
        self.budget = 0

    def look(self, now: float) -> int:
        """Return the new budget, at most MANY; if it is 0, ask all workers to report each end."""
        self.budget = max(self._count(now), 0)
        if not self.budget:
            everybody = [*self._members(), *self._leaving]
            for member in everybody:
                member.notify_on_close()
            for member in everybody[:1]:  # one is enough for all
                member.look_soon()
            # Workers did not report what ended before they were asked.
            self.budget = max(self._count(now), 0)
        return self.budget

    def _count(self, now: float) -> int:
        if not self.are_limited:
            return MANY
        left = sum(one.open_connections for one in self._leaving)
        # Read after `open_connections`, so that each connection is seen in one of the two.
        if any(one.is_giving_back for one in self._leaving):
            return 0
        places = MANY
        if self._max_connections is not None:
            open_ = sum(one.open_connections for one in self._members())
            places = min(places, self._max_connections - open_ - left)
        awaited = [one for one, until in self._leaving.items() if now < until]
        if awaited:
            kept = sum(one.open_connections for one in awaited)
            places = min(places, sum(one.places for one in self._members()) - kept)
        return places

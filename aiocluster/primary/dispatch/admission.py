"""How many clients that come for the first time may be let in, at all doors of a role together.

What is open counts for the limit of all, with workers that leave, too. And room is kept for what
these are about to give back. Who has been let in once needs no place: it may go to any worker that
has room, and comes first.

Counting for each client would cost more than choosing its worker, so what is found is a budget that
is spent before the next look.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

# Seconds for which room is kept for all that a leaving worker has: by then it has given back what
# idles, or is soon done. What takes longer, or never moves, must not keep others out of room that
# there is; should it come back it is let in before them.
_RETURN_TIME = 1.0

# More than these are not looked for: what is found holds only for a while.
MANY = 128


class AdmittedBackend(Protocol):
    """The part of an Outbox that is needed here."""

    @property
    def open_connections(self) -> int: ...

    @property
    def places(self) -> int:
        """How many more connections may it have, by what the user has set?"""
        ...

    @property
    def is_giving_back(self) -> bool:
        """Are some of its connections on their way back to us?"""
        ...

    def notify_on_close(self) -> None:
        """Let the dispatcher be updated when one of its connections has ended."""
        ...

    def look_soon(self) -> None:
        """Let it be updated in a moment, too: not every end is told."""
        ...


class AdmissionControl:
    """Those of one role."""

    def __init__(
        self,
        members: Callable[[], Iterable[AdmittedBackend]],
        max_connections: int | None = None,
        *,
        keeps_room: bool = True,
    ) -> None:
        """`members()` are the workers that are given connections.

        `max_connections` are those of all together; None: any number. Room must be kept where
        what comes back could find everybody full, by a limit of the user's.
        """
        self._members = members
        self._max_connections = max_connections
        self._keeps_room = keeps_room
        self._leaving: dict[
            AdmittedBackend, float
        ] = {}  # until when room is kept for what each has
        self.budget = 0  # so many may be let in before the next look
        self.are_limited = max_connections is not None

    def leave(self, member: AdmittedBackend, now: float) -> None:
        """It finishes, or gives back, what it has. Idempotent."""
        if self._keeps_room:
            self._leaving.setdefault(member, now + _RETURN_TIME)
            self.are_limited = True
            self.forget()

    def remove(self, member: AdmittedBackend) -> None:
        """It leaves no more: it is gone, or has come. Idempotent."""
        self._leaving.pop(member, None)
        self.are_limited = self._max_connections is not None or bool(self._leaving)
        self.forget()

    def spend(self, count: int) -> None:
        """So many have been let in."""
        self.budget = max(self.budget - count, 0)

    def forget(self) -> None:
        """Look again before anybody is let in: figures have changed, but not by that."""
        self.budget = 0

    def look(self, now: float) -> int:
        """Return the new budget, MANY at most; where it is 0, let all tell of what ends."""
        self.budget = max(self._count(now), 0)
        if not self.budget:
            everybody = [*self._members(), *self._leaving]
            for member in everybody:
                member.notify_on_close()
            for member in everybody[:1]:  # one is enough for all
                member.look_soon()
            # What ended before they were asked was not told.
            self.budget = max(self._count(now), 0)
        return self.budget

    def _count(self, now: float) -> int:
        if not self.are_limited:
            return MANY
        left = sum(one.open_connections for one in self._leaving)
        # Looked at after those that it still has: each is seen here or there.
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

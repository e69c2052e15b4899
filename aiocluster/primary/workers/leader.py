"""Which worker of a role leads: the one in the lowest slot of those that are ready.

That one leads is a number in its row of the scoreboard, which only we write. We take it from one
before we give it to another, so at no moment two have it, whatever they do, and no worker, not
even one whose loop is blocked, has to agree.
"""

from collections.abc import Iterable
from typing import Protocol


class Leader(Protocol):
    """The part of a worker's handle that leadership needs."""

    @property
    def id(self) -> int: ...
    @property
    def slot(self) -> int: ...
    def lead(self, does: bool) -> None:
        """Let it lead, or not any more."""
        ...


class LeaderElection:
    """That of one role."""

    def __init__(self) -> None:
        self._leader: Leader | None = None

    def update(self, ready: Iterable[Leader]) -> None:
        """Somebody came or went; `ready` are those who may lead now."""
        leader = self._chosen([*ready])
        if leader is self._leader:
            return
        if self._leader is not None:
            self._leader.lead(False)
        self._leader = leader
        if leader is not None:
            leader.lead(True)

    def adopt(self, leader: Leader | None) -> None:
        """This one led already when another program was here."""
        self._leader = leader

    def _chosen(self, ready: list[Leader]) -> Leader | None:
        # Where a slot has two, its next worker has come: the one that leads does so until it goes.
        return min(ready, key=lambda one: (one.slot, one is not self._leader, one.id), default=None)

"""The leader of a role: the ready worker in the lowest slot.

A number in the worker's row of the scoreboard, which only the primary writes, says that it leads.
The primary clears one leader's number before it sets another's, so a role never has two leaders.
No worker has to agree, so a blocked loop delays nothing.
"""

from collections.abc import Iterable
from typing import Protocol


class Leader(Protocol):
    """The part of a worker's handle that the election needs."""

    @property
    def id(self) -> int: ...
    @property
    def slot(self) -> int: ...
    def lead(self, does: bool) -> None:
        """Let the worker lead, or lead no more."""
        ...


class LeaderElection:
    """The election of one role's leader."""

    def __init__(self) -> None:
        self._leader: Leader | None = None

    def update(self, ready: Iterable[Leader]) -> None:
        """Choose again after a change; `ready` are the workers that may lead now."""
        leader = self._chosen([*ready])
        if leader is self._leader:
            return
        if self._leader is not None:
            self._leader.lead(False)
        self._leader = leader
        if leader is not None:
            leader.lead(True)

    def adopt(self, leader: Leader | None) -> None:
        """Keep the leader of the previous program."""
        self._leader = leader

    def _chosen(self, ready: list[Leader]) -> Leader | None:
        # If a slot has two workers, one replaces the other: the leader leads until it drains.
        return min(ready, key=lambda one: (one.slot, one is not self._leader, one.id), default=None)

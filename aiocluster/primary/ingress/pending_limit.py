"""How many connections are held, in all, until it is known whose they are.

Each costs a descriptor, and silence must not keep us from accepting. So there is one bound for all
roles and addresses: one for each would, where there are many, add up to all that we may have.
"""

from typing import Protocol

from aiocluster.fds import fd_limit

# The share of our descriptors that they may use: one in so many.
_SHARE = 4

# Those held at one time, wherever there are descriptors enough.
MAX_HELD = 4096


class PendingQueue(Protocol):
    """Who holds some: a Peeker."""

    @property
    def held(self) -> int:
        """How many?"""
        ...

    @property
    def held_since(self) -> float:
        """Since when the one that it has held for longest; only while it holds any."""
        ...

    def give_way(self) -> None:
        """Hold that one no longer."""
        ...


class PendingLimit:
    """What the holders of a program share."""

    def __init__(self, max_held: int | None = None) -> None:
        """None: as many as the limit of descriptors allows."""
        self.max_held = min(MAX_HELD, fd_limit() // _SHARE) if max_held is None else max_held
        self._holders: list[PendingQueue] = []

    @property
    def held(self) -> int:
        """Connections that are held now."""
        return sum(holder.held for holder in self._holders)

    def join(self, holder: PendingQueue) -> None:
        """It shares the bound from now on."""
        self._holders.append(holder)

    def part(self, holder: PendingQueue) -> None:
        """It holds nothing any more. Idempotent."""
        self._holders = [other for other in self._holders if other is not holder]

    def shed_idle_connections(self) -> None:
        """One more is about to be held: whoever was silent for longest gives way, if it must.

        It is the least likely to say something still.
        """
        if self.held >= self.max_held:
            holders = [holder for holder in self._holders if holder.held]
            min(holders, key=lambda holder: holder.held_since).give_way()

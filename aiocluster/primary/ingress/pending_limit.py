"""The limit on connections that are held for inspection, in the whole primary.

Each costs a descriptor, and silent clients must not keep the primary from accepting. So there is
one limit for all roles and addresses: many separate limits could add up to all descriptors.
"""

from typing import Protocol

from aiocluster.fds import fd_limit

# Held connections may use one in so many of the primary's descriptors.
_SHARE = 4

# Connections held at one time, if there are enough descriptors.
MAX_HELD = 4096


class PendingQueue(Protocol):
    """The part of a ConnectionInspector that PendingLimit needs: a queue of held connections."""

    @property
    def held(self) -> int:
        """How many connections the queue holds."""
        ...

    @property
    def held_since(self) -> float:
        """When the oldest connection began to be held; only if the queue holds any."""
        ...

    def give_way(self) -> None:
        """Stop holding the oldest connection."""
        ...


class PendingLimit:
    """The limit on held connections that all inspectors of a program share."""

    def __init__(self, max_held: int | None = None) -> None:
        """`max_held` is the limit; None: by the limit of descriptors, at most MAX_HELD."""
        self.max_held = min(MAX_HELD, fd_limit() // _SHARE) if max_held is None else max_held
        self._holders: list[PendingQueue] = []

    @property
    def held(self) -> int:
        """The number of connections that are held now."""
        return sum(holder.held for holder in self._holders)

    def join(self, holder: PendingQueue) -> None:
        """Count this queue's connections from now on."""
        self._holders.append(holder)

    def part(self, holder: PendingQueue) -> None:
        """Forget this queue: it holds no more connections. Idempotent."""
        self._holders = [other for other in self._holders if other is not holder]

    def shed_idle_connections(self) -> None:
        """Make space for one more, if the limit is reached: the connection held longest goes.

        Its client is the least likely to send something still.
        """
        if self.held >= self.max_held:
            holders = [holder for holder in self._holders if holder.held]
            min(holders, key=lambda holder: holder.held_since).give_way()

"""The room that this worker has for further connections, and the notice when there is more.

The primary waits by a flag in this worker's row of the scoreboard. The acceptor, with the policy
`shared`, waits by a flag in this process. Each end of a connection or request checks both flags.
"""

from collections.abc import Callable
from typing import Literal

from aiocluster.config.settings import Settings
from aiocluster.fds import fd_limit
from aiocluster.ipc.accept_queue import reserved_fds
from aiocluster.ipc.scoreboard import (
    ACCEPTED,
    CONNECTIONS_CLOSED,
    CONNECTIONS_TAKEN,
    OTHER_FDS,
    REQUESTS_BEGUN,
    REQUESTS_DONE,
    ROOM_WANTED,
)


class AcceptCapacity:
    """The free capacity of one worker, by its settings and its limit of file descriptors."""

    def __init__(
        self, row: memoryview, settings: Settings, tell_primary: Callable[[], None] = lambda: None
    ) -> None:
        self.is_awaited = False  # `on_room` is to be called when a connection or request ends
        self.on_room: Callable[[], None] = lambda: None
        self._row = row
        self._tell_primary = tell_primary
        self._max_connections: int | Literal["unlimited"] = settings.max_connections
        self._max_requests: int | Literal["unlimited"] = settings.max_requests_in_flight

    def forget_limits(self) -> None:
        """Count only descriptors from now on: a stop serves every connected client."""
        self._max_connections = self._max_requests = "unlimited"

    @property
    def is_limited(self) -> bool:
        """True if the user has set a limit."""
        return self._max_connections != "unlimited" or self.may_shrink

    @property
    def may_shrink(self) -> bool:
        """True if the room can shrink without a new connection."""
        return self._max_requests != "unlimited"

    def count(self) -> int:
        """Return how many more connections there is room for."""
        row, limit = self._row, fd_limit()
        clients = row[CONNECTIONS_TAKEN] + row[ACCEPTED] - row[CONNECTIONS_CLOSED]
        free = limit - reserved_fds(limit) - row[OTHER_FDS] - clients
        if self._max_connections != "unlimited":
            free = min(free, self._max_connections - clients)
        if self._max_requests != "unlimited":
            free = min(free, self._max_requests - (row[REQUESTS_BEGUN] - row[REQUESTS_DONE]))
        return free

    def note_end(self) -> None:
        """Note the end of a connection or request; notify the primary or acceptor that waits."""
        if self._row[ROOM_WANTED]:
            self._tell_primary()
        if self.is_awaited:
            self.on_room()

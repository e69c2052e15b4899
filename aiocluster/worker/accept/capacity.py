"""How many more connections this worker has room for, and who waits to hear that there is more.

The primary waits by a flag in this worker's row of the scoreboard; what accepts here, with the
policy `shared`, by one in this process. The end of each connection and request looks at both.
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
    """That of one worker, by its settings and its limit of descriptors."""

    def __init__(
        self, row: memoryview, settings: Settings, tell_primary: Callable[[], None] = lambda: None
    ) -> None:
        self.is_awaited = False  # by `on_room`, for a connection or a request to end
        self.on_room: Callable[[], None] = lambda: None
        self._row = row
        self._tell_primary = tell_primary
        self._max_connections: int | Literal["unlimited"] = settings.max_connections
        self._max_requests: int | Literal["unlimited"] = settings.max_requests_in_flight

    def forget_limits(self) -> None:
        """Count descriptors only from now on: in a stop whoever has connected is served."""
        self._max_connections = self._max_requests = "unlimited"

    @property
    def is_limited(self) -> bool:
        """Has the user set a limit?"""
        return self._max_connections != "unlimited" or self.may_shrink

    @property
    def may_shrink(self) -> bool:
        """Can there be less of it without a new connection?"""
        return self._max_requests != "unlimited"

    def count(self) -> int:
        """Return for how many more connections there is room."""
        row, limit = self._row, fd_limit()
        clients = row[CONNECTIONS_TAKEN] + row[ACCEPTED] - row[CONNECTIONS_CLOSED]
        free = limit - reserved_fds(limit) - row[OTHER_FDS] - clients
        if self._max_connections != "unlimited":
            free = min(free, self._max_connections - clients)
        if self._max_requests != "unlimited":
            free = min(free, self._max_requests - (row[REQUESTS_BEGUN] - row[REQUESTS_DONE]))
        return free

    def note_end(self) -> None:
        """A connection or a request has ended; tell who waits for that."""
        if self._row[ROOM_WANTED]:
            self._tell_primary()
        if self.is_awaited:
            self.on_room()

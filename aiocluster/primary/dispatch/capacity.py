"""How many more connections one worker may get, by its limit of descriptors and by the settings.

Counting for each connection would cost more than choosing a worker. So the free capacity, or half
of it if there is much, is a budget that is spent before the next count. A worker without capacity
is asked, on the scoreboard, to report when a connection ends; the primary does not poll for it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from aiocluster.config.settings import Settings
from aiocluster.fds import fd_limit
from aiocluster.ipc.accept_queue import budget, reserved_fds
from aiocluster.ipc.scoreboard import FD_LIMIT, OTHER_FDS, Scoreboard

# Seconds until the capacity of a full worker is counted again without its report: workers do not
# report when their handlers close descriptors.
_PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits on a worker's connections."""

    behind_after: float  # seconds a connection may lie untaken
    max_fds: int  # RLIMIT_NOFILE, until the worker has reported its own
    max_connections: int | None = None  # None: no limit but the descriptors
    max_requests: int | None = None  # in flight at one time
    passes_client_address: bool = False  # True if a proxy may name a connection's client

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """Return the limits of a role's workers, which start with the primary's RLIMIT_NOFILE."""
        return cls(
            behind_after=settings.behind_after,
            max_fds=fd_limit(),
            max_connections=_number(settings.max_connections),
            max_requests=_number(settings.max_requests_in_flight),
            passes_client_address=settings.proxy_protocol,
        )


def _number(limit: int | Literal["unlimited"]) -> int | None:
    return None if limit == "unlimited" else limit


class BackendFigures(Protocol):
    """The part of a Backend from which its worker's capacity is computed."""

    def given(self) -> int:
        """Return how many connections were given and are not closed, taken or not."""
        ...

    def busy(self) -> int:
        """Return the requests in flight, plus the untaken connections, which will bring some."""
        ...


class WorkerCapacity:
    """The free capacity of one worker.

    `on_room` is called when there is some again, or when an end that was awaited has come.
    """

    def __init__(
        self,
        board: tuple[Scoreboard, int],
        limits: Limits,
        figures: BackendFigures,
        on_room: Callable[[], None],
    ) -> None:
        self.budget = 0
        self.is_out = False
        # Called when the worker comes to its limit of descriptors (True) or leaves it (False).
        self.on_fd_limit: Callable[[bool], None] = lambda is_there: None
        self._scoreboard, self._row = board
        self._limits = limits
        self._figures = figures
        self._on_room = on_room
        self._loop = asyncio.get_running_loop()
        self._is_awaited = self._at_fd_limit = self._is_closed = False
        self._next_look: asyncio.TimerHandle | None = None

    def renew(self) -> None:
        """Count the free capacity, and set the budget to it, or to half of it."""
        clients = self._figures.given()
        fds = self._free_fds(clients)
        free = min(fds, self._free_places(clients))
        self.budget = budget(free)
        # The margin: a worker near its limit would otherwise report each connection that ends.
        margin = reserved_fds(self._max_fds()) // 4 if self._at_fd_limit else 0
        self._note_fd_limit(fds <= margin)
        self._note_out(free <= 0)

    def check(self) -> None:
        """Count again if the worker's handlers have used descriptors meant for connections."""
        if self._free_fds(self._figures.given()) <= self.budget:
            self.renew()

    def look_again(self) -> None:
        """Count again, as a connection may have ended; report capacity, or an awaited end."""
        if self._is_closed:  # scheduled before the close: another worker may have the row now
            return
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        was_awaited, self._is_awaited = self._is_awaited, False
        if not self.look() and was_awaited:
            self._on_room()
        # `on_room` may have called `await_end` again; if not, the worker need not report.
        self._ask()

    def look(self) -> bool:
        """Count again; if there is capacity again, call `on_room` and return True."""
        was_out = self.is_out
        self.renew()
        has_come = was_out and not self.is_out
        if has_come:
            self._on_room()
        return has_come

    def await_end(self) -> None:
        """Call `on_room` when a connection of this worker has ended, full or not."""
        if not self._is_awaited:
            self._is_awaited = True
            self._ask()

    def look_soon(self) -> None:
        """Count again after a moment, without a report of the worker."""
        if self._next_look is None:
            self._next_look = self._loop.call_later(_PAUSE, self._look_again)

    def places(self) -> int:
        """Return how many more connections the worker may have by `max_connections`."""
        most = self._limits.max_connections
        return self._limits.max_fds if most is None else max(most - self._figures.given(), 0)

    def close(self) -> None:
        """Stop counting. Idempotent."""
        self._is_closed = True
        if self._next_look is not None:
            self._next_look.cancel()

    def _free_fds(self, clients: int) -> int:
        limit = self._max_fds()
        other = self._scoreboard.read(self._row, OTHER_FDS)
        return limit - reserved_fds(limit) - other - clients

    def _max_fds(self) -> int:
        # The worker's limit may differ from the primary's: prlimit changes it, and a zygote keeps
        # the limit that the primary had at the zygote's start.
        return self._scoreboard.read(self._row, FD_LIMIT) or self._limits.max_fds

    def _free_places(self, clients: int) -> int:
        limits = self._limits
        places = limits.max_fds
        if limits.max_connections is not None:
            places = limits.max_connections - clients
        if limits.max_requests is not None:
            # Connections on their way to the worker will bring requests as well.
            places = min(places, limits.max_requests - self._figures.busy())
        return places

    def _note_out(self, is_out: bool) -> None:
        if is_out != self.is_out:
            self.is_out = is_out
            self._ask()
            # The worker did not report what ended between the count and the request to report.
            if is_out:
                self._loop.call_soon(self.look_again)
        if is_out or self._at_fd_limit:
            self.look_soon()

    def _ask(self) -> None:
        """Ask the worker to report each end, or none, as is needed now."""
        self._scoreboard.ask_for_room(self._row, self.is_out or self._is_awaited)

    def _look_again(self) -> None:
        self._next_look = None
        self.look_again()

    def _note_fd_limit(self, is_there: bool) -> None:
        if is_there != self._at_fd_limit:
            self._at_fd_limit = is_there
            # Later, not in the middle of handing over: users may subscribe to this event.
            self._loop.call_soon(self.on_fd_limit, is_there)

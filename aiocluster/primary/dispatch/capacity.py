"""How many more connections one worker may be given: by its limit of descriptors, and by ours.

Looking at all that for every connection would cost more than choosing, so what is free, or half
of it while there is much, is a budget that is spent before the next look. Without room, the
worker is asked (on the scoreboard) to say when a connection ends; nobody spins meanwhile.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from aiocluster.config.settings import Settings
from aiocluster.fds import fd_limit
from aiocluster.ipc.accept_queue import budget, reserved_fds
from aiocluster.ipc.scoreboard import FD_LIMIT, OTHER_FDS, Scoreboard

# A worker without room is looked at again after this many seconds, whatever it says: its
# handlers' own descriptors close without a word.
_PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a worker's connections."""

    behind_after: float  # seconds a connection may lie untaken
    max_fds: int  # RLIMIT_NOFILE, until the worker has told its own
    max_connections: int | None = None  # None: no limit but the descriptors
    max_requests: int | None = None  # that it may handle at a time
    passes_client_address: bool = False  # are there connections whose client a proxy has told?

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """Return those of a role's workers, which begin with as many descriptors as we."""
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
    """The part of an Outbox that tells how full its worker is."""

    def given(self) -> int:
        """Connections given and not closed, wherever they are on their way."""
        ...

    def busy(self) -> int:
        """Requests in flight, and connections on their way, which will bring some."""
        ...


class WorkerCapacity:
    """That of one worker. `on_room` is called when there is some again, or what was awaited."""

    def __init__(
        self,
        board: tuple[Scoreboard, int],
        limits: Limits,
        figures: BackendFigures,
        on_room: Callable[[], None],
    ) -> None:
        self.budget = 0
        self.is_out = False
        # Hears when it comes to its limit of descriptors (True), and leaves it (False).
        self.on_fd_limit: Callable[[bool], None] = lambda is_there: None
        self._scoreboard, self._row = board
        self._limits = limits
        self._figures = figures
        self._on_room = on_room
        self._loop = asyncio.get_running_loop()
        self._is_awaited = self._at_fd_limit = self._is_closed = False
        self._next_look: asyncio.TimerHandle | None = None

    def renew(self) -> None:
        """Look how much there is, and let that, or half of it, be the budget."""
        clients = self._figures.given()
        fds = self._free_fds(clients)
        free = min(fds, self._free_places(clients))
        self.budget = budget(free)
        # One that stays near its limit does not tell of each connection that ends there.
        margin = reserved_fds(self._max_fds()) // 4 if self._at_fd_limit else 0
        self._note_fd_limit(fds <= margin)
        self._note_out(free <= 0)

    def check(self) -> None:
        """Look whether its handlers have used up what was meant for connections."""
        if self._free_fds(self._figures.given()) <= self.budget:
            self.renew()

    def look_again(self) -> None:
        """Something has ended, or may have: whoever waits for that is told."""
        if self._is_closed:  # this was called for before: the row may be another's now
            return
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        was_awaited, self._is_awaited = self._is_awaited, False
        if not self.look() and was_awaited:
            self._on_room()
        # Whoever hears of it may wait for the next one; else nobody wants to know of that.
        self._ask()

    def look(self) -> bool:
        """Is there room again? Then that is told."""
        was_out = self.is_out
        self.renew()
        has_come = was_out and not self.is_out
        if has_come:
            self._on_room()
        return has_come

    def await_end(self) -> None:
        """Somebody waits until a connection of this worker has ended, room or not."""
        if not self._is_awaited:
            self._is_awaited = True
            self._ask()

    def look_soon(self) -> None:
        """Look again after a moment, whatever the worker says."""
        if self._next_look is None:
            self._next_look = self._loop.call_later(_PAUSE, self._look_again)

    def places(self) -> int:
        """How many more connections may it have, by our own limit?"""
        most = self._limits.max_connections
        return self._limits.max_fds if most is None else max(most - self._figures.given(), 0)

    def close(self) -> None:
        """Look no more. Idempotent."""
        self._is_closed = True
        if self._next_look is not None:
            self._next_look.cancel()

    def _free_fds(self, clients: int) -> int:
        limit = self._max_fds()
        other = self._scoreboard.read(self._row, OTHER_FDS)
        return limit - reserved_fds(limit) - other - clients

    def _max_fds(self) -> int:
        # It need not be ours: prlimit changes it, and a zygote keeps what we had at its start.
        return self._scoreboard.read(self._row, FD_LIMIT) or self._limits.max_fds

    def _free_places(self, clients: int) -> int:
        limits = self._limits
        places = limits.max_fds
        if limits.max_connections is not None:
            places = limits.max_connections - clients
        if limits.max_requests is not None:
            # Who is on the way to it will ask for something as well.
            places = min(places, limits.max_requests - self._figures.busy())
        return places

    def _note_out(self, is_out: bool) -> None:
        if is_out != self.is_out:
            self.is_out = is_out
            self._ask()
            # What ended between the look and the asking was not told.
            if is_out:
                self._loop.call_soon(self.look_again)
        if is_out or self._at_fd_limit:
            self.look_soon()

    def _ask(self) -> None:
        """Let the worker tell of each end, or of none, as is wanted now."""
        self._scoreboard.ask_for_room(self._row, self.is_out or self._is_awaited)

    def _look_again(self) -> None:
        self._next_look = None
        self.look_again()

    def _note_fd_limit(self, is_there: bool) -> None:
        if is_there != self._at_fd_limit:
            self._at_fd_limit = is_there
            # Not in the middle of handing over: users may listen.
            self._loop.call_soon(self.on_fd_limit, is_there)

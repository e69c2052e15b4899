"""One listening socket that workers share: who accepts there in this worker, and how many.

uvloop, where there is plenty of room; where room must be counted first, Python. A wake-up can be
lost: with a worker that dies of what comes next, or that does something long in the same turn.
So each of them also looks by itself now and then.
"""

import asyncio
import logging
import select
import socket
from contextvars import Context
from typing import Any, Protocol

from aiocluster.ipc.accept_backoff import AcceptBackoff
from aiocluster.ipc.accept_queue import waiting_in
from aiocluster.worker.accept.exclusive_epoll import ExclusiveReader, ExclusiveServer
from aiocluster.worker.accept.pace import Pace

log = logging.getLogger("aiocluster.worker")

# Connections accepted in one wake-up at most; then those that are served get a turn.
_MAX_BATCH = 64

# A loop that turns quickly takes its share of what waits, but so few that a burst is spread over
# all who are awake: one at a time costs 5 µs a connection more, for the turns of the loop, 4 at a
# time 1 µs.
_QUICK_BATCH = 8

# One that was accepted: its descriptor, the index of its listener, and who it is, as accept(2)
# tells that.
Accepted = tuple[int, int, Any]


class AcceptControl(Protocol):
    """Whose gate it is: how many more connections it takes, and what it does with them."""

    budget: int  # before the room is to be counted anew
    has_plenty: bool  # so much room that uvloop may accept
    counts_often: bool
    workers: int
    context: Context  # of the connections

    @property
    def accepts(self) -> bool: ...
    def renewed_budget(self) -> int: ...
    def update(self) -> None: ...
    def take(self, batch: list[Accepted], /) -> None: ...
    def serve(self, listener: int, /) -> asyncio.Protocol: ...


class SharedListener:
    """Owns `sock`. `epoll` is the loop's own, if it has one."""

    def __init__(
        self, index: int, sock: socket.socket, keeper: AcceptControl, epoll: "select.epoll | None"
    ) -> None:
        self._index = index
        self._sock = sock
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._trouble = AcceptBackoff(sock, log, self.watch)
        self._pace = Pace()
        self._reading = ExclusiveReader(sock, epoll, self._on_wake_up)
        self._serving = None if epoll is None else ExclusiveServer(sock, epoll, self._serve)
        self._waking: ExclusiveReader | ExclusiveServer | None = None

    def watch(self) -> None:
        """Wait for connections, if it is time to accept them; else do not."""
        wanted = self._wanted()
        if wanted is self._waking:
            return
        if self._waking is not None:
            self._waking.stop()
        self._waking = None
        if wanted is not None:
            try:
                # uvloop serves those that it accepts in the context of this moment.
                self._keeper.context.run(wanted.start)
            except OSError as error:
                self._trouble.met(error)
            else:
                self._waking = wanted

    def look(self) -> None:
        """Accept what waits here though nobody was woken for it."""
        if self._waking is not None and waiting_in(self._sock):
            self._accept(self._share())
            self._stand_last()

    def accept_all(self) -> None:
        """Accept all who wait now."""
        # As many as there are now: clients may keep coming.
        left = waiting_in(self._sock)
        while left > 0 and not self._trouble.is_waiting and (accepted := self._accept(left)):
            left -= accepted

    def close(self) -> None:
        """Give the socket up."""
        if self._waking is not None:
            self._waking.stop()
            self._waking = None
        if self._serving is not None:
            self._serving.close()
        self._trouble.forget()
        self._sock.close()

    def _wanted(self) -> ExclusiveReader | ExclusiveServer | None:
        if not self._keeper.accepts or self._trouble.is_waiting:
            return None
        return self._serving if self._keeper.has_plenty and self._serving else self._reading

    # ---- uvloop accepts

    def _serve(self) -> asyncio.Protocol:
        pace, keeper = self._pace, self._keeper
        pace.woken(self._loop.time())
        keeper.budget -= 1
        if pace.is_time or keeper.budget <= 0 or self._trouble.is_told:
            # Not here: the connection is not uvloop's yet, and what fails here would end it all.
            self._loop.call_soon(self._on_served)
        return keeper.serve(self._index)

    def _on_served(self) -> None:
        self._spend(0)
        if self._trouble.is_told:
            self._trouble.passed()
        if self._waking is None:
            return
        if self._pace.was_slow and waiting_in(self._sock):
            # One a turn would let them wait for many of its long turns.
            self._accept(self._share())
        if self._pace.is_time:
            self._stand_last()

    # ---- Python accepts

    def _on_wake_up(self) -> None:
        """Somebody waits, unless another worker was quicker."""
        pace = self._pace
        pace.woken(self._loop.time())
        if not pace.is_time:
            self._accept(min(self._share(), _QUICK_BATCH))
            return
        self._accept(self._share() if pace.was_slow else 1)
        self._stand_last()

    def _stand_last(self) -> None:
        if self._waking is not None:
            self._waking.requeue_waiter()

    def _share(self) -> int:
        """Return how many of those who wait are this worker's, if all of them are as busy."""
        return max(-(-waiting_in(self._sock) // self._keeper.workers), 1)

    def _accept(self, wanted: int) -> int:
        """Accept so many, or as many as there are and may be; return how many."""
        # See primary/sockets/listener.py: sock.accept() builds a socket object for each connection.
        accept, index = self._sock._accept, self._index  # type: ignore[attr-defined]
        keeper = self._keeper
        if wanted > keeper.budget or keeper.counts_often:
            wanted = min(wanted, keeper.renewed_budget())
        batch: list[Accepted] = []
        try:
            for _ in range(min(wanted, _MAX_BATCH)):
                # One by one: what was accepted before an error is not lost with it.
                fd, peer = accept()
                batch.append((fd, index, peer))
        except BlockingIOError:
            pass  # another worker was quicker
        except OSError as error:
            self._trouble.met(error)
        if batch:
            keeper.take(batch)
        self._spend(len(batch))
        return len(batch)

    def _spend(self, count: int) -> None:
        """So many were accepted."""
        keeper = self._keeper
        keeper.budget = max(keeper.budget - count, 0)
        if count and self._trouble.is_told:
            self._trouble.passed()
        if not keeper.budget:
            keeper.update()

"""One listening socket that workers share: how this worker accepts from it, and how much.

If there is plenty of room, uvloop accepts; if room must be counted first, Python code does. A
wake-up is lost if the woken worker dies of the next event, or does something long in the same
turn. So each worker also looks at the backlog by itself now and then.
"""

import asyncio
import logging
import select
import socket
from contextvars import Context
from typing import Any, Protocol

from aiocluster.ipc.accept_backoff import AcceptBackoff
from aiocluster.ipc.accept_queue import waiting_in
from aiocluster.private_apis import accept_of
from aiocluster.worker.accept.exclusive_epoll import ExclusiveReader, ExclusiveServer
from aiocluster.worker.accept.pace import Pace

log = logging.getLogger("aiocluster.worker")

# Connections accepted in one wake-up at most; then open connections get a turn.
_MAX_BATCH = 64

# A quick loop takes its share of the backlog, but at most this many, so that a burst is spread
# over all workers that are awake. One at a time costs 5 µs a connection more, for the turns of the
# loop; 4 at a time cost 1 µs more.
_QUICK_BATCH = 8

# An accepted connection: its descriptor, the index of its listener, the peer as of accept(2).
Accepted = tuple[int, int, Any]


class AcceptControl(Protocol):
    """The owner of a shared listener: it limits how many connections come, and serves them."""

    budget: int  # connections until the room is counted anew
    has_plenty: bool  # there is so much room that uvloop may accept
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
    """A shared listening socket in one worker. It owns `sock`; `epoll` is the loop's, if any."""

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
        """Wait for connections if they may be accepted; else stop waiting."""
        wanted = self._wanted()
        if wanted is self._waking:
            return
        if self._waking is not None:
            self._waking.stop()
        self._waking = None
        if wanted is not None:
            try:
                # uvloop serves its connections in the context of this call.
                self._keeper.context.run(wanted.start)
            except OSError as error:
                self._trouble.met(error)
            else:
                self._waking = wanted

    def look(self) -> None:
        """Accept waiting connections that woke no worker: a wake-up may be lost."""
        if self._waking is not None and waiting_in(self._sock):
            self._accept(self._share())
            self._stand_last()

    def accept_all(self) -> None:
        """Accept all connections that wait now."""
        # Only as many as there are now: clients may keep connecting.
        left = waiting_in(self._sock)
        while left > 0 and not self._trouble.is_waiting and (accepted := self._accept(left)):
            left -= accepted

    def close(self) -> None:
        """Close the socket."""
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
            # Later: the connection is not uvloop's yet, and an exception would end the server.
            self._loop.call_soon(self._on_served)
        return keeper.serve(self._index)

    def _on_served(self) -> None:
        self._spend(0)
        if self._trouble.is_told:
            self._trouble.passed()
        if self._waking is None:
            return
        if self._pace.was_slow and waiting_in(self._sock):
            # With one a turn, waiting connections would wait for many of the loop's long turns.
            self._accept(self._share())
        if self._pace.is_time:
            self._stand_last()

    # ---- Python accepts

    def _on_wake_up(self) -> None:
        """Accept: a connection waits, unless another worker was quicker."""
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
        """Return this worker's equal share of the waiting connections, at least 1."""
        return max(-(-waiting_in(self._sock) // self._keeper.workers), 1)

    def _accept(self, wanted: int) -> int:
        """Accept `wanted` connections at most, as the budget allows; return how many."""
        # See primary/sockets/listener.py: sock.accept() builds a socket object for each connection.
        accept, index = accept_of(self._sock), self._index
        keeper = self._keeper
        if wanted > keeper.budget or keeper.counts_often:
            wanted = min(wanted, keeper.renewed_budget())
        batch: list[Accepted] = []
        try:
            for _ in range(min(wanted, _MAX_BATCH)):
                # One by one: an error does not lose the connections accepted before it.
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
        """Take `count` accepted connections off the budget."""
        keeper = self._keeper
        keeper.budget = max(keeper.budget - count, 0)
        if count and self._trouble.is_told:
            self._trouble.passed()
        if not keeper.budget:
            keeper.update()

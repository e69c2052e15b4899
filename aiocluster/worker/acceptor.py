"""Accepts from the cluster's own listening sockets, in a worker: the policy `shared`.

One connection wakes one worker. The kernel sees to that for those who wait by EPOLLEXCLUSIVE,
but only in the epoll in which they sleep: through one that is watched by another it wakes all
of them. So the flag must be set in the epoll of uvloop itself, which has no word for it: uvloop
watches the socket as any other, and what it has registered is then replaced. It only ever
removes that, so it need not know.

The kernel wakes who has waited longest, so a worker that puts itself in anew stands last: that
makes it round robin among those who have nothing to do. Who is busy is not asked.

A wake-up can be lost: with a worker that dies of what comes next, or that does something long
in the same turn. So each of them also looks by itself now and then.
"""

import asyncio
import logging
import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from aiocluster.ipc.accepting import budget, waiting_in
from aiocluster.ipc.trouble import Trouble

log = logging.getLogger("aiocluster.worker")

# Connections accepted in one wake-up at most; then those that are served get a turn.
_MAX_BATCH = 64

# Seconds between two looks at what waits: what one connection may lose by a lost wake-up.
_LOOK_INTERVAL = 0.1

# Woken again within this many seconds (the loop's clock counts milliseconds), the loop turns
# quickly. It takes its share of what waits, but so few that a burst is spread over all who are
# awake: one at a time costs 5 µs a connection more, for the turns of the loop, 4 at a time 1 µs.
_QUICK = 0.0015
_QUICK_BATCH = 8

# To stand last costs 2 µs: who turns quickly does it only once in so many wake-ups.
_QUICK_IN_A_ROW = 8

_EXCLUSIVE = int(select.EPOLLIN | select.EPOLLEXCLUSIVE)

# One that was accepted: its descriptor, the index of its listener, and who it is, as accept(2)
# tells that.
Accepted = tuple[int, int, Any]

# Hears of those; owns them.
OnConnections = Callable[[list[Accepted]], None]


class Room(Protocol):
    """How many more connections there may be; see worker/room.py."""

    is_awaited: bool
    on_room: Callable[[], None]

    @property
    def may_shrink(self) -> bool: ...
    def count(self) -> int: ...


class Acceptor:
    """Accepts in this worker's loop while it is told to, and while there is room.

    `sockets` are the (index, listening socket) pairs that it shares with the other workers, and
    owns; they must not block. While there is no `room` it waits to hear that there is.
    """

    def __init__(
        self,
        sockets: Sequence[tuple[int, socket.socket]],
        on_connections: OnConnections,
        room: Room,
    ) -> None:
        self.budget = 0  # connections that may come before the room is to be counted anew
        self.workers = 1
        self.take = on_connections
        self.counts_often = room.may_shrink
        self._room = room
        room.on_room = self.update
        self._loop = asyncio.get_running_loop()
        self._epoll = _epoll_of(self._loop) if sockets else None
        self._doors = [_Door(index, sock, self, self._epoll) for index, sock in sockets]
        self._on = False
        self._look_timer: asyncio.TimerHandle | None = None

    @property
    def accepts(self) -> bool:
        """Is it told to accept, and is there room?"""
        return self._on and self.budget > 0

    def resume(self, workers: int = 1) -> None:
        """Accept from now on, as one of so many. Idempotent."""
        self.workers = max(workers, 1)
        if not self._on and self._doors:
            self._on = True
            self.update()
            self._look_timer = self._loop.call_later(_LOOK_INTERVAL, self._look)

    def pause(self) -> None:
        """Leave connections to others, from now on. Idempotent."""
        self._on = False
        if self._look_timer is not None:
            self._look_timer.cancel()
            self._look_timer = None
        self._room.is_awaited = False
        self._watch()

    def update(self) -> None:
        """There may be more room than before, or none any more."""
        self.renewed_budget()
        self._watch()

    def renewed_budget(self) -> int:
        """Count the room anew; return how many connections may come before the next time."""
        self.budget = budget(self._room.count())
        self._room.is_awaited = self._on and not self.budget
        return self.budget

    def accept_rest(self) -> None:
        """Accept all who wait now, if it accepts at all: before the last one closes a socket."""
        if self._on:
            for door in self._doors:
                door.accept_all()

    def close(self) -> None:
        """Accept nothing more, and give the sockets up. Idempotent."""
        self.pause()
        for door in self._doors:
            door.close()
        self._doors = []
        if self._epoll is not None:
            self._epoll.close()

    def _watch(self) -> None:
        for door in self._doors:
            door.watch()

    def _look(self) -> None:
        self._look_timer = self._loop.call_later(_LOOK_INTERVAL, self._look)
        if not self.budget:
            self.update()
        if self.accepts:
            for door in self._doors:
                door.look()


class _Door:
    """One listening socket."""

    def __init__(
        self, index: int, sock: socket.socket, acceptor: Acceptor, epoll: select.epoll | None
    ) -> None:
        self._index = index
        self._sock = sock
        self._acceptor = acceptor
        self._epoll = epoll
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._watching = False
        self._trouble = Trouble(sock, log, self.watch)
        self._woken = 0.0
        self._was_slow = False
        self._quick_in_a_row = 0

    def watch(self) -> None:
        """Wait for connections, if it is time to accept them; else do not."""
        wanted = self._acceptor.accepts and not self._trouble.is_waiting
        if wanted and not self._watching:
            self._loop.add_reader(self._sock.fileno(), self._on_wake_up)
            self._loop.call_soon(self._begin_exclusively)
        elif self._watching and not wanted:
            self._loop.remove_reader(self._sock.fileno())
        self._watching = wanted

    def look(self) -> None:
        """Accept what waits here though nobody was woken for it."""
        if self._watching and waiting_in(self._sock):
            self._accept(self._share())

    def accept_all(self) -> None:
        """Accept all who wait now."""
        # As many as there are now: clients may keep coming.
        left = waiting_in(self._sock)
        while left > 0 and not self._trouble.is_waiting and (accepted := self._accept(left)):
            left -= accepted

    def close(self) -> None:
        """Give the socket up."""
        self._trouble.forget()
        self._sock.close()

    # ---- who is woken

    def _begin_exclusively(self) -> None:
        """Be woken alone, as soon as uvloop has registered the socket in its own way."""
        if not self._watching or self._epoll is None:
            return
        try:
            self._stand_last()
        except FileNotFoundError:
            self._loop.call_soon(self._begin_exclusively)

    def _stand_last(self) -> None:
        """Let the other workers be woken before this one."""
        assert self._epoll is not None
        self._epoll.unregister(self._sock)
        self._epoll.register(self._sock, _EXCLUSIVE)

    def _on_wake_up(self) -> None:
        """Somebody waits, unless another worker was quicker."""
        now = self._now()
        is_quick, self._woken = now - self._woken < _QUICK, now
        was_slow, self._was_slow = self._was_slow, not is_quick
        if is_quick and self._quick_in_a_row < _QUICK_IN_A_ROW:
            self._quick_in_a_row += 1
            self._accept(min(self._share(), _QUICK_BATCH))
            return
        self._quick_in_a_row = 0
        # Slow once alone tells nothing: perhaps nobody had come.
        self._accept(self._share() if was_slow else 1)
        if self._watching and self._epoll is not None:
            self._stand_last()

    # ---- accepting

    def _share(self) -> int:
        """Return how many of those who wait are this worker's, if all of them are as busy."""
        return max(-(-waiting_in(self._sock) // self._acceptor.workers), 1)

    def _accept(self, wanted: int) -> int:
        """Accept so many, or as many as there are and may be; return how many."""
        # See primary/listener.py: sock.accept() builds a socket object for each connection.
        accept, index = self._sock._accept, self._index  # type: ignore[attr-defined]
        acceptor = self._acceptor
        if wanted > acceptor.budget or acceptor.counts_often:
            wanted = min(wanted, acceptor.renewed_budget())
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
            self._take(batch)
        elif not acceptor.budget:
            acceptor.update()
        return len(batch)

    def _take(self, batch: list[Accepted]) -> None:
        acceptor = self._acceptor
        acceptor.budget -= len(batch)
        if self._trouble.is_told:
            self._trouble.passed()
        acceptor.take(batch)
        if not acceptor.budget:
            acceptor.update()


def _epoll_of(loop: asyncio.AbstractEventLoop) -> select.epoll | None:
    """Return uvloop's own epoll; None of a loop that has none: then all workers are woken."""
    get_backend = getattr(loop, "_get_backend_id", None)
    # A duplicate: what Python has as an object it closes.
    return None if get_backend is None else select.epoll.fromfd(os.dup(get_backend()))

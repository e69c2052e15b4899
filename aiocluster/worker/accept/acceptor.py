"""Accepts from the cluster's own listening sockets, in a worker: the policy `shared`."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Protocol

from aiocluster.ipc.accept_queue import budget
from aiocluster.worker.accept.exclusive_epoll import epoll_of
from aiocluster.worker.accept.shared_listener import Accepted, SharedListener

# Seconds between two looks at the backlogs: a lost wake-up delays a connection by that at most.
_LOOK_INTERVAL = 0.1

# If there is room for more connections than this, uvloop accepts. Without a free descriptor uvloop
# would close all waiting clients. Room is counted once per _LOOK_INTERVAL, and descriptors once a
# second: this many descriptors would have to be opened in between.
_PLENTY = 1024

# Gets the accepted connections, and owns them.
OnConnections = Callable[[list[Accepted]], None]

# Returns the protocol of a connection that uvloop has accepted from the listener of this index.
Serve = Callable[[int], asyncio.Protocol]


class FreeCapacity(Protocol):
    """The number of further connections that may be accepted; see worker/accept/capacity.py."""

    is_awaited: bool
    on_room: Callable[[], None]

    @property
    def is_limited(self) -> bool: ...
    @property
    def may_shrink(self) -> bool: ...
    def count(self) -> int: ...


class Acceptor:
    """The acceptor of one worker: it accepts in the loop while it is on and there is room.

    `sockets` are the (index, listening socket) pairs that the acceptor shares with the other
    workers, and owns; they must not block. While there is no `room` it waits for `on_room`.
    """

    def __init__(
        self,
        sockets: Sequence[tuple[int, socket.socket]],
        on_connections: OnConnections,
        room: FreeCapacity,
        serve: Serve,
    ) -> None:
        self.budget = 0  # connections to accept until the room is counted anew
        self.workers = 1
        self.context = copy_context()  # of the connections
        self.take = on_connections
        self.serve = serve
        self.counts_often = room.may_shrink
        self.has_plenty = False
        self._room = room
        room.on_room = self.update
        self._loop = asyncio.get_running_loop()
        self._epoll = epoll_of(self._loop) if sockets else None
        self._shared_listeners = [
            SharedListener(index, sock, self, self._epoll) for index, sock in sockets
        ]
        self._on = False
        self._look_timer: asyncio.TimerHandle | None = None

    @property
    def accepts(self) -> bool:
        """True if the acceptor is on and there is room."""
        return self._on and self.budget > 0

    def resume(self, workers: int = 1) -> None:
        """Accept from now on, as one of `workers` workers. Idempotent."""
        self.workers = max(workers, 1)
        if not self._on and self._shared_listeners:
            self._on = True
            self._look_timer = self._loop.call_later(_LOOK_INTERVAL, self._look)
            self.update()

    def pause(self) -> None:
        """Leave connections to other workers from now on. Idempotent."""
        self._on = False
        if self._look_timer is not None:
            self._look_timer.cancel()
            self._look_timer = None
        self._room.is_awaited = False
        self._watch()

    def update(self) -> None:
        """Count the room anew, and start or stop accepting by the result."""
        self.renewed_budget()
        self._watch()

    def renewed_budget(self) -> int:
        """Count the room anew; return how many connections to accept until the next count."""
        room = self._room.count()
        self.has_plenty = room > _PLENTY and not self._room.is_limited
        self.budget = budget(room - _PLENTY if self.has_plenty else room)
        self._room.is_awaited = self._on and not self.budget
        return self.budget

    def accept_rest(self) -> None:
        """Accept all waiting clients, if the acceptor is on: before the sockets are closed."""
        if self._on:
            for shared_listener in self._shared_listeners:
                shared_listener.accept_all()

    def close(self) -> None:
        """Accept nothing more, and close the sockets. Idempotent."""
        self.pause()
        for shared_listener in self._shared_listeners:
            shared_listener.close()
        self._shared_listeners = []
        if self._epoll is not None:
            self._epoll.close()

    def _watch(self) -> None:
        for shared_listener in self._shared_listeners:
            shared_listener.watch()

    def _look(self) -> None:
        self._look_timer = self._loop.call_later(_LOOK_INTERVAL, self._look)
        self.update()
        if self.accepts:
            for shared_listener in self._shared_listeners:
                shared_listener.look()

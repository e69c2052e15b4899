"""One listening socket that workers share, and how one of them is woken for it (`shared`).

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
from collections.abc import Callable
from typing import Any, Protocol

from aiocluster.ipc.accepting import backlog_of, waiting_in
from aiocluster.ipc.trouble import Trouble

log = logging.getLogger("aiocluster.worker")

# Connections accepted in one wake-up at most; then those that are served get a turn.
_MAX_BATCH = 64

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


class Taker(Protocol):
    """Whose door it is: how many more connections it takes, and what it does with them."""

    budget: int  # before the room is to be counted anew
    counts_often: bool
    workers: int

    @property
    def accepts(self) -> bool: ...
    def renewed_budget(self) -> int: ...
    def update(self) -> None: ...
    def take(self, batch: list[Accepted], /) -> None: ...
    def serve(self, listener: int, /) -> asyncio.Protocol: ...


class Door:
    """What can be said of it however one is woken."""

    def __init__(self, index: int, sock: socket.socket, taker: Taker) -> None:
        self._index = index
        self._sock = sock
        self._taker = taker
        self._loop = asyncio.get_running_loop()
        self._watching = False
        self._trouble = Trouble(sock, log, self.watch)
        self._pace = _Pace()

    def watch(self) -> None:
        """Wait for connections, if it is time to accept them; else do not."""
        wanted = self._taker.accepts and not self._trouble.is_waiting
        was, self._watching = self._watching, wanted
        if wanted and not was:
            self._start()
        elif was and not wanted:
            self._stop()

    def look(self) -> None:
        """Accept what waits here though nobody was woken for it."""
        raise NotImplementedError

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

    def _start(self) -> None:
        raise NotImplementedError

    def _stop(self) -> None:
        raise NotImplementedError

    def _share(self) -> int:
        """Return how many of those who wait are this worker's, if all of them are as busy."""
        return max(-(-waiting_in(self._sock) // self._taker.workers), 1)

    def _accept(self, wanted: int) -> int:
        """Accept so many, or as many as there are and may be; return how many."""
        # See primary/listener.py: sock.accept() builds a socket object for each connection.
        accept, index = self._sock._accept, self._index  # type: ignore[attr-defined]
        taker = self._taker
        if wanted > taker.budget or taker.counts_often:
            wanted = min(wanted, taker.renewed_budget())
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
            taker.take(batch)
        self._spend(len(batch))
        return len(batch)

    def _spend(self, count: int) -> None:
        """So many were accepted."""
        taker = self._taker
        taker.budget = max(taker.budget - count, 0)
        if count and self._trouble.is_told:
            self._trouble.passed()
        if not taker.budget:
            taker.update()


class ReadingDoor(Door):
    """Wakes this worker to accept as many as are its share.

    `epoll` is the loop's own; in a loop without one all workers are woken.
    """

    def __init__(
        self, index: int, sock: socket.socket, taker: Taker, epoll: select.epoll | None
    ) -> None:
        super().__init__(index, sock, taker)
        self._epoll = epoll

    def look(self) -> None:
        """Accept its share, as if it had been woken."""
        if self._watching and waiting_in(self._sock):
            self._accept(self._share())

    def _start(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._on_wake_up)
        self._loop.call_soon(self._begin_exclusively)

    def _stop(self) -> None:
        self._loop.remove_reader(self._sock.fileno())

    def _begin_exclusively(self) -> None:
        """Be woken alone, as soon as uvloop has registered the socket in its own way."""
        if not self._watching or self._epoll is None:
            return
        try:
            self._stand_last(self._epoll)
        except FileNotFoundError:
            self._loop.call_soon(self._begin_exclusively)

    def _on_wake_up(self) -> None:
        """Somebody waits, unless another worker was quicker."""
        pace = self._pace
        pace.woken(self._loop.time())
        if not pace.is_time:
            self._accept(min(self._share(), _QUICK_BATCH))
            return
        # Slow once alone tells nothing: perhaps nobody had come.
        self._accept(self._share() if pace.was_slow else 1)
        if self._watching and self._epoll is not None:
            self._stand_last(self._epoll)

    def _stand_last(self, epoll: select.epoll) -> None:
        """Let the other workers be woken before this one."""
        epoll.unregister(self._sock)
        epoll.register(self._sock, _EXCLUSIVE)


class ServingDoor(Door):
    """Lets uvloop accept, one connection a turn of the loop.

    That is 9 µs a connection cheaper than Python: all of one takes 63 then, with two workers and
    32 clients, where gunicorn takes 66 (benchmarks/request_cpu.py). But who it accepts is here
    before anybody is asked. So it is for workers without limits of their own; the few that one
    turn may bring too many, one a listener, count for nothing beside the descriptors in reserve.

    uvloop (0.21 and later: libuv accepts one a wake-up since 1.46) says nothing of errors.
    """

    def __init__(self, index: int, sock: socket.socket, taker: Taker, epoll: select.epoll) -> None:
        super().__init__(index, sock, taker)
        self._epoll = epoll
        self._server: asyncio.AbstractServer | None = None
        self._fd = -1  # that of the server
        self._is_ours = False  # what is registered for it, or is not
        self._is_serving = False  # in this very moment

    def look(self) -> None:
        """Accept one, for that tells what is wrong, if something is; be woken for the others."""
        if self._watching and waiting_in(self._sock):
            self._accept(1)
            self._stand_last()

    def close(self) -> None:
        """Give the socket up."""
        if self._watching:
            self._watching = False
            self._stop()
        self._close_server()
        super().close()

    def _start(self) -> None:
        if self._server is None:
            self._open_server()
        elif self._is_ours:
            self._epoll.register(self._fd, _EXCLUSIVE)

    def _stop(self) -> None:
        if self._is_ours:
            self._epoll.unregister(self._fd)
        elif not self._is_serving:
            self._close_server()
        # Else uvloop has registered it in this turn: it is taken over in the next, before uvloop
        # looks again. Closed now, it would take the connection with it.

    def _open_server(self) -> None:
        try:
            own = self._sock.dup()
        except OSError as error:
            self._watching = False
            self._trouble.met(error)
            return
        self._fd = own.fileno()
        self._server = _server_on(self._loop, self._serve, own, backlog_of(self._sock))
        self._loop.call_soon(self._take_over)

    def _close_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self._is_ours = False

    def _take_over(self) -> None:
        """Be woken alone, or not at all, as soon as uvloop has registered it in its own way."""
        if self._server is None or self._is_ours:
            return
        try:
            self._epoll.unregister(self._fd)
        except FileNotFoundError:
            self._loop.call_soon(self._take_over)
            return
        self._is_ours = True
        if self._watching:
            self._epoll.register(self._fd, _EXCLUSIVE)

    def _stand_last(self) -> None:
        """Let the other workers be woken before this one; it is woken if somebody waits now."""
        if self._watching and self._is_ours:
            self._epoll.unregister(self._fd)
            self._epoll.register(self._fd, _EXCLUSIVE)

    def _serve(self) -> asyncio.Protocol:
        """One was accepted. Whatever this raises would end the server."""
        self._is_serving = True
        protocol = self._taker.serve(self._index)
        self._spend(1)
        self._is_serving = False
        self._pace.woken(self._loop.time())
        if self._pace.is_time:
            self._stand_last()
        return protocol


class _Pace:
    """Tells from when it was woken whether the loop turns quickly."""

    def __init__(self) -> None:
        self.is_time = True  # to stand last
        self.was_slow = False  # the time before, too
        self._was_slow = False
        self._woken = 0.0
        self._quick_in_a_row = 0

    def woken(self, now: float) -> None:
        """It was woken at this moment, in seconds of the loop's clock."""
        is_quick, self._woken = now - self._woken < _QUICK, now
        self.was_slow, self._was_slow = self._was_slow, not is_quick
        self.is_time = not is_quick or self._quick_in_a_row >= _QUICK_IN_A_ROW
        self._quick_in_a_row = 0 if self.is_time else self._quick_in_a_row + 1


def _server_on(
    loop: asyncio.AbstractEventLoop,
    factory: Callable[[], asyncio.Protocol],
    sock: socket.socket,
    backlog: int,
) -> asyncio.AbstractServer:
    """Return a server on this listening socket, and let it own that."""
    creating: Any = loop.create_server(factory, sock=sock, backlog=backlog)
    try:
        # It has nothing to wait for: no name is to be resolved.
        creating.send(None)
    except StopIteration as returned:
        server: asyncio.AbstractServer = returned.value
        return server
    raise RuntimeError("uvloop's create_server waits for something, where it never did")


def epoll_of(loop: asyncio.AbstractEventLoop) -> select.epoll | None:
    """Return uvloop's own epoll; None of a loop that has none: then all workers are woken."""
    get_backend = getattr(loop, "_get_backend_id", None)
    # A duplicate: what Python has as an object it closes.
    return None if get_backend is None else select.epoll.fromfd(os.dup(get_backend()))

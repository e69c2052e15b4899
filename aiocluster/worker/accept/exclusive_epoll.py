"""The wake-up of a worker for a listening socket that it shares with others (`shared`).

One connection wakes one worker. The kernel does so for waiters with EPOLLEXCLUSIVE, but only in
the epoll in which they sleep: if one epoll is watched by another, the kernel wakes all of them.
So the flag must be set in uvloop's own epoll, and uvloop has no API for it. uvloop registers the
socket as usual, and that entry is then replaced by an exclusive one. uvloop never changes an
entry (the kernel would refuse to change an exclusive one), and only removes it.

The kernel wakes the longest waiter, so a worker that re-registers goes to the end of the queue.
This is round robin among idle workers; load is not considered.
"""

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Callable
from typing import Any

from aiocluster.ipc.accept_queue import backlog_of

# 0 where the system has no epoll; nothing is registered there.
_EXCLUSIVE = getattr(select, "EPOLLIN", 0) | getattr(select, "EPOLLEXCLUSIVE", 0)


class _Waking:
    """A registration in `epoll`, the loop's own; without one, all workers are woken."""

    def __init__(self, epoll: "select.epoll | None") -> None:
        self._epoll = epoll
        self._loop = asyncio.get_running_loop()
        self._fd = -1
        self._on = False
        self._is_exclusive = False

    def requeue_waiter(self) -> None:
        """Put this worker last in the kernel's queue; it is still woken if a client waits now."""
        if self._is_exclusive and self._epoll is not None:
            self._unregister()
            self._epoll.register(self._fd, _EXCLUSIVE)

    def _take_over(self) -> None:
        """Replace uvloop's entry by an exclusive one, as soon as uvloop has registered it."""
        if not self._on or self._epoll is None:
            return
        try:
            self._epoll.unregister(self._fd)
        except FileNotFoundError:
            self._loop.call_soon(self._take_over)
        else:
            self._is_exclusive = True  # even if this fails: `requeue_waiter` tries again
            self._epoll.register(self._fd, _EXCLUSIVE)

    def _unregister(self) -> None:
        assert self._epoll is not None
        # The entry is missing if the kernel had no room for it (ENOSPC, ENOMEM) the last time.
        with contextlib.suppress(FileNotFoundError):
            self._epoll.unregister(self._fd)


class ExclusiveReader(_Waking):
    """A reader that calls `on_wake_up` when a client may wait; it accepts nothing."""

    def __init__(
        self, sock: socket.socket, epoll: "select.epoll | None", on_wake_up: Callable[[], object]
    ) -> None:
        super().__init__(epoll)
        self._fd = sock.fileno()
        self._on_wake_up = on_wake_up

    def start(self) -> None:
        """Call `on_wake_up` from now on."""
        self._on = True
        self._loop.add_reader(self._fd, self._on_wake_up)
        self._loop.call_soon(self._take_over)

    def stop(self) -> None:
        """Call `on_wake_up` no more, at once."""
        self._on = self._is_exclusive = False
        self._loop.remove_reader(self._fd)


class ExclusiveServer(_Waking):
    """A server in which uvloop accepts one connection a turn; `factory` makes its protocol.

    This is 9 µs a connection cheaper than accepting in Python: a connection takes 69 µs in all,
    with two workers and 32 clients, where gunicorn takes 72 (benchmarks/request_cpu.py). But
    uvloop accepts without a check for room. uvloop (0.21 and later: libuv accepts one a wake-up
    since 1.46) reports no errors, and without a free descriptor it closes the whole backlog.

    An exception of `factory` would end the server. Connections have the context of `start`.
    """

    def __init__(
        self, sock: socket.socket, epoll: "select.epoll", factory: Callable[[], asyncio.Protocol]
    ) -> None:
        super().__init__(epoll)
        self._sock = sock
        self._factory = factory
        self._server: asyncio.AbstractServer | None = None

    def start(self) -> None:
        """Accept from now on; raise OSError if no descriptor is free."""
        if self._server is None:
            self._server = self._open()
            self._loop.call_soon(self._take_over)
        elif self._epoll is not None:
            self._epoll.register(self._fd, _EXCLUSIVE)
            self._is_exclusive = True
        self._on = True

    def stop(self) -> None:
        """Accept no more, except a connection that has already woken uvloop in this turn."""
        self._on = False
        if self._is_exclusive:
            self._unregister()
            self._is_exclusive = False
        else:
            self.close()

    def close(self) -> None:
        """Accept no more, at once, and close the descriptor; `start` may be called again."""
        self._on = self._is_exclusive = False
        if self._server is not None:
            self._server.close()
            self._server = None

    def _open(self) -> asyncio.AbstractServer:
        own = self._sock.dup()
        try:
            self._fd = own.fileno()
            return _server_on(self._loop, self._factory, own, backlog_of(self._sock))
        except BaseException:
            own.close()
            raise


def _server_on(
    loop: asyncio.AbstractEventLoop,
    factory: Callable[[], asyncio.Protocol],
    sock: socket.socket,
    backlog: int,
) -> asyncio.AbstractServer:
    """Return a server that owns this listening socket."""
    creating: Any = loop.create_server(factory, sock=sock, backlog=backlog)
    try:
        # The coroutine has nothing to wait for: no name is to be resolved.
        creating.send(None)
    except StopIteration as returned:
        server: asyncio.AbstractServer = returned.value
        return server
    raise RuntimeError("uvloop's create_server waits for something, which it never did before")


def epoll_of(loop: asyncio.AbstractEventLoop) -> "select.epoll | None":
    """Return uvloop's own epoll; None if the loop has none."""
    get_backend = getattr(loop, "_get_backend_id", None)
    # A duplicate: the epoll object closes its descriptor.
    return None if get_backend is None else select.epoll.fromfd(os.dup(get_backend()))

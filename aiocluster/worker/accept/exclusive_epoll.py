"""How a worker is woken for a listening socket that it shares with others (`shared`).

One connection wakes one worker. The kernel sees to that for those who wait by EPOLLEXCLUSIVE,
but only in the epoll in which they sleep: through one that is watched by another it wakes all
of them. So the flag must be set in the epoll of uvloop itself, which has no word for it: uvloop
watches the socket as any other, and what it has registered is then replaced. It never changes
what it has registered (of an exclusive entry the kernel would not let it), only removes it.

The kernel wakes who has waited longest, so a worker that puts itself in anew stands last: that
makes it round robin among those who have nothing to do. Who is busy is not asked.
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
    """`epoll` is the loop's own; in a loop without one all workers are woken."""

    def __init__(self, epoll: "select.epoll | None") -> None:
        self._epoll = epoll
        self._loop = asyncio.get_running_loop()
        self._fd = -1
        self._on = False
        self._is_exclusive = False

    def requeue_waiter(self) -> None:
        """Let the other workers be woken before this one; it is woken if somebody waits now."""
        if self._is_exclusive and self._epoll is not None:
            self._unregister()
            self._epoll.register(self._fd, _EXCLUSIVE)

    def _take_over(self) -> None:
        """Be woken alone, as soon as uvloop has registered the socket in its own way."""
        if not self._on or self._epoll is None:
            return
        try:
            self._epoll.unregister(self._fd)
        except FileNotFoundError:
            self._loop.call_soon(self._take_over)
        else:
            self._is_exclusive = True  # though it may fail: who stands last tries again
            self._epoll.register(self._fd, _EXCLUSIVE)

    def _unregister(self) -> None:
        assert self._epoll is not None
        # Gone already, if the kernel had no room for it (ENOSPC, ENOMEM) the last time.
        with contextlib.suppress(FileNotFoundError):
            self._epoll.unregister(self._fd)


class ExclusiveReader(_Waking):
    """Tells that somebody waits, unless another worker was quicker; accepts nothing."""

    def __init__(
        self, sock: socket.socket, epoll: "select.epoll | None", on_wake_up: Callable[[], object]
    ) -> None:
        super().__init__(epoll)
        self._fd = sock.fileno()
        self._on_wake_up = on_wake_up

    def start(self) -> None:
        """Tell from now on."""
        self._on = True
        self._loop.add_reader(self._fd, self._on_wake_up)
        self._loop.call_soon(self._take_over)

    def stop(self) -> None:
        """Tell no more, at once."""
        self._on = self._is_exclusive = False
        self._loop.remove_reader(self._fd)


class ExclusiveServer(_Waking):
    """Lets uvloop accept, one connection a turn of the loop; `factory` is asked for its protocol.

    That is 9 µs a connection cheaper than Python: all of one takes 69 then, with two workers and
    32 clients, where gunicorn takes 72 (benchmarks/request_cpu.py). But who it accepts is here
    before anybody is asked. uvloop (0.21 and later: libuv accepts one a wake-up since 1.46) says
    nothing of errors, and without a free descriptor it closes all who wait in the backlog.

    What `factory` raises would end it. Its connections have the context of `start`.
    """

    def __init__(
        self, sock: socket.socket, epoll: "select.epoll", factory: Callable[[], asyncio.Protocol]
    ) -> None:
        super().__init__(epoll)
        self._sock = sock
        self._factory = factory
        self._server: asyncio.AbstractServer | None = None

    def start(self) -> None:
        """Accept from now on. OSError: there is no descriptor for it."""
        if self._server is None:
            self._server = self._open()
            self._loop.call_soon(self._take_over)
        elif self._epoll is not None:
            self._epoll.register(self._fd, _EXCLUSIVE)
            self._is_exclusive = True
        self._on = True

    def stop(self) -> None:
        """Accept no more, but for one that uvloop may have been told of in this turn."""
        self._on = False
        if self._is_exclusive:
            self._unregister()
            self._is_exclusive = False
        else:
            self.close()

    def close(self) -> None:
        """Accept no more, at once, and give its descriptor up; it may be started again."""
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
    """Return a server on this listening socket, and let it own that."""
    creating: Any = loop.create_server(factory, sock=sock, backlog=backlog)
    try:
        # It has nothing to wait for: no name is to be resolved.
        creating.send(None)
    except StopIteration as returned:
        server: asyncio.AbstractServer = returned.value
        return server
    raise RuntimeError("uvloop's create_server waits for something, where it never did")


def epoll_of(loop: asyncio.AbstractEventLoop) -> "select.epoll | None":
    """Return uvloop's own epoll; None of a loop that has none."""
    get_backend = getattr(loop, "_get_backend_id", None)
    # A duplicate: what Python has as an object it closes.
    return None if get_backend is None else select.epoll.fromfd(os.dup(get_backend()))

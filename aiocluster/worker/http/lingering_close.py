"""Closes a connection so that its client can read all that was sent to it.

A socket that is closed while something lies in it unread, or that gets something afterwards,
answers with a reset, which may overtake the last response or a WebSocket's close code. So where
a client may still be sending, only our half is closed, and what comes is read and dropped,
until the client closes its own.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from aiocluster.worker.http.request_boundary import BoundaryTrackingHandler

# Seconds that a client gets to close its half. A round trip is needed, and no more.
_LINGER = 1.0

_INT = struct.Struct("i")

# From <linux/sockios.h>: the bytes that the kernel has not sent yet. TIOCOUTQ also counts those
# that are not acknowledged: a client that has vanished would be waited for as one that is slow.
_SIOCOUTQNSD = 0x894B


class LingeringTransport:
    """A handler's transport; what is asked of it goes to the real one, but for `close`.

    If `close_instead` is set, it is called in the place of `close`; in the end it calls `finish`.
    """

    def __init__(self, handler: BoundaryTrackingHandler, transport: asyncio.Transport) -> None:
        self._handler = handler
        self._transport = transport
        self._is_half_closed = False
        self.close_instead: Callable[[], None] | None = None
        self.is_lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Can no more be written?"""
        return self.is_lingering or self._transport.is_closing()

    def close(self) -> None:
        """Close it, now or when the client has read all. Idempotent."""
        if self.close_instead is not None:
            self.is_lingering = True
            self.close_instead()
        else:
            self.finish(in_doubt=self._handler.in_doubt or bool(self._handler._messages))

    def finish(self, *, in_doubt: bool) -> None:
        """Close it; only our half if the client is sending, or may be (`in_doubt`). Idempotent."""
        if self._is_half_closed or self._transport.is_closing():
            return
        if in_doubt or unread_bytes(self._transport):
            self._close_half()
        else:
            self._transport.close()

    def _close_half(self) -> None:
        self.is_lingering = self._is_half_closed = True
        self._handler._close = True  # it drops what comes
        self._transport.write_eof()
        self._transport.resume_reading()
        # If the client closes its half before, the connection ends then.
        asyncio.get_running_loop().call_later(_LINGER, self._transport.close)


def let_linger(handler: BoundaryTrackingHandler) -> LingeringTransport | None:
    """Let the client read all when this connection is closed; None if it is closed already."""
    transport: object = handler.transport
    if handler.transport is None:
        return None
    if not isinstance(transport, LingeringTransport):
        transport = LingeringTransport(handler, handler.transport)
        handler.transport = cast(asyncio.Transport, transport)
    return transport


def is_lingering(handler: BoundaryTrackingHandler) -> bool:
    """Is all over but the client's own end?"""
    transport: object = handler.transport
    return (
        isinstance(transport, LingeringTransport)
        and transport.is_lingering
        and handler._current_request is None
    )


def unread_bytes(transport: asyncio.Transport) -> int:
    """Return how many bytes lie in its socket."""
    import termios  # which Windows does not have

    return _count(transport.get_extra_info("socket"), termios.FIONREAD)


def unsent_bytes(handler: BoundaryTrackingHandler) -> int:
    """Return how many bytes wait, here and in the kernel, for room at the client's side."""
    transport = handler.transport
    if transport is None:
        return 0
    sock = transport.get_extra_info("socket")
    # A Unix socket has them at the client's side at once.
    in_kernel = 0 if sock.family == socket.AF_UNIX else _count(sock, _SIOCOUTQNSD)
    return transport.get_write_buffer_size() + in_kernel


def _count(sock: socket.socket, request: int) -> int:
    import fcntl  # which Windows does not have

    (count,) = _INT.unpack(fcntl.ioctl(sock.fileno(), request, bytes(_INT.size)))
    return int(count)

"""Closes a connection so that its client can read all data that was sent to it.

If a socket is closed with unread data, or gets data after the close, it sends a reset, which may
overtake the last response or a WebSocket's close code. So if a client may still be sending, only
our half is closed, and arriving data is read and dropped until the client closes its own half.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from aiocluster.worker.http.request_boundary import BoundaryTrackingHandler

# Seconds that a client gets to close its half. It needs a round trip, and no more.
_LINGER = 1.0

_INT = struct.Struct("i")

# From <linux/sockios.h>: the bytes that the kernel has not sent yet. TIOCOUTQ also counts bytes
# that are not acknowledged: with it, a client that has vanished would look like a slow one.
_SIOCOUTQNSD = 0x894B


class LingeringTransport:
    """A handler's transport that passes everything except `close` to the real transport.

    If `close_instead` is set, `close` calls it, and it calls `finish` in the end.
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
        """Return True if no more data can be written."""
        return self.is_lingering or self._transport.is_closing()

    def close(self) -> None:
        """Close the connection, now or when the client has read everything. Idempotent."""
        if self.close_instead is not None:
            self.is_lingering = True
            self.close_instead()
        else:
            self.finish(in_doubt=self._handler.in_doubt or bool(self._handler._messages))

    def finish(self, *, in_doubt: bool) -> None:
        """Close the connection; only our half if the client may be sending. Idempotent."""
        if self._is_half_closed or self._transport.is_closing():
            return
        if in_doubt or unread_bytes(self._transport):
            self._close_half()
        else:
            self._transport.close()

    def _close_half(self) -> None:
        self.is_lingering = self._is_half_closed = True
        self._handler._close = True  # the handler drops arriving data
        self._transport.write_eof()
        self._transport.resume_reading()
        # If the client closes its half earlier, the connection ends then.
        asyncio.get_running_loop().call_later(_LINGER, self._transport.close)


def let_linger(handler: BoundaryTrackingHandler) -> LingeringTransport | None:
    """Let the connection linger when it closes; return its transport, None if closed already."""
    transport: object = handler.transport
    if handler.transport is None:
        return None
    if not isinstance(transport, LingeringTransport):
        transport = LingeringTransport(handler, handler.transport)
        handler.transport = cast(asyncio.Transport, transport)
    return transport


def is_lingering(handler: BoundaryTrackingHandler) -> bool:
    """Return True if only the client's close is still to come."""
    transport: object = handler.transport
    return (
        isinstance(transport, LingeringTransport)
        and transport.is_lingering
        and handler._current_request is None
    )


def unread_bytes(transport: asyncio.Transport) -> int:
    """Return how many unread bytes the transport's socket holds."""
    import termios  # which Windows does not have

    return _count(transport.get_extra_info("socket"), termios.FIONREAD)


def unsent_bytes(handler: BoundaryTrackingHandler) -> int:
    """Return how many bytes wait, here and in the kernel, for room at the client's side."""
    transport = handler.transport
    if transport is None:
        return 0
    sock = transport.get_extra_info("socket")
    # A Unix socket puts them at the client's side at once.
    in_kernel = 0 if sock.family == socket.AF_UNIX else _count(sock, _SIOCOUTQNSD)
    return transport.get_write_buffer_size() + in_kernel


def _count(sock: socket.socket, request: int) -> int:
    import fcntl  # which Windows does not have

    (count,) = _INT.unpack(fcntl.ioctl(sock.fileno(), request, bytes(_INT.size)))
    return int(count)

"""Closes a connection so that its client can read all that was sent to it.

A socket that is closed while something lies in it unread, or that gets something afterwards,
answers with a reset, which may overtake the last response or a WebSocket's close code. So where
a client may still be sending, only our half is closed, and what comes is read and dropped,
until the client closes its own.
"""

import asyncio
import struct
from typing import Any, cast

from aiocluster.worker.http.request_boundary import FollowedHandler

# Seconds that a client gets to close its half. A round trip is needed, and no more.
_LINGER = 1.0

_INT = struct.Struct("i")


class LingeringTransport:
    """A handler's transport; what is asked of it goes to the real one, but for `close`."""

    def __init__(self, handler: FollowedHandler, transport: asyncio.Transport) -> None:
        self._handler = handler
        self._transport = transport
        self.always = False
        self.is_lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Can no more be written?"""
        return self.is_lingering or self._transport.is_closing()

    def close(self) -> None:
        """Close it, now or when the client has heard all. Idempotent."""
        if self.is_closing():
            return
        if self.always or self._client_may_be_sending():
            self._linger()
        else:
            self._transport.close()

    def _client_may_be_sending(self) -> bool:
        handler = self._handler
        return handler.in_doubt or bool(handler._messages) or unread_bytes(self._transport) > 0

    def _linger(self) -> None:
        self.is_lingering = True
        self._handler._close = True  # it drops what comes
        self._transport.write_eof()
        self._transport.resume_reading()
        # The client's end closes it before.
        asyncio.get_running_loop().call_later(_LINGER, self._transport.close)


def let_linger(handler: FollowedHandler, *, always: bool = False) -> None:
    """When this connection is closed, let its client hear all; `always` if it must answer."""
    transport: object = handler.transport
    if handler.transport is None:
        return
    if not isinstance(transport, LingeringTransport):
        transport = LingeringTransport(handler, handler.transport)
        handler.transport = cast(asyncio.Transport, transport)
    transport.always = transport.always or always


def is_lingering(handler: FollowedHandler) -> bool:
    """Is all over but the client's own end?"""
    transport: object = handler.transport
    return isinstance(transport, LingeringTransport) and transport.is_lingering


def unread_bytes(transport: asyncio.Transport) -> int:
    """Return how many bytes lie in its socket."""
    import fcntl  # which Windows does not have
    import termios

    fd = transport.get_extra_info("socket").fileno()
    (count,) = _INT.unpack(fcntl.ioctl(fd, termios.FIONREAD, bytes(_INT.size)))
    return int(count)

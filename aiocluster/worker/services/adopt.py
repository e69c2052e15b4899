"""Gives an accepted connection, a bare descriptor, to a protocol on uvloop.

What asyncio offers for this costs a socket object and a task a connection, 8 µs together.
uvloop needs neither: of the socket it asks type, family and number, and the coroutine it
returns waits only once, so a callback can finish it, or nobody if its result is not wanted.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

log = logging.getLogger("aiocluster.worker")


# Hears the transport, or why there is none.
Done = Callable[[asyncio.Transport | None, Exception | None], None]


class AcceptedConnection:
    """As much of a socket as uvloop looks at. The transport owns the descriptor."""

    __slots__ = ("connecting", "family", "fileno")

    type = socket.SOCK_STREAM

    family: int
    fileno: Callable[[], int]
    connecting: Coroutine[Any, Any, Any] | None  # kept until the end, if nobody waits for it

    def close(self) -> None:
        """Called when the transport is closing, which closes the descriptor itself."""
        self.connecting = None


class FollowedConnection(AcceptedConnection):
    """An accepted connection that calls `on_close()` once its transport has closed.

    uvloop calls `close` exactly once, whatever ended the connection, after `connection_lost` (with
    TLS, a turn of the loop before it). So the protocol, which is the user's, need not be touched.
    """

    __slots__ = ("on_close",)

    on_close: Callable[[], object]

    def close(self) -> None:
        """See AcceptedConnection."""
        super().close()
        self.on_close()


class RejectProtocol(asyncio.Protocol):
    """Closes its connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


def adopt(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    fd: int,
    family: int,
    done: Done | None = None,
    on_close: Callable[[], object] | None = None,
    **tls: Any,
) -> None:
    """Serve the connection `fd` and own it, whatever happens.

    `tls` is what loop.connect_accepted_socket takes for that. `done` hears how it ended, unless
    this raises. `on_close` is called when the transport, if there ever was one, has closed.
    """
    connection: Any
    if on_close is None:
        connection = AcceptedConnection()
    else:
        connection = FollowedConnection()
        connection.on_close = on_close
    connection.family = family
    connection.fileno = fd.__index__  # returns it, without a call into Python
    connecting = loop.connect_accepted_socket(protocol_factory, connection, **tls)
    try:
        waiter = connecting.send(None)
    except BaseException:
        # uvloop closes it only once it has a transport.
        os.close(fd)
        raise
    # What a task would do with the future it is given to wait for.
    waiter._asyncio_future_blocking = False
    if done is None:
        # It would only return what nobody wants; but ended before its time it closes the transport.
        connection.connecting = connecting
    else:
        waiter.add_done_callback(partial(_finish, connecting, done))


def _finish(
    connecting: Coroutine[Any, Any, Any], done: Done, waiter: "asyncio.Future[None]"
) -> None:
    try:
        connecting.send(None)
    except StopIteration as returned:
        done(returned.value[0], None)
    except Exception as error:
        done(None, error)

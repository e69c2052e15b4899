"""Gives an accepted connection, a bare descriptor, to a protocol on uvloop.

asyncio's way costs a socket object and a task for each connection, 8 µs together. uvloop needs
neither: it reads type, family and descriptor of the socket, and its coroutine waits only once. So
a callback can finish the coroutine, or it stays unfinished if its result is not wanted.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

from aiocluster.private_apis import acknowledge

log = logging.getLogger("aiocluster.worker")


# Gets the transport, or the error for which there is none.
Done = Callable[[asyncio.Transport | None, Exception | None], None]


class AcceptedConnection:
    """The part of a socket that uvloop uses. The transport owns the descriptor."""

    __slots__ = ("connecting", "family", "fileno")

    type = socket.SOCK_STREAM

    family: int
    fileno: Callable[[], int]
    connecting: Coroutine[Any, Any, Any] | None  # kept until the end, if it is not awaited

    def close(self) -> None:
        """Drop the coroutine: uvloop calls this when the transport closes the descriptor."""
        self.connecting = None


class FollowedConnection(AcceptedConnection):
    """An accepted connection that calls `on_close()` once its transport has closed.

    uvloop calls `close` exactly once, however the connection ends, after `connection_lost` (with
    TLS, a turn of the loop before it). So the user's protocol need not be touched.
    """

    __slots__ = ("on_close",)

    on_close: Callable[[], object]

    def close(self) -> None:
        """See AcceptedConnection."""
        super().close()
        self.on_close()


class RejectProtocol(asyncio.Protocol):
    """A protocol that aborts its connection at once."""

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
    """Serve the connection `fd`, and own it even if this raises.

    `tls` are the TLS options of loop.connect_accepted_socket. `done` gets the transport or the
    error, unless this raises. `on_close` is called when a transport that was made has closed.
    """
    connection: Any
    if on_close is None:
        connection = AcceptedConnection()
    else:
        connection = FollowedConnection()
        connection.on_close = on_close
    connection.family = family
    connection.fileno = fd.__index__  # returns `fd`, without a call into Python
    connecting = loop.connect_accepted_socket(protocol_factory, connection, **tls)
    try:
        waiter = connecting.send(None)
    except BaseException:
        # uvloop closes the descriptor only once there is a transport.
        os.close(fd)
        raise
    acknowledge(waiter)
    if done is None:
        # The result is not wanted, but a coroutine that ends too early closes the transport.
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

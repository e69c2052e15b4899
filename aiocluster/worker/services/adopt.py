"""Gives an accepted connection, a bare descriptor, to a protocol on uvloop.

What asyncio offers for this costs a socket object and a task a connection, 8 µs together.
uvloop needs neither: of the socket it asks type, family and number, and the coroutine it
returns waits only once, so a callback can finish it.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

log = logging.getLogger("aiocluster.worker")


# Hears the transport, or why there is none.
Done = Callable[[asyncio.Transport | None, Exception | None], None]


class AcceptedConnection:
    """As much of a socket as uvloop looks at. The transport owns the descriptor."""

    __slots__ = ("_fd", "family")

    type = socket.SOCK_STREAM

    def __init__(self, fd: int, family: int) -> None:
        self._fd = fd
        self.family = family

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def close(self) -> None:
        """Called when the transport is closing, which closes the descriptor itself."""


def adopt(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], asyncio.Protocol],
    fd: int,
    family: int,
    done: Done | None = None,
    **tls: Any,
) -> None:
    """Serve the connection `fd` and own it, whatever happens.

    `tls` is what loop.connect_accepted_socket takes for that. `done` hears how it ended, unless
    this raises.
    """
    connection: Any = AcceptedConnection(fd, family)
    connecting = loop.connect_accepted_socket(protocol_factory, connection, **tls)
    try:
        waiter = connecting.send(None)
    except BaseException:
        # uvloop closes it only once it has a transport.
        os.close(fd)
        raise
    # What a task would do with the future it is given to wait for.
    waiter._asyncio_future_blocking = False
    waiter.add_done_callback(partial(_finish, connecting, done))


def _finish(
    connecting: Coroutine[Any, Any, Any], done: Done | None, waiter: "asyncio.Future[None]"
) -> None:
    try:
        connecting.send(None)
    except StopIteration as returned:
        if done is not None:
            done(returned.value[0], None)
    except Exception as error:
        if done is not None:
            done(None, error)
        else:
            log.exception("a connection could not be served")

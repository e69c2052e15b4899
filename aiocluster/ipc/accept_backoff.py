"""Failures to accept: one log line, and new attempts until one succeeds."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

# Seconds until the next attempt when descriptors or memory are short (EMFILE, ENFILE, ENOBUFS,
# ENOMEM), or after any other error. The connections wait in the backlog meanwhile.
_RETRY_AFTER = 0.25

# Errors of one connection: its client gave up, or the network failed (accept(2) lists these).
CLIENT_GONE = {
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.EPERM,
    errno.ENETDOWN,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    getattr(errno, "ENONET", errno.ENETDOWN),  # only Linux has it
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
    errno.EINTR,
}


class AcceptBackoff:
    """A pause in accepting from one listening socket, begun by an error that will pass.

    While `is_waiting`, no connection may be accepted; `changed` is called when that begins and
    ends.
    """

    def __init__(
        self, sock: socket.socket, log: logging.Logger, changed: Callable[[], None]
    ) -> None:
        self.is_told = False
        self._sock = sock
        self._log = log
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """True while it is too soon to accept again."""
        return self._retry is not None

    def met(self, error: OSError) -> None:
        """Note that accepting failed."""
        if error.errno in CLIENT_GONE:
            return
        if not self.is_told:
            self.is_told = True
            self._log.warning(
                "accept on %s:%d failed: %s; connections wait in the backlog until it passes",
                *self._sock.getsockname()[:2],
                error,
            )
        self._retry = self._loop.call_later(_RETRY_AFTER, self._try_again)
        self._changed()

    def passed(self) -> None:
        """Note that a connection was accepted, perhaps just before a failure."""
        if self.is_told and not self.is_waiting:
            self.is_told = False
            self._log.info("accepting on %s:%d again", *self._sock.getsockname()[:2])

    def forget(self) -> None:
        """Cancel the next attempt, since the socket is closed. Idempotent."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _try_again(self) -> None:
        self._retry = None
        self._changed()

"""What goes wrong at accepting: told once, and tried again until it has passed."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

# Out of descriptors or memory (EMFILE, ENFILE, ENOBUFS, ENOMEM), or something stranger: try
# again after this many seconds. The connections wait in the backlog meanwhile.
_RETRY_AFTER = 0.25

# The client gave up while it waited, or the network did (accept(2) lists these).
CLIENT_GONE = {
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.EPERM,
    errno.ENETDOWN,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    getattr(errno, "ENONET", errno.ENETDOWN),  # of Linux alone
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
    errno.EINTR,
}


class AcceptBackoff:
    """That of one listening socket, from its first failure to the next connection.

    While it `is_waiting` nobody is to accept; `changed` is called when that begins and ends.
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
        """Is it too soon to try again?"""
        return self._retry is not None

    def met(self, error: OSError) -> None:
        """Accepting failed."""
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
        """Accepting has worked, perhaps just before it failed."""
        if self.is_told and not self.is_waiting:
            self.is_told = False
            self._log.info("accepting on %s:%d again", *self._sock.getsockname()[:2])

    def forget(self) -> None:
        """The socket is closed. Idempotent."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _try_again(self) -> None:
        self._retry = None
        self._changed()

"""The connections that a worker gives back, on their way to other workers."""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable

from aiocluster.errors import ProtocolError
from aiocluster.ipc.handoff import Taken, TruncatedBatch, next_batch_size, take, take_all

log = logging.getLogger("aiocluster.dispatcher")

# Seconds until the next look, if the other workers have enough to take.
_FLOOD_PAUSE = 0.002

# Seconds until the next look, at the limit of descriptors. The connections wait in the queue.
_FD_LIMIT_PAUSE = 0.1


class Returns:
    """The reader of connections that a worker gives back, at the primary's end of its handoff.

    `on_broken(why)` is called once, when the handoff cannot be read any more: the worker has sent
    something that is not a batch, or has shut down its end, which the primary has too.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_returned: Callable[[list[Taken]], None],
        on_broken: Callable[[str], None],
        would_flood: Callable[[], bool],
    ) -> None:
        """`would_flood()` returns True if the other workers have enough to take for now."""
        self._would_flood = would_flood
        self._on_broken = on_broken
        self._sock = sock
        self._on_returned = on_returned
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> list[Taken]:
        """Stop reading; return the connections that wait in the queue.

        The caller owns the socket.
        """
        self._stop_reading()
        if self._retry is not None:
            self._retry.cancel()
        return take_all(self._sock, _on_lost)

    def _listen(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._read)

    def _stop_reading(self) -> None:
        self._loop.remove_reader(self._sock.fileno())

    def _read(self) -> None:
        count = next_batch_size(self._sock)
        if count and self._would_flood():
            self._pause(_FLOOD_PAUSE)
        elif count and not _have_room_for(count, self._sock.fileno()):
            self._pause(_FD_LIMIT_PAUSE)
        else:
            self._hear()

    def _hear(self) -> None:
        try:
            returned = self._take()
        except BlockingIOError:
            return
        except (ProtocolError, OSError) as error:
            self._stop_reading()
            self._on_broken(str(error))
        else:
            self._on_returned(returned)

    def _pause(self, seconds: float) -> None:
        self._stop_reading()
        self._retry = self._loop.call_later(seconds, self._listen)

    def _take(self) -> list[Taken]:
        try:
            batch = take(self._sock)
        except TruncatedBatch as truncated:  # another thread has opened files meanwhile
            _on_lost(truncated.lost)
            return truncated.arrived
        if batch is None:
            raise ProtocolError("it was shut down, or an empty packet was sent")
        return batch


def _have_room_for(count: int, fd: int) -> bool:
    """Return True if `count` descriptors can be opened: the kernel would close those beyond."""
    opened: list[int] = []
    try:
        for _ in range(count):
            opened.append(os.dup(fd))  # noqa: PERF401 (those before an error must be closed)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
    for duplicate in opened:
        os.close(duplicate)
    return len(opened) == count


def _on_lost(count: int) -> None:
    log.error("%d connections lost: too many open files in the primary", count)

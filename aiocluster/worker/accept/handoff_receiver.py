"""The worker's side of its handoff: connections come, and some go back."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence

from aiocluster.errors import ProtocolError
from aiocluster.ipc.handoff import (
    Client,
    Taken,
    TruncatedBatch,
    give,
    give_told,
    take,
    take_all,
    untaken_bytes,
)
from aiocluster.ipc.scoreboard import CONNECTIONS_CLOSED, CONNECTIONS_TAKEN

log = logging.getLogger("aiocluster.worker")

# With more than this on its way to the primary, nothing more goes back for now: a connection that
# is used would wait behind all others. The kernel counts some 800 bytes for a batch.
_MAX_UNTAKEN_BYTES = 4096

# Serves this descriptor, that came by the listener of this index, and whose client is this one
# if a proxy has told; owns it, whatever happens.
Adopt = Callable[[int, int, Client | None], None]


class HandoffReceiver:
    """Deaf until `begin`; what is given meanwhile waits in the kernel."""

    def __init__(self, row: memoryview, on_lost: Callable[[], None]):
        """`on_lost` hears when there was no room for one."""
        self.is_cut_off = False  # it can take nothing any more
        self._row = row
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._handoff: socket.socket | None = None
        self._adopt_one: Adopt | None = None

    def begin(self, handoff: socket.socket, adopt: Adopt) -> None:
        """Take what comes from now on."""
        handoff.setblocking(False)
        self._handoff, self._adopt_one = handoff, adopt
        self._loop.add_reader(handoff.fileno(), self._take)

    def end(self) -> None:
        """Take what has been given already, and nothing more. Idempotent."""
        if self._handoff is not None and not self.is_cut_off:
            self._loop.remove_reader(self._handoff.fileno())
            self._adopt(take_all(self._handoff, self._note_lost))

    def abandon(self) -> None:
        """Leave the handoff alone: its descriptor may be another file's by now. Idempotent."""
        if self._handoff is not None and not self.is_cut_off:
            self._cut_off()

    def give_back(
        self, fds: Sequence[int], listeners: Sequence[int], clients: Sequence[Client | None]
    ) -> bool:
        """Give connections to the primary, for others; False: no room now.

        Each goes back as one of the listener it came by. If a client is told, it is the only one.
        """
        if not self._has_room():
            return False
        if (client := clients[0]) is not None:
            return self.turn_away(fds[0], listeners[0], client)
        return self._give(fds, bytes(listeners), None)

    def turn_away(self, fd: int, listener: int, client: Client | None) -> bool:
        """Give one back that nobody here wants any more; False when there is no room now."""
        return self._give([fd], bytes([listener]), client)

    def _has_room(self) -> bool:
        if self._handoff is None or self.is_cut_off:
            return False
        try:
            return untaken_bytes(self._handoff) <= _MAX_UNTAKEN_BYTES
        except OSError:
            self._cut_off()
            return False

    def _give(self, fds: Sequence[int], listeners: bytes, client: Client | None) -> bool:
        if self._handoff is None or self.is_cut_off:
            return False
        try:
            if client is not None:
                return give_told(self._handoff, fds[0], listeners[0], client)
            return give(self._handoff, fds, listeners)
        except OSError:
            self._cut_off()
            return False

    def _take(self) -> None:
        assert self._handoff is not None
        try:
            batch = take(self._handoff)
        except BlockingIOError:
            return
        except TruncatedBatch as truncated:
            self._note_lost(truncated.lost)
            batch = truncated.arrived
        except (OSError, ProtocolError):
            batch = None
        if batch is None:
            self._cut_off()
        else:
            self._adopt(batch)

    def _cut_off(self) -> None:
        """The primary is gone, or the app has closed or shut down what it does not own."""
        assert self._handoff is not None
        self.is_cut_off = True
        # Where its descriptor is another file's, that may be a transport's, which is refused.
        with contextlib.suppress(OSError, RuntimeError):
            self._loop.remove_reader(self._handoff.fileno())

    def _adopt(self, batch: Sequence[Taken]) -> None:
        assert self._adopt_one is not None
        self._row[CONNECTIONS_TAKEN] += len(batch)
        for fd, listener, client in batch:
            self._adopt_one(fd, listener, client)

    def _note_lost(self, count: int) -> None:
        """The kernel destroyed connections, so they are taken and closed."""
        log.error("%d connections lost: raise the limit of open files (ulimit -n)", count)
        self._row[CONNECTIONS_TAKEN] += count
        self._row[CONNECTIONS_CLOSED] += count
        self._on_lost()

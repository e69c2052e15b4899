"""The worker's end of the handoff: connections arrive, and some go back."""

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

# If more than this is on its way to the primary, no more connections go back for now: one that its
# client uses would wait behind all others. The kernel counts some 800 bytes for a batch.
_MAX_UNTAKEN_BYTES = 4096

# Serves and always owns a connection: its descriptor, the index of its listener, and its client if
# a PROXY header named one.
Adopt = Callable[[int, int, Client | None], None]


class HandoffReceiver:
    """A receiver that takes connections from `begin` on; until then they wait in the kernel."""

    def __init__(self, row: memoryview, on_lost: Callable[[], None]):
        """`on_lost` is called when connections were lost for want of descriptors."""
        self.is_cut_off = False  # no more connections can arrive
        self._row = row
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._handoff: socket.socket | None = None
        self._adopt_one: Adopt | None = None

    def begin(self, handoff: socket.socket, adopt: Adopt) -> None:
        """Take connections from now on."""
        handoff.setblocking(False)
        self._handoff, self._adopt_one = handoff, adopt
        self._loop.add_reader(handoff.fileno(), self._take)

    def end(self) -> None:
        """Take the connections that were already sent, and no more. Idempotent."""
        if self._handoff is not None and not self.is_cut_off:
            self._loop.remove_reader(self._handoff.fileno())
            self._adopt(take_all(self._handoff, self._note_lost))

    def abandon(self) -> None:
        """Stop using the handoff: its descriptor may now be another file's. Idempotent."""
        if self._handoff is not None and not self.is_cut_off:
            self._cut_off()

    def give_back(
        self, fds: Sequence[int], listeners: Sequence[int], clients: Sequence[Client | None]
    ) -> bool:
        """Give connections to the primary, for other workers; return False if there is no room.

        `listeners` are the listeners of the connections. A connection with a `client` goes alone.
        """
        if not self._has_room():
            return False
        if (client := clients[0]) is not None:
            return self.turn_away(fds[0], listeners[0], client)
        return self._give(fds, bytes(listeners), None)

    def turn_away(self, fd: int, listener: int, client: Client | None) -> bool:
        """Give back a connection that has no server here; return False if there is no room."""
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
        """Stop reading: the primary is gone, or the app has closed or shut down the handoff."""
        assert self._handoff is not None
        self.is_cut_off = True
        # If the descriptor is now a transport's, the loop refuses with RuntimeError.
        with contextlib.suppress(OSError, RuntimeError):
            self._loop.remove_reader(self._handoff.fileno())

    def _adopt(self, batch: Sequence[Taken]) -> None:
        assert self._adopt_one is not None
        self._row[CONNECTIONS_TAKEN] += len(batch)
        for fd, listener, client in batch:
            self._adopt_one(fd, listener, client)

    def _note_lost(self, count: int) -> None:
        """Count connections that the kernel destroyed as taken and closed."""
        log.error("%d connections lost: raise the limit of open files (ulimit -n)", count)
        self._row[CONNECTIONS_TAKEN] += count
        self._row[CONNECTIONS_CLOSED] += count
        self._on_lost()

"""The worker's side of its handoff: connections come, and some go back."""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

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


class Intake:
    """Deaf until `begin`; what is given meanwhile waits in the kernel."""

    def __init__(self, row: memoryview, on_lost: Callable[[], None]):
        """`on_lost` hears when there was no room for one."""
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
        if self._handoff is not None:
            self._loop.remove_reader(self._handoff.fileno())
            self._adopt(take_all(self._handoff, self._note_lost))

    def give_back(
        self, fds: Sequence[int], listeners: Sequence[int], clients: Sequence[Client | None]
    ) -> bool:
        """Give connections to the primary, for others; False: no room now.

        Each goes back as one of the listener it came by. If a client is told, it is the only one.
        """
        if self._handoff is None or untaken_bytes(self._handoff) > _MAX_UNTAKEN_BYTES:
            return False
        if (client := clients[0]) is not None:
            return give_told(self._handoff, fds[0], listeners[0], client)
        return give(self._handoff, fds, bytes(listeners))

    def turn_away(self, fd: int, listener: int, client: Client | None) -> bool:
        """Give one back that nobody here wants any more; False when there is no room now."""
        if self._handoff is None:
            return False
        if client is not None:
            return give_told(self._handoff, fd, listener, client)
        return give(self._handoff, [fd], bytes([listener]))

    def _take(self) -> None:
        assert self._handoff is not None
        try:
            batch = take(self._handoff)
        except BlockingIOError:
            return
        except TruncatedBatch as truncated:
            self._note_lost(truncated.lost)
            batch = truncated.arrived
        if batch is None:
            self._loop.remove_reader(self._handoff.fileno())
        else:
            self._adopt(batch)

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

"""One worker as the dispatcher sees it: the primary's side of its handoff, and its capacity.

The primary keeps the worker's end of the handoff too. So the connections that a dead worker
had not taken are still in the kernel's queue. `close` reads them back, together with those that
the worker had given back.
"""

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from aiocluster.ipc.handoff import Taken, give, give_told, next_batch_size, take_all
from aiocluster.ipc.handover import BackendState
from aiocluster.ipc.scoreboard import (
    ACCEPTED,
    CONNECTIONS_CLOSED,
    CONNECTIONS_TAKEN,
    LAG,
    LEADS,
    REQUESTS_BEGUN,
    REQUESTS_DONE,
    UNWIRED,
    Scoreboard,
)
from aiocluster.primary.dispatch.capacity import Limits, WorkerCapacity
from aiocluster.primary.dispatch.returns import Returns
from aiocluster.primary.sockets.connection import Connection

log = logging.getLogger("aiocluster.dispatcher")

# Seconds to wait, once the queue is full, before asking the kernel again: EAGAIN ends when the
# worker reads, but the kernel does not report the end of a shortage of buffers or descriptors.
_FULL_PAUSE = 0.01


class Backend:
    """The dispatcher's view of one worker, a DispatchTarget: it gives connections to the worker."""

    def __init__(
        self,
        slot: int,
        ends: tuple[socket.socket, socket.socket],
        scoreboard: tuple[Scoreboard, int],
        limits: Limits,
        on_change: Callable[[], None],
        on_returned: Callable[[list[Connection]], None],
    ) -> None:
        self.slot = slot
        self.worker_id = 0  # set by the worker's handle
        self.promised = 0
        self.has_room = True
        self.is_stuck = False  # set by the watchdog
        self.is_closed = False
        self.leads = False
        self.sent = 0
        self._sender, self._receiver = ends
        self._scoreboard, self._row = scoreboard
        self._taken = self._scoreboard.reader(self._row, CONNECTIONS_TAKEN)
        self._accepted = self._scoreboard.reader(self._row, ACCEPTED)
        self._closed = self._scoreboard.reader(self._row, CONNECTIONS_CLOSED)
        self._begun = self._scoreboard.reader(self._row, REQUESTS_BEGUN)
        self._lag = self._scoreboard.reader(self._row, LAG)
        self._done = self._scoreboard.reader(self._row, REQUESTS_DONE)
        self._limits = limits
        self._on_change = on_change
        # Called once, with the reason, when the worker has broken its handoff.
        self.on_broken: Callable[[str], None] = lambda why: None
        # True if the other workers have enough to take, so that returned connections wait.
        self.would_flood: Callable[[], bool] = lambda: False
        self._returns = Returns(
            self._sender,
            lambda back: on_returned(self._from_here(back)),
            lambda why: self.on_broken(why),
            lambda: self.would_flood(),
        )
        self._loop = asyncio.get_running_loop()
        # (sent so far, when): one entry for each batch that the worker may not have taken yet.
        self._untaken: deque[tuple[int, float]] = deque()
        self.room = WorkerCapacity(scoreboard, limits, self, self._tell_of_room)
        self._queue_is_full = False
        self._retry: asyncio.TimerHandle | None = None

    # ---- figures for a policy

    @property
    def open_connections(self) -> int:
        """Connections given, promised, or accepted by the worker itself, and not closed."""
        return self.sent + self.promised + self._accepted() - self._closed()

    @property
    def queued(self) -> int:
        """Connections given or promised, and not taken."""
        return self.sent + self.promised - self._taken()

    @property
    def requests_in_flight(self) -> int:
        """Requests begun and not done."""
        return self._begun() - self._done()

    @property
    def lag(self) -> float:
        """How late the worker's loop was lately, in seconds."""
        return self._lag() / 1e6

    @property
    def places(self) -> int:
        """See AdmittedBackend."""
        return self.room.places()

    @property
    def is_giving_back(self) -> bool:
        """See AdmittedBackend."""
        return not self.is_closed and next_batch_size(self._sender) > 0

    # ---- giving and taking back

    def is_behind(self, now: float) -> bool:
        """Return True if a connection has been untaken for longer than `behind_after`."""
        untaken = self._untaken
        if not untaken:
            return False
        taken = self._taken()
        while untaken and untaken[0][0] <= taken:
            untaken.popleft()
        return bool(untaken) and now - untaken[0][1] > self._limits.behind_after

    def waited(self, now: float) -> float:
        """Return how long the oldest untaken connection has waited; 0.0 if there is none."""
        self.is_behind(now)  # drops the entries of batches taken since
        return now - self._untaken[0][1] if self._untaken else 0.0

    def excuse_pause(self, seconds: float, now: float) -> None:
        """Do not count the seconds that the primary was paused as waiting."""
        self._untaken = deque((sent, min(when + seconds, now)) for sent, when in self._untaken)

    def reclaim(self) -> list[Connection]:
        """Read back the connections that the worker has not taken; the caller owns them."""
        if self.is_closed:
            return []
        stolen = self._from_here(take_all(self._receiver, self._on_lost))
        self.sent -= len(stolen)
        self.room.budget += len(stolen)
        # The worker has taken the rest, and has not counted it yet.
        left = [(min(sent, self.sent), when) for sent, when in self._untaken]
        self._untaken = deque(left if self.queued > 0 else ())
        return stolen

    def hand_over(self, batch: Sequence[Connection], now: float) -> int:
        """See DispatchTarget."""
        # Requests also arrive on connections that the worker has; the budget does not see those.
        if len(batch) > self.room.budget or self._limits.max_requests is not None:
            self.look_for_room()
            batch = batch[: self.room.budget]
        if not batch:
            return 0
        given = 0
        for message in _messages(batch) if self._limits.passes_client_address else (batch,):
            if not self._give(message, now):
                break
            given += len(message)
        return given

    def _give(self, batch: Sequence[Connection], now: float) -> bool:
        fds = [connection.fd for connection in batch]
        if (client := batch[0].client) is not None:
            was_given = give_told(self._sender, fds[0], batch[0].listener, client)
        else:
            listeners = bytes([connection.listener for connection in batch])
            was_given = give(self._sender, fds, listeners)
        if not was_given:
            self._queue_is_full = True
            self._update_room()
            self._retry = self._loop.call_later(_FULL_PAUSE, self._await_room)
            return False
        for fd in fds:
            os.close(fd)
        self.sent += len(fds)
        self._untaken.append((self.sent, now))
        self.room.budget -= len(fds)
        if self.room.budget <= 0:
            # At once: a policy must not see a full worker.
            self.look_for_room()
        return True

    def state(self) -> BackendState:
        """Return what a Backend of the next program, with the same sockets, continues with."""
        return BackendState(
            sender=self._sender.fileno(),
            receiver=self._receiver.fileno(),
            sent=self.sent,
            untaken=[*self._untaken],
        )

    def adopt(self, state: BackendState) -> None:
        """Continue where a Backend of the previous program stopped."""
        self.leads = self._scoreboard.read(self._row, LEADS) == 1
        self.sent = state.sent
        self._untaken.extend(state.untaken)

    def order_drain(self) -> None:
        """Write on the scoreboard that the worker must drain, within its deadline."""
        self._scoreboard.order_drain(self._row)

    @property
    def was_unwired(self) -> bool:
        """True if the worker has found its handoff or its channel broken."""
        return self._scoreboard.read(self._row, UNWIRED) == 1

    def lead(self, does: bool) -> None:
        """Write on the scoreboard whether the worker is the leader of its role."""
        self.leads = does
        self._scoreboard.lead(self._row, does)

    def close(self) -> list[Connection]:
        """Close the handoff; return the connections that were not taken, or were given back.

        Call this only if the worker is dead or has lost its channel: then it takes nothing more.
        """
        if self.is_closed:
            return []
        self.is_closed = True
        self.room.close()
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_writer(self._sender.fileno())
        left = self._returns.close() + take_all(self._receiver, self._on_lost)
        self._sender.close()
        self._receiver.close()
        self.has_room = False
        return self._from_here(left)

    def _from_here(self, taken: Sequence[Taken]) -> list[Connection]:
        return [Connection(fd, listener, b"", self.slot, client) for fd, listener, client in taken]

    # ---- capacity

    @property
    def budget(self) -> int:
        """See DispatchTarget."""
        return self.room.budget

    def look_for_room(self) -> None:
        """Count how many more connections the worker may get."""
        self.room.renew()
        self._update_room()

    def _update_room(self) -> None:
        self.has_room = not (self._queue_is_full or self.room.is_out)

    def _tell_of_room(self) -> None:
        self._update_room()
        self._on_change()

    def _await_room(self) -> None:
        self._loop.add_writer(self._sender.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._sender.fileno())
        self._queue_is_full = False
        self._tell_of_room()

    def look_again(self) -> None:
        """See DispatchTarget."""
        if not self.is_closed:
            self.room.look()
            self._update_room()

    def notify_on_close(self) -> None:
        """See AdmittedBackend."""
        self.room.await_end()

    def look_soon(self) -> None:
        """See AdmittedBackend."""
        self.room.look_soon()

    def check_room(self) -> None:
        """Count again if the worker's handlers have used descriptors meant for connections."""
        self.room.check()
        self._update_room()

    def given(self) -> int:
        """See BackendFigures."""
        return self.sent + self._accepted() - self._closed()

    def busy(self) -> int:
        """See BackendFigures."""
        return self.requests_in_flight + self.sent - self._taken()

    def _on_lost(self, count: int) -> None:
        self.sent -= count
        log.error("%d connections lost: too many open files in the primary", count)


def _messages(batch: Sequence[Connection]) -> Iterator[Sequence[Connection]]:
    """Cut a batch into messages; a connection with a client named by a proxy gets its own."""
    for is_told, some in groupby(batch, lambda connection: connection.client is not None):
        if is_told:
            yield from ([connection] for connection in some)
        else:
            yield [*some]

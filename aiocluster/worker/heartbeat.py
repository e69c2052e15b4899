"""The loop's heartbeat and lag, sampled by the loop itself.

Only a turn of the loop proves that the loop turns: a thread that answers in its place would
report a blocked loop as well.
"""

import asyncio
import time
from collections.abc import Callable

from aiocluster.fds import fd_limit
from aiocluster.ipc.scoreboard import (
    ACCEPTED,
    CONNECTIONS_CLOSED,
    CONNECTIONS_TAKEN,
    FD_LIMIT,
    HEARTBEAT,
    LAG,
    OTHER_FDS,
)
from aiocluster.metrics.instruments import LagMeter
from aiocluster.metrics.process import count_fds

# Seconds between two samples. Short enough to catch a block of 100 ms most of the time,
# long enough to cost nothing.
_TICK = 0.1

# Descriptors are counted once in this many ticks: before Linux 6.2 it means listing a directory.
_TICKS_PER_FD_COUNT = 10

# A worker near its limit gets no connections, or soon will not, until there is room again: so it
# counts more often. It does not if counting takes milliseconds: there are so many descriptors only
# because of connections, and the end of a connection is noted at once.
_TICKS_NEAR_THE_LIMIT = 3
_QUICKLY_COUNTED = 2_000


class Heartbeat:
    """The heartbeat of a worker: it writes beat and lateness to the scoreboard, measures lag."""

    def __init__(self, row: memoryview, on_beat: Callable[[], None] = lambda: None) -> None:
        self.lag = LagMeter()
        self._on_beat = on_beat
        self._row = row
        self._loop = asyncio.get_running_loop()
        self._until_fd_count = 0  # ticks
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Tick from now on."""
        self._due = time.monotonic()
        self._tick()

    def stop(self) -> None:
        """Tick no more, and note that: the primary need not wait for a beat. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._row[HEARTBEAT] = 0

    def _tick(self) -> None:
        # The loop's own time() is cached once a turn, so it does not show lag.
        now = time.monotonic()
        self._timer = self._loop.call_later(_TICK, self._tick)
        lag = max(now - self._due, 0.0)
        self.lag.record(lag)
        # The old value is halved each time: a loop that was blocked until just now, and is late
        # again with every other request, is worse than a loop that is never late.
        self._row[LAG] = max(int(lag * 1e6), self._row[LAG] >> 1)
        self._row[HEARTBEAT] = int(now * 1e9)
        if self._until_fd_count == 0:
            self.count_fds()
        self._until_fd_count -= 1
        self._due = now + _TICK
        self._on_beat()

    def count_fds(self) -> None:
        """Count the descriptors now; set when they are counted next."""
        count, limit = count_fds(), fd_limit()
        row = self._row
        row[FD_LIMIT] = limit
        clients = row[CONNECTIONS_TAKEN] + row[ACCEPTED] - row[CONNECTIONS_CLOSED]
        row[OTHER_FDS] = max(count - clients, 0)
        near = count > limit * 3 // 4
        quickly = near and count < _QUICKLY_COUNTED
        self._until_fd_count = _TICKS_NEAR_THE_LIMIT if quickly else _TICKS_PER_FD_COUNT

"""The loop's heartbeat and lag, sampled by the loop itself.

Only a turn of the loop proves that the loop turns: a thread that answers for it would say
that all is well while it is blocked.
"""

import asyncio
import os
import resource
import time

from aiocluster.ipc.scoreboard import CONNECTIONS_CLOSED, CONNECTIONS_TAKEN, HEARTBEAT, OTHER_FDS
from aiocluster.metrics.instruments import LagMeter

# Seconds between two samples. Short enough to catch a block of 100 ms most of the time,
# long enough to cost nothing.
_TICK = 0.1

# Descriptors are counted once in this many ticks: it means listing a directory.
_TICKS_PER_FD_COUNT = 10


class Vitals:
    """Writes the heartbeat to the scoreboard and measures how late the loop is."""

    def __init__(self, row: memoryview) -> None:
        self.lag = LagMeter()
        self._row = row
        self._loop = asyncio.get_running_loop()
        self._ticks = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Tick from now on."""
        self._due = time.monotonic()
        self._tick()

    def stop(self) -> None:
        """Tick no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        # The loop's own time() is cached once a turn; lag is what it cannot see.
        now = time.monotonic()
        self._timer = self._loop.call_later(_TICK, self._tick)
        self.lag.record(max(now - self._due, 0.0))
        self._row[HEARTBEAT] = int(now * 1e9)
        if self._ticks % _TICKS_PER_FD_COUNT == 0:
            clients = self._row[CONNECTIONS_TAKEN] - self._row[CONNECTIONS_CLOSED]
            self._row[OTHER_FDS] = max(count_fds() - clients, 0)
        self._ticks += 1
        self._due = now + _TICK


def count_fds() -> int:
    """Return how many descriptors this process has open."""
    try:
        # The listing itself holds one open.
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        # For want of a descriptor: all that are allowed are open.
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

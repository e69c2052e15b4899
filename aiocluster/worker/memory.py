"""What a worker keeps for long is put out of the garbage collector's sight.

A full collection visits every object in sight while no request is served: 4 µs for each idle
connection. A new worker gets many from the workers before it. They are visited once, some at a
time. A worker that ends visits its own no more.

An object out of sight is freed, as always, when nothing refers to it. A cycle of such objects is
not. A connection leaves none, but other objects are put out of sight with it, such as the app's
caches. So this is done a few times in a worker's life, and while there is little to keep. It is
not done at all where the app has turned the collector off.
"""

import gc

from aiocluster.config.settings import Settings
from aiocluster.ipc.scoreboard import ACCEPTED, CONNECTIONS_CLOSED, CONNECTIONS_TAKEN

# A collection for so many connections takes 4 ms. By itself the collector would wait for 2,500 or
# more, and visit those that it has visited before as well.
_MANY = 1000

# When a reload replaces several workers, the first new ones get connections from each old one: for
# so many seconds after they could get the first.
_NEW_FOR = 30.0


class Memory:
    """What the garbage collector sees in one worker."""

    def __init__(self, row: memoryview, settings: Settings) -> None:
        self._row = row
        self._new_for = max(settings.min_uptime, settings.min_ready_seconds) + _NEW_FOR
        self._new_until = float("-inf")
        self._most = 0  # connections that were ever put out of sight

    def settle_app(self, now: float) -> None:
        """What the app has made until now stays."""
        self._new_until = now + self._new_for
        _settle()

    def settle_connections(self, now: float) -> None:
        """So do the connections, if this worker is new and has many more than ever before."""
        row = self._row
        connections = row[CONNECTIONS_TAKEN] + row[ACCEPTED] - row[CONNECTIONS_CLOSED]
        if now < self._new_until and connections >= self._most + _MANY:
            self._most = connections
            _settle()

    def settle_end(self) -> None:
        """The worker ends: what it has now is not worth a collection any more."""
        if _is_automatic():
            gc.freeze()


def _settle() -> None:
    if _is_automatic():
        gc.collect()
        gc.freeze()


def _is_automatic() -> bool:
    return gc.isenabled() and gc.get_threshold()[0] > 0

"""Hides long-lived objects of a worker from the garbage collector.

A full collection visits every visible object while no request is served: 4 µs for each idle
connection. A new worker gets many connections from the workers before it. They are visited once,
some at a time. A worker that ends does not visit its connections any more.

A hidden object is freed, as always, when nothing refers to it. A cycle of hidden objects is not
freed. A connection leaves no cycle, but other objects are hidden with it, such as the app's
caches. So objects are hidden a few times in a worker's life only, and while there are few. If the
app has turned the collector off, none are hidden.
"""

import gc

from aiocluster.config.settings import Settings
from aiocluster.ipc.scoreboard import ACCEPTED, CONNECTIONS_CLOSED, CONNECTIONS_TAKEN

# A collection of this many connections takes 4 ms. By itself the collector would wait for 2,500 or
# more, and also visit the ones that it has visited before.
_MANY = 1000

# When a reload replaces several workers, the first new ones get connections from each old one, for
# this many seconds after the first could arrive.
_NEW_FOR = 30.0


class Memory:
    """The part of one worker's memory that the garbage collector visits."""

    def __init__(self, row: memoryview, settings: Settings) -> None:
        self._row = row
        self._new_for = max(settings.min_uptime, settings.min_ready_seconds) + _NEW_FOR
        self._new_until = float("-inf")
        self._most = 0  # connections that were hidden at one time, at most

    def settle_app(self, now: float) -> None:
        """Hide the objects that the app has made until now."""
        self._new_until = now + self._new_for
        _settle()

    def settle_connections(self, now: float) -> None:
        """Hide the connections, if this worker is new and has many more than ever before."""
        row = self._row
        connections = row[CONNECTIONS_TAKEN] + row[ACCEPTED] - row[CONNECTIONS_CLOSED]
        if now < self._new_until and connections >= self._most + _MANY:
            self._most = connections
            _settle()

    def settle_end(self) -> None:
        """Hide all objects: the worker ends, and a collection is not worth its time any more."""
        if _is_automatic():
            gc.freeze()


def _settle() -> None:
    if _is_automatic():
        gc.collect()
        gc.freeze()


def _is_automatic() -> bool:
    return gc.isenabled() and gc.get_threshold()[0] > 0

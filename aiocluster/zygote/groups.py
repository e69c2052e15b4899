"""Ends what dead workers leave in their process groups: pools, managers, helpers.

Each worker leads a group of its own. A process that has made itself a session is a daemon on
purpose, and in no such group.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from aiocluster.zygote.holdings import children

# Seconds from TERM to KILL. A resource tracker of multiprocessing needs some: it ignores TERM, and
# removes what its worker has left in shared memory.
_TERM_TIMEOUT = 1.0


class Groups:
    """Those of dead workers, until they are ended."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._due: dict[int, float] = {}  # when each is killed

    @property
    def timeout(self) -> float | None:
        """The seconds until `kill_due` has something to do; None: it has not."""
        if not self._due:
            return None
        return max(min(self._due.values()) - self._now(), 0.0)

    def end(self, group: int) -> None:
        """Begin to end a group. Its leader is dead, and not reaped: so it keeps its number."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGTERM)
            # One that is stopped would not hear it.
            os.killpg(group, signal.SIGCONT)
            self._due[group] = self._now() + _TERM_TIMEOUT

    def kill_due(self) -> None:
        """Kill what has not ended in its time."""
        due = [group for group, when in self._due.items() if when <= self._now()]
        for group in due:
            del self._due[group]
            # By a member that nobody but this process reaps: the number may be another's by now.
            if group in map(_group_of, children()):
                os.killpg(group, signal.SIGKILL)


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0

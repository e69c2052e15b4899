"""Ends the processes that dead workers leave in their process groups: pools, managers, helpers.

Each worker leads a group of its own. A process with a session of its own is a daemon on purpose,
and is in no such group.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from aiocluster.zygote.holdings import children

# Seconds from TERM to KILL. A resource tracker of multiprocessing needs some time: it ignores TERM,
# and removes the shared memory that its worker has left.
_TERM_TIMEOUT = 1.0


class Groups:
    """The process groups of dead workers, until their processes are ended."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._due: dict[int, float] = {}  # when each group is killed

    @property
    def timeout(self) -> float | None:
        """The seconds until `kill_due` has a group to kill; None if there is none."""
        if not self._due:
            return None
        return max(min(self._due.values()) - self._now(), 0.0)

    def end(self, group: int) -> None:
        """Begin to end a group. Its dead leader is not reaped yet, so it keeps its number."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGTERM)
            # A stopped process would not receive the TERM.
            os.killpg(group, signal.SIGCONT)
            self._due[group] = self._now() + _TERM_TIMEOUT

    def kill_due(self) -> None:
        """Kill the groups that have not ended in time."""
        due = [group for group, when in self._due.items() if when <= self._now()]
        for group in due:
            del self._due[group]
            # The number may be another group's by now, unless a child of this process is a member.
            if group in map(_group_of, children()):
                os.killpg(group, signal.SIGKILL)


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0

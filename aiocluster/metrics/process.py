"""The CPU and memory that a worker uses, read from the operating system in the worker itself.

RSS counts every mapped page, and workers share many pages: those of the zygote that forked them,
until one of them writes. So the RSS of eight workers, added up, is far more than they use. PSS
divides each shared page by the number of its sharers, so PSS can be added up. But the kernel
walks every page of the process to calculate PSS, so the cost of a read limits how often it is read.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil

from aiocluster.fds import fd_limit, open_fd_count

# The share of the time that may go into reading PSS. A read that took 1 ms is repeated after
# 1 s, one that took 50 ms after 50 s; if a limit depends on PSS, five times as often. With two
# workers at half load that is 0.5 % of all the CPU they use; five times as often, 2 %.
_PSS_BUDGET = 0.001
_PSS_BUDGET_OF_A_LIMIT = 0.005

_SMAPS_ROLLUP = Path("/proc/self/smaps_rollup")


class Figures(NamedTuple):
    """The CPU and memory that this process uses."""

    cpu_percent: float  # of one core, since the last take
    rss_bytes: int
    pss_bytes: int


class ProcessFigures:
    """A meter of the process it was made in; a process that forks must make it in the child."""

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.perf_counter,
        cpu_seconds: Callable[[], float] = time.process_time,  # os.times counts in 10 ms
        smaps_rollup: Path = _SMAPS_ROLLUP,
        pss_has_limit: bool = False,
    ) -> None:
        self._pss_budget = _PSS_BUDGET_OF_A_LIMIT if pss_has_limit else _PSS_BUDGET
        self._now = now
        self._cpu_seconds = cpu_seconds
        self._smaps_rollup = smaps_rollup
        self._process = psutil.Process()
        self._taken_at = now()
        self._cpu_taken = cpu_seconds()
        self._rss = 0
        self._pss: int | None = None
        self._pss_due = self._taken_at

    def take(self) -> Figures:
        """Return the current figures; the first CPU figure is since this object was made."""
        cpu = self._cpu_percent()
        # If no file descriptor is free, the previous RSS stands.
        with contextlib.suppress(OSError):
            self._rss = self._process.memory_info().rss
        rss = self._rss
        if self._now() >= self._pss_due:
            self._read_pss()
        return Figures(cpu, rss, rss if self._pss is None else self._pss)

    def _cpu_percent(self) -> float:
        now, cpu = self._now(), self._cpu_seconds()
        elapsed, used = now - self._taken_at, max(cpu - self._cpu_taken, 0.0)
        self._taken_at, self._cpu_taken = now, cpu
        return 100.0 * used / elapsed if elapsed > 0.0 else 0.0

    def _read_pss(self) -> None:
        began = self._now()
        self._pss = pss_of(self._smaps_rollup)
        ended = self._now()
        self._pss_due = ended + (ended - began) / self._pss_budget


def pss_of(smaps_rollup: Path) -> int | None:
    """Return the PSS in bytes from this file; None if the kernel does not provide it."""
    try:
        lines = smaps_rollup.read_text().splitlines()
    except OSError:
        return None
    # "Pss:                1234 kB"
    kilobytes = (int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return next((size * 1024 for size in kilobytes), None)


def count_fds() -> int:
    """Return how many file descriptors this process has open."""
    # If counting needs a descriptor and none is free, all that the limit allows are open.
    return open_fd_count(fd_limit())


def free_fds() -> int:
    """Return how many more file descriptors this process may open."""
    return fd_limit() - count_fds()

"""What a worker costs, asked of the operating system in the worker itself.

RSS counts every page that is mapped, and workers share many: those of the zygote that forked
them, until one of them writes. So the RSS of eight workers, added up, says far more than they
use. PSS divides each shared page by the number of its sharers: it is the one to add up. But
the kernel walks every page of the process to tell it, so it is read as seldom as its own cost
demands.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil

from aiocluster.fds import fd_limit, open_fd_count

# The share of the time that may go into reading PSS. A read that took 1 ms is repeated after
# 1 s, one that took 50 ms after 50 s; where a limit waits for it, five times as often. With two
# workers at half load that is 0.5 % of all the CPU they use; five times as often, 2 %.
_PSS_BUDGET = 0.001
_PSS_BUDGET_OF_A_LIMIT = 0.005

_SMAPS_ROLLUP = Path("/proc/self/smaps_rollup")


class Figures(NamedTuple):
    """What this process costs."""

    cpu_percent: float  # of one core, since the last take
    rss_bytes: int
    pss_bytes: int


class ProcessFigures:
    """Measures the process it was made in; a process that forks must make it in the child."""

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
        """Return the figures of now; at first, the CPU's since this object was made."""
        cpu = self._cpu_percent()
        # What it was before, while there is no descriptor to ask with.
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
    """Return the PSS in bytes that this file tells; None where the kernel does not tell."""
    try:
        lines = smaps_rollup.read_text().splitlines()
    except OSError:
        return None
    # "Pss:                1234 kB"
    kilobytes = (int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return next((size * 1024 for size in kilobytes), None)


def count_fds() -> int:
    """Return how many descriptors this process has open."""
    # Where it takes one to count, and there is none, all that are allowed are open.
    return open_fd_count(fd_limit())


def free_fds() -> int:
    """Return how many more descriptors this process may open."""
    return fd_limit() - count_fds()

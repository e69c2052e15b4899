"""What a tree of processes costs: CPU time and memory, read from outside.

CPU time is the kernel's own clock of each process, to the nanosecond; /proc/PID/stat shows the
same time (utime + stime) in ticks of 10 ms, too coarse for a primary that uses 60 ms in a round.
Children that have died and were reaped are added from there, for no clock is left of them.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_TICK = 1.0 / os.sysconf("SC_CLK_TCK")
_KIB = 1024
# Fields of /proc/PID/stat, counted from the one after the name.
_CUTIME, _CSTIME = 13, 14


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. The tree's `pss` counts a page that n processes share as 1/n in each."""

    primary_rss: int
    tree_rss: int
    tree_pss: int


def tree(pid: int) -> list[int]:
    """`pid` and all its living descendants."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [pid, *(child.pid for child in children)]


def process_cpu(pid: int) -> float:
    """Seconds of CPU used by all threads of `pid`, living and dead, its children not counted."""
    # What clock_getcpuclockid(3) computes; Python has no name for it.
    return time.clock_gettime((~pid << 3) | 2)


def tree_cpu(pid: int) -> float:
    """Seconds of CPU used by `pid` and its descendants, reaped ones included."""
    total = 0.0
    for member in tree(pid):
        try:
            total += process_cpu(member) + _reaped_cpu(member)
        except OSError:
            continue  # it died since; its parent has its time, or will
    return total


@contextlib.contextmanager
def pinned_apart(pid: int) -> Iterator[None]:
    """Keep the tree of `pid` on one CPU, and this process and those it starts on another."""
    cpus = os.sched_getaffinity(0)
    _pin_tree(pid, {min(cpus)})
    os.sched_setaffinity(0, {max(cpus)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)
        _pin_tree(pid, cpus)


def memory(pid: int) -> Memory:
    """What `pid` and its descendants hold now."""
    rss, pss = {}, {}
    for member in tree(pid):
        try:
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:
            continue
        rss[member], pss[member] = _kib(rollup, "Rss:"), _kib(rollup, "Pss:")
    return Memory(rss[pid], sum(rss.values()), sum(pss.values()))


def _reaped_cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_CUTIME]) + int(fields[_CSTIME])) * _TICK


def _pin_tree(pid: int, cpus: set[int]) -> None:
    for member in tree(pid):
        with contextlib.suppress(OSError):  # it ended meanwhile
            for thread in os.listdir(f"/proc/{member}/task"):
                os.sched_setaffinity(int(thread), cpus)


def _kib(rollup: str, name: str) -> int:
    return int(rollup.partition(f"\n{name}")[2].split(maxsplit=1)[0]) * _KIB

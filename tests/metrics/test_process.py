import os
from pathlib import Path

import psutil
import pytest

from aiocluster.metrics.process import ProcessFigures, count_fds, free_fds, pss_of
from tests.support.connections import at_fd_limit

ROLLUP = """\
55d0c8a00000-7ffd3b5f2000 ---p 00000000 00:00 0    [rollup]
Rss:               20480 kB
Pss:                1234 kB
Pss_Dirty:           999 kB
"""


class Clock:
    """A made-up clock; `cost` passes at each look at it."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.cost = 0.0

    def __call__(self) -> float:
        self.time += self.cost
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rollup(tmp_path: Path) -> Path:
    path = tmp_path / "smaps_rollup"
    path.write_text(ROLLUP)
    return path


def write_pss(path: Path, kilobytes: int) -> None:
    path.write_text(f"Pss: {kilobytes} kB\n")


def test_cpu_is_the_share_of_one_core_since_the_last_take(clock: Clock) -> None:
    """Each take covers its own interval; two busy threads are 200 %."""
    used = [5.0]
    figures = ProcessFigures(now=clock, cpu_seconds=lambda: used[0])

    clock.time, used[0] = 1002.0, 6.0
    assert figures.take().cpu_percent == pytest.approx(50.0)
    clock.time, used[0] = 1003.0, 8.0
    assert figures.take().cpu_percent == pytest.approx(200.0)


def test_no_time_passed_is_no_cpu(clock: Clock) -> None:
    """Two takes at the same moment do not divide by zero."""
    assert ProcessFigures(now=clock).take().cpu_percent == 0.0


def test_pss_is_the_line_of_that_name(rollup: Path) -> None:
    """The kernel's kB are 1024 bytes, and Pss_Dirty is something else."""
    assert pss_of(rollup) == 1234 * 1024


def test_the_first_take_has_pss(clock: Clock, rollup: Path) -> None:
    """A worker's first report is complete."""
    assert ProcessFigures(now=clock, smaps_rollup=rollup).take().pss_bytes == 1234 * 1024


@pytest.mark.parametrize(("has_limit", "seconds"), [(False, 100.0), (True, 20.0)])
def test_pss_is_not_read_more_often_than_its_cost_allows(
    clock: Clock, rollup: Path, has_limit: bool, seconds: float
) -> None:
    """A read of 0.1 s is kept for 100 s: 0.1 % of the time; if a limit waits for it, for 20 s."""
    figures = ProcessFigures(now=clock, smaps_rollup=rollup, pss_has_limit=has_limit)
    clock.cost = 0.1
    assert figures.take().pss_bytes == 1234 * 1024
    clock.cost = 0.0
    read_at = clock.time
    write_pss(rollup, 1)

    clock.time = read_at + seconds - 0.1
    assert figures.take().pss_bytes == 1234 * 1024
    clock.time = read_at + seconds + 0.1
    assert figures.take().pss_bytes == 1024


@pytest.mark.parametrize("text", ["", "Rss: 1 kB\n"])
def test_a_file_without_pss_tells_none(tmp_path: Path, text: str) -> None:
    """A kernel that does not tell PSS is no error."""
    path = tmp_path / "smaps_rollup"
    path.write_text(text)

    assert pss_of(path) is None


def test_without_a_readable_file_pss_is_rss(clock: Clock, tmp_path: Path) -> None:
    """A hardened or older kernel costs precision, not the report."""
    figures = ProcessFigures(now=clock, smaps_rollup=tmp_path / "missing").take()

    assert figures.pss_bytes == figures.rss_bytes > 0


def test_the_figures_are_those_of_this_process() -> None:
    """With nothing made up, RSS is what the operating system says of us, and PSS is part of it."""
    figures = ProcessFigures().take()

    assert figures.rss_bytes == pytest.approx(
        psutil.Process(os.getpid()).memory_info().rss, rel=0.2
    )
    assert 0 < figures.pss_bytes <= figures.rss_bytes * 1.2
    assert figures.cpu_percent >= 0.0


def test_counting_descriptors_does_not_count_itself() -> None:
    """Two that are opened are two more."""
    before = count_fds()
    read, write = os.pipe()
    opened = count_fds()
    os.close(read)
    os.close(write)

    assert opened == before + 2


def test_what_is_free_is_what_the_limit_leaves() -> None:
    """Each that is opened is one less; at the limit there is none."""
    with at_fd_limit(free=3):
        before = free_fds()
        fd = os.dup(0)
        assert (before, free_fds()) == (3, 2)
        os.close(fd)
    with at_fd_limit(free=0):
        assert free_fds() == 0

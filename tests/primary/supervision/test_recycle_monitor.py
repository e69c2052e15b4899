"""Workers that are due, as made-up sizes and ages say."""

import asyncio
import os
import re
from typing import Any

import pytest

from aiocluster.config.settings import settings_from
from aiocluster.metrics.snapshot import Report
from aiocluster.primary.supervision import recycle_monitor as recycle_monitor
from aiocluster.primary.supervision.recycle_monitor import RecycleMonitor, pss_bytes, rss_bytes
from aiocluster.primary.workers.exit_cause import ExitCause
from tests.support.waiting import soon, turns


class FakeHandle:
    """A worker as the upkeep sees it."""

    def __init__(self) -> None:
        self.pid = 4711
        self.slot = 0
        self.ready_at = asyncio.get_running_loop().time()
        self.was_ready, self.is_leaving, self.is_dead = True, False, False
        self.ending = ExitCause()
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.killed_for: asyncio.Queue[str] = asyncio.Queue()

    def kill_for(self, reason: str) -> None:
        self.ending.kill(reason, "")
        self.killed_for.put_nowait(reason)


class Stage:
    """An upkeep, and what it found."""

    def __init__(self, size: int | None = 0, **settings: Any) -> None:
        self.size = size  # of each worker, as the kernel says
        self.due: asyncio.Queue[tuple[Any, str]] = asyncio.Queue()
        self.recycle_monitor = RecycleMonitor(
            settings_from(settings),
            lambda worker, reason: self.due.put_nowait((worker, reason)),
            lambda pid: self.size,
        )
        self.worker: Any = FakeHandle()

    def grow(self, worker: Any) -> None:
        """It is small first, and then too large."""
        self.recycle_monitor.on_report(worker, Report(rss_bytes=50))
        self.recycle_monitor.on_report(worker, Report(rss_bytes=200))


@pytest.mark.parametrize(
    ("measure", "rss", "pss", "is_due"),
    [
        ("rss", 101, 1, True),
        ("rss", 100, 200, False),
        ("pss", 200, 100, False),
        ("pss", 1, 101, True),
    ],
)
async def test_a_worker_that_reports_too_much_is_due(
    measure: str, rss: int, pss: int, is_due: bool
) -> None:
    """More than the limit, by the measure that was chosen."""
    stage = Stage(max_memory=100, memory_measure=measure)

    stage.recycle_monitor.on_report(stage.worker, Report(rss_bytes=1, pss_bytes=1))
    stage.recycle_monitor.on_report(stage.worker, Report(rss_bytes=rss, pss_bytes=pss))

    assert stage.due.qsize() == is_due
    if is_due:
        assert stage.due.get_nowait() == (stage.worker, "memory_limit")


async def test_without_a_limit_no_size_is_too_large() -> None:
    """Nothing is watched either."""
    stage = Stage(2**62)
    stage.recycle_monitor.on_report(stage.worker, Report(rss_bytes=2**62))
    stage.recycle_monitor.on_ready(stage.worker)
    await soon(stage.recycle_monitor.watch(lambda: [stage.worker]))

    assert stage.due.empty()
    assert stage.worker.killed_for.empty()


async def test_one_on_its_way_out_is_not_due_again() -> None:
    """Whatever it reports in its last moments."""
    stage = Stage(max_memory=100)
    stage.worker.is_leaving = True

    stage.recycle_monitor.on_report(stage.worker, Report(rss_bytes=200))

    assert stage.due.empty()


async def test_one_that_waits_for_its_turn_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It reports on, each time too much; another that is too large is told of too."""
    stage = Stage(max_memory=100)
    other: Any = FakeHandle()
    other.slot = 1
    for worker in (stage.worker, stage.worker, other, stage.worker):
        stage.grow(worker)

    assert [stage.due.get_nowait()[0] for _ in range(stage.due.qsize())] == [stage.worker, other]
    assert caplog.text.count("more than max_memory") == 2


def waits(caplog: pytest.LogCaptureFixture) -> list[str]:
    """In how many seconds workers of slot 0 are looked at again."""
    return re.findall(r"slot 0: .* looked at again in (\d+) s", caplog.text)


async def test_a_limit_that_is_too_low_replaces_ever_more_slowly(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh workers grow as large: the first goes at once, the others wait, and it is told."""
    stage = Stage(max_memory=100)
    workers: list[Any] = [FakeHandle() for _ in range(4)]
    for worker in workers:
        stage.grow(worker)

    assert [stage.due.get_nowait()[0] for _ in range(stage.due.qsize())] == [workers[0]]
    assert waits(caplog) == ["10", "20", "40"]

    monkeypatch.setattr(recycle_monitor, "_YOUNG", 0.0)
    leaking: Any = FakeHandle()
    stage.recycle_monitor.on_report(leaking, Report(rss_bytes=200))
    assert stage.due.get_nowait() == (leaking, "memory_limit")
    for worker in workers:
        worker.exited.set_result(None)
    await turns()


async def test_one_that_was_never_small_is_not_replaced_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The next would start as large."""
    stage = Stage(max_memory=100)
    stage.recycle_monitor.on_report(stage.worker, Report(rss_bytes=200))

    assert stage.due.empty()
    assert waits(caplog) == ["10"]
    stage.worker.exited.set_result(None)
    await turns()


async def test_a_peak_at_the_start_replaces_nobody(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is over when the wait is, each time; a leak that comes later is none of it."""
    monkeypatch.setattr(recycle_monitor, "_YOUNG", 0.01)
    stage = Stage(50, max_memory=100)
    for _ in range(3):
        worker: Any = FakeHandle()
        stage.recycle_monitor.on_report(worker, Report(rss_bytes=200))
        assert stage.due.empty()
        assert await soon(stage.due.get()) == (worker, "memory_limit")
        assert not stage.recycle_monitor.is_still_due(worker, "memory_limit")
    assert re.findall(r"looked at again in ([\d.]+) s", caplog.text) == ["0.01"] * 3

    worker.ready_at -= 1.0  # it is young no more
    stage.recycle_monitor.on_report(worker, Report(rss_bytes=200))
    stage.size = 200
    assert stage.due.get_nowait() == (worker, "memory_limit")
    assert stage.recycle_monitor.is_still_due(worker, "memory_limit")


@pytest.mark.parametrize(
    ("reason", "size", "is_due"),
    [
        ("memory_limit", 101, True),
        ("memory_limit", 100, False),
        ("memory_limit", None, False),
        ("max_age", 1, True),
        ("max_requests", 1, True),
    ],
)
async def test_before_it_is_replaced_it_is_looked_at_again(
    reason: str, size: int | None, is_due: bool
) -> None:
    """By the kernel's figure of now; one that is gone has none. Age and requests only grow."""
    stage = Stage(size, max_memory=100)

    assert stage.recycle_monitor.is_still_due(stage.worker, reason) == is_due


async def test_past_the_hard_limit_it_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once; it need not report for that."""
    monkeypatch.setattr(recycle_monitor, "_LOOK_INTERVAL", 0.001)
    stage = Stage(101, max_memory_hard=100)
    watching = asyncio.create_task(stage.recycle_monitor.watch(lambda: [stage.worker]))

    assert await soon(stage.worker.killed_for.get()) == "memory_limit"
    await asyncio.sleep(0.01)
    watching.cancel()
    assert stage.worker.killed_for.empty()


@pytest.mark.parametrize("size", [100, None])
async def test_at_the_hard_limit_or_gone_it_is_not_killed(
    size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is gone has no size."""
    monkeypatch.setattr(recycle_monitor, "_LOOK_INTERVAL", 0.001)
    stage = Stage(size, max_memory_hard=100)
    watching = asyncio.create_task(stage.recycle_monitor.watch(lambda: [stage.worker]))
    await asyncio.sleep(0.01)
    watching.cancel()

    assert stage.worker.killed_for.empty()


async def test_an_old_worker_is_due() -> None:
    """From when it was ready."""
    stage = Stage(max_age=0.01)
    stage.recycle_monitor.on_ready(stage.worker)

    assert await soon(stage.due.get()) == (stage.worker, "max_age")


async def test_a_worker_that_is_gone_does_not_get_old() -> None:
    """Its timer goes with it."""
    stage = Stage(max_age=0.01)
    stage.recycle_monitor.on_ready(stage.worker)
    stage.worker.exited.set_result(None)
    await asyncio.sleep(0.03)

    assert stage.due.empty()


@pytest.mark.parametrize("measure", [rss_bytes, pss_bytes])
async def test_memory_is_read_from_the_kernel(measure: Any) -> None:
    """In bytes; of a process that is not there, nothing."""
    size = measure(os.getpid())
    assert 2**20 < size < 2**36
    assert measure(2**22 + 1) is None

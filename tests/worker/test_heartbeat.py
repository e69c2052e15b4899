"""The loop's heartbeat and lag."""

import asyncio
import os
import resource
import time
from types import SimpleNamespace

import pytest

from aiocluster.ipc.scoreboard import (
    ACCEPTED,
    CONNECTIONS_CLOSED,
    CONNECTIONS_TAKEN,
    FD_LIMIT,
    HEARTBEAT,
    LAG,
    OTHER_FDS,
)
from aiocluster.metrics.process import count_fds
from aiocluster.worker.heartbeat import _TICK, Heartbeat
from tests.support.connections import at_fd_limit
from tests.support.waiting import turns_until


@pytest.fixture
def row() -> memoryview:
    return memoryview(bytearray(18 * 8)).cast("Q")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiocluster.worker.heartbeat._TICK", 0.001)


async def test_the_heart_beats_from_the_start_on(row: memoryview) -> None:
    """The first beat is now, not a tick later."""
    heartbeat, before = Heartbeat(row), time.monotonic_ns()
    heartbeat.start()
    beat = row[HEARTBEAT]
    heartbeat.stop()

    assert before - 1000 <= beat <= time.monotonic_ns()


@pytest.mark.usefixtures("_quick")
async def test_the_heart_beats_while_the_loop_turns(row: memoryview) -> None:
    """Each beat is later than the one before."""
    heartbeat = Heartbeat(row)
    heartbeat.start()
    for _ in range(3):
        last = row[HEARTBEAT]
        await turns_until(lambda last=last: row[HEARTBEAT] > last)  # type: ignore[misc]
    heartbeat.stop()


@pytest.mark.usefixtures("_quick")
async def test_the_heart_stops_when_told(row: memoryview) -> None:
    """It says so, and writes nothing after the end; to stop twice is harmless."""
    heartbeat = Heartbeat(row)
    heartbeat.start()
    heartbeat.stop()
    heartbeat.stop()
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, over.set)

    await over.wait()

    assert row[HEARTBEAT] == 0


@pytest.mark.usefixtures("_quick")
async def test_a_blocked_loop_shows_as_lag(row: memoryview) -> None:
    """What the loop could not do in time is measured in seconds."""
    heartbeat = Heartbeat(row)
    heartbeat.start()
    until = time.monotonic() + 0.05
    while time.monotonic() < until:
        pass
    last = row[HEARTBEAT]
    await turns_until(lambda: row[HEARTBEAT] > last)
    heartbeat.stop()

    _, longest = heartbeat.lag.take()

    assert longest >= 0.04


@pytest.mark.parametrize(
    ("lateness", "told"),
    [
        ([0.0, 0.0], [0, 0]),
        ([0.2, 0.0, 0.0, 0.0], [200_000, 100_000, 50_000, 25_000]),
        ([0.2, 0.15, 0.001], [200_000, 150_000, 75_000]),
        ([0.01, 0.3], [10_000, 300_000]),
        ([0.0000009, 0.2] + [0.0] * 18, [0] + [200_000 >> n for n in range(19)]),
        ([-0.001], [0]),
    ],
)
async def test_the_lag_that_is_told_rises_at_once_and_fades(
    row: memoryview, lateness: list[float], told: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one, or half of what it was: who chooses a worker sees what it is lately like."""
    now, moments = 1000.0, [1000.0, 1000.0]
    for late in lateness:
        now += _TICK + late
        moments.append(now)
    left = iter(moments)
    clock = SimpleNamespace(monotonic=lambda: next(left))
    monkeypatch.setattr("aiocluster.worker.heartbeat.time", clock)
    heartbeat, seen = Heartbeat(row), []
    heartbeat.start()
    for _ in lateness:
        heartbeat._tick()
        seen.append(row[LAG])
    heartbeat.stop()

    assert seen == pytest.approx(told, abs=1)


async def test_descriptors_are_counted_without_the_connections(row: memoryview) -> None:
    """What is no client's connection is told apart from what is."""
    extra = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
    row[CONNECTIONS_TAKEN], row[ACCEPTED], row[CONNECTIONS_CLOSED] = 8, 2, 7
    heartbeat = Heartbeat(row)
    heartbeat.start()
    heartbeat.stop()

    assert row[OTHER_FDS] == count_fds() - 3
    for fd in extra:
        os.close(fd)


async def test_the_limit_of_descriptors_is_told_with_their_count(row: memoryview) -> None:
    """As it is now: prlimit may have changed it."""
    with at_fd_limit(5):
        low = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        Heartbeat(row).count_fds()
    assert row[FD_LIMIT] == low
    Heartbeat(row).count_fds()
    assert row[FD_LIMIT] == resource.getrlimit(resource.RLIMIT_NOFILE)[0] > low


async def test_more_connections_than_descriptors_are_not_a_negative_count(row: memoryview) -> None:
    """A connection may be counted a moment longer than it is open."""
    row[CONNECTIONS_TAKEN] = 10**6
    heartbeat = Heartbeat(row)
    heartbeat.start()
    heartbeat.stop()

    assert row[OTHER_FDS] == 0


async def test_without_a_descriptor_to_count_with_all_are_in_use(row: memoryview) -> None:
    """And the beat goes on: the next count will be a true one."""
    row[CONNECTIONS_TAKEN] = 2
    heartbeat = Heartbeat(row)
    with at_fd_limit(free=0):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        heartbeat.start()
        beat, others = row[HEARTBEAT], row[OTHER_FDS]
    await turns_until(lambda: row[HEARTBEAT] > beat)
    heartbeat.stop()

    assert others == limit - 2


@pytest.mark.parametrize(("free", "counts"), [(4, 4), (1000, 1)])
async def test_near_its_limit_descriptors_are_counted_more_often(
    row: memoryview, free: int, counts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a worker that was full is given connections again soon after its limit's end."""
    monkeypatch.setattr("aiocluster.worker.heartbeat._TICK", 0.0)
    counted: list[int] = []

    def count() -> int:
        counted.append(count_fds())
        return counted[-1]

    monkeypatch.setattr("aiocluster.worker.heartbeat.count_fds", count)
    heartbeat = Heartbeat(row)
    with at_fd_limit(free):
        heartbeat.start()
        for _ in range(9):
            last = row[HEARTBEAT]
            await turns_until(lambda last=last: row[HEARTBEAT] > last)  # type: ignore[misc]
        heartbeat.stop()

    assert len(counted) == counts


async def test_what_it_accepted_by_itself_is_a_connection_too(row: memoryview) -> None:
    """And no descriptor of the handlers'."""
    row[CONNECTIONS_TAKEN], row[ACCEPTED] = 2, 1
    heartbeat = Heartbeat(row)
    heartbeat.start()
    others = row[OTHER_FDS]
    heartbeat.stop()

    assert others == count_fds() - 3

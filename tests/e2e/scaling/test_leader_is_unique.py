"""One worker of a role leads at any moment, whoever dies.

A worker that has seen that it leads, and then does something, may be stopped or told to drain in
between, and another lead meanwhile: no promise can prevent that. What is promised is that never
two have it at one moment, so that no two can see it at one moment.
"""

import asyncio
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from aiocluster import Cluster, WorkerHandle
from aiocluster.ipc.scoreboard import LEADS, MAX_ROWS, open_row
from tests.support.cluster import kill, serving
from tests.support.jobs import REIGN
from tests.support.program import until

JOB = "tests.support.jobs:watchful_job"
WORKERS = 4
KILLS = 100

# A scan of the scoreboard that took longer says nothing: meanwhile one may have lost it and got
# it back. Seconds.
QUICK = 0.001


class Reign(NamedTuple):
    """From when to when a worker saw, without a break, that it led (nanoseconds)."""

    begun: int
    ended: int
    worker: int


def reigns_in(file: Path) -> list[Reign]:
    """Return all, in order."""
    whole = file.read_bytes() if file.exists() else b""
    return sorted(Reign(*fields) for fields in REIGN.iter_unpack(whole))


def usurpers(reigns: Sequence[Reign]) -> list[tuple[Reign, Reign]]:
    """Return those that began while another's was not over."""
    return [(one, other) for one, other in itertools.pairwise(reigns) if other.begun < one.ended]


def test_usurpers_would_be_seen() -> None:
    """The proof can fail."""
    assert usurpers([Reign(1, 5, 1), Reign(5, 9, 2), Reign(12, 15, 1)]) == []
    assert len(usurpers([Reign(1, 5, 1), Reign(4, 9, 2), Reign(8, 15, 1)])) == 2


class Inspector(threading.Thread):
    """Reads the scoreboard without a pause, from outside the primary's loop."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(daemon=True)
        assert cluster._primary is not None
        fd = cluster._primary.reporter.scoreboard.fd
        # The lowest rows are given out first, and more are never in use here.
        self._rows = [open_row(fd, row) for row in range(min(MAX_ROWS, 4 * WORKERS))]
        self._over = threading.Event()
        self.scans = 0
        self.doubles: list[tuple[int, int]] = []

    def run(self) -> None:
        while not self._over.is_set():
            self._scan()
            time.sleep(0)  # noqa: TID251 (lets the loop have the interpreter)

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _scan(self) -> None:
        begun = time.monotonic()
        leading = [number for number, row in enumerate(self._rows) if row[LEADS]]
        # Those that lead before and after all of them were seen to lead.
        still = [number for number in leading if self._rows[number][LEADS]]
        if time.monotonic() - begun < QUICK:
            self.scans += 1
            if len(still) > 1:
                self.doubles.append((still[0], still[1]))


@contextmanager
def inspected(cluster: Cluster) -> Iterator[Inspector]:
    inspector = Inspector(cluster)
    inspector.start()
    try:
        yield inspector
    finally:
        inspector.stop()


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "workers": WORKERS,
        "env": {"REIGNS": str(folder / "reigns")},
        "max_failures": 1e6,
        **more,
    }


def leaders(cluster: Cluster) -> list[WorkerHandle]:
    """Return those that lead, by the scoreboard."""
    return [worker for worker in cluster.workers.values() if worker.is_leader]


def ready(cluster: Cluster) -> list[WorkerHandle]:
    """Return those that may lead."""
    return [worker for worker in cluster.workers.values() if worker.phase == "ready"]


async def complete(cluster: Cluster) -> None:
    """Wait until as many workers as configured are ready."""
    await until(lambda: len(ready(cluster)) == WORKERS, "workers are missing")


async def seen_to_lead(file: Path, worker: WorkerHandle) -> None:
    """Wait until the worker itself has seen that it leads."""
    await until(
        lambda: any(reign.worker == worker.id for reign in reigns_in(file)),
        f"{worker} does not lead",
    )


async def test_over_a_hundred_kills_and_a_reload_never_two_lead(tmp_path: Path) -> None:
    """By the scoreboard, and by what the workers see."""
    dice = random.Random(4)
    async with serving(JOB, **settings(tmp_path, min_uptime=0.1)) as (cluster, heard):
        with inspected(cluster) as inspector:
            for number in range(KILLS):
                await until(lambda: len(ready(cluster)) >= 2, "workers are missing")
                # Half of the times whoever leads; at others also one that is not ready yet.
                workers = [*cluster.workers.values()]
                worker = dice.choice(leaders(cluster) if number % 2 else workers)
                kill(worker.pid)
                await heard.exit_of(worker)
                assert len(leaders(cluster)) == 1
                if number == KILLS // 2:
                    await complete(cluster)
                    await cluster.reload()
            await complete(cluster)
            (leader,) = leaders(cluster)
            assert leader.generation == 2
            await seen_to_lead(tmp_path / "reigns", leader)
    reigns = reigns_in(tmp_path / "reigns")

    assert inspector.doubles == []
    assert inspector.scans > KILLS
    assert len({reign.worker for reign in reigns}) > KILLS / 4
    assert usurpers(reigns) == []


async def test_the_lowest_slot_leads_and_a_new_one_within_a_second(tmp_path: Path) -> None:
    """It is handed on when its worker dies, and goes back when the slot is filled again."""
    file = tmp_path / "reigns"
    async with serving(JOB, **settings(tmp_path)) as (cluster, heard):
        for _ in range(10):
            await complete(cluster)
            (leader,) = leaders(cluster)
            assert leader.slot == 0
            await seen_to_lead(file, leader)
            died = time.monotonic_ns()
            kill(leader.pid)
            await heard.exit_of(leader)
            successor = await heard.replacement_of(leader)
            await seen_to_lead(file, successor)
            # Another one or, if it is quicker, the one that replaces it.
            next_ = next(
                reign
                for reign in reigns_in(file)
                if reign.begun > died and reign.worker != leader.id
            )
            assert next_.begun - died < 1e9
    assert usurpers(reigns_in(file)) == []


async def test_a_stopped_worker_leads_no_more_when_it_is_told_to_go(tmp_path: Path) -> None:
    """It need not agree: its row says so before its loop turns again."""
    file = tmp_path / "reigns"
    async with serving(JOB, **settings(tmp_path)) as (cluster, heard):
        await complete(cluster)
        (leader,) = leaders(cluster)
        await seen_to_lead(file, leader)
        os.kill(leader.pid, signal.SIGSTOP)
        draining = asyncio.ensure_future(leader.drain())
        (next_,) = leaders(cluster)
        assert next_ is not leader
        await seen_to_lead(file, next_)
        resumed = time.monotonic_ns()
        os.kill(leader.pid, signal.SIGCONT)
        await draining
        await heard.replacement_of(leader)
    late = [
        reign for reign in reigns_in(file) if reign.worker == leader.id and reign.begun > resumed
    ]

    assert late == []


async def test_in_a_stop_nobody_takes_over(tmp_path: Path) -> None:
    """What runs once is not begun anew while all go."""
    file = tmp_path / "reigns"
    async with serving(JOB, **settings(tmp_path)) as (cluster, _):
        await complete(cluster)
        (leader,) = leaders(cluster)
        await seen_to_lead(file, leader)
        # Another may have been ready first.
        before = {reign.worker for reign in reigns_in(file)}

    assert {reign.worker for reign in reigns_in(file)} == before

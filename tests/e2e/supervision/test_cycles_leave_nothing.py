"""Kills, reloads and drains, again and again: nothing is left behind, and it is counted.

    AIOCLUSTER_CYCLES=1000 pytest -s tests/e2e/supervision/test_cycles_leave_nothing.py

is the long run; with -s it tells the figures.
"""

import asyncio
import itertools
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from aiocluster import Cluster, Event, EventsMissed, WorkerListening
from tests.support.census import (
    Census,
    children,
    fds_of,
    mebibytes,
    nothing_grew,
    pidfds_of,
    quiet,
    settled,
)
from tests.support.cluster import HTTP_APP, Client, program_of, who_answers
from tests.support.program import PATIENCE, Program, until

CYCLES = int(os.environ.get("AIOCLUSTER_CYCLES", "60"))
RELOADS = max(15, CYCLES // 10)

# More crashes than a service sees in a year are free here.
FREE: dict[str, Any] = {"max_failures": 1e6, "min_uptime": 0.0, "bind": "127.0.0.1:0"}

# What the second half of a run may add to a process that has had its first. Allocators keep what
# they once had, in steps; a leak goes on growing, and is more than this in 1000 cycles.
_MAX_GROWTH_MIB = 1.0


@pytest.fixture(autouse=True)
def no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged: pytest keeps every record, and with it the worker that it is about."""
    caplog.set_level(logging.CRITICAL, "aiocluster")


# ---- the primary's own objects, in the test's process


# node: E7
async def test_killed_and_replaced_workers_leave_nothing() -> None:
    """Each with a client's connection: the same descriptors, timers, tasks, objects as before."""
    strangers = {process.pid for process in children()}
    async with Cluster(HTTP_APP, workers=2, **FREE) as cluster:
        events = cluster.events()
        for _ in range(6):  # what is made once is there from now on
            await _kill_and_replace(cluster, events)
        before = await quiet(cluster, 2, strangers)
        for _ in range(CYCLES):
            await _kill_and_replace(cluster, events)
        after = await nothing_grew(before, cluster, 2, strangers)
    _tell(f"{CYCLES} kills", before, after)


# node: E7
async def test_reloads_leave_nothing() -> None:
    """With a connection that moves along from one generation to the next."""
    strangers = {process.pid for process in children()}
    async with (
        Cluster(HTTP_APP, workers=2, **FREE) as cluster,
        await Client.connect(cluster) as client,
    ):
        for _ in range(3):
            await _reload(cluster, client)
        before = await quiet(cluster, 2, strangers)
        for _ in range(RELOADS):
            await _reload(cluster, client)
        after = await nothing_grew(before, cluster, 2, strangers)
    _tell(f"{RELOADS} reloads", before, after)


async def test_thirty_two_workers_reloaded_and_drained_down_to_one_leave_nothing() -> None:
    """One worker, 31 more, a reload of all with a surge, 31 drained: as it was with one."""
    strangers = {process.pid for process in children()}
    async with Cluster(HTTP_APP, workers=1, reload_surge=8, restart="never", **FREE) as cluster:
        for _ in range(3):
            await cluster.reload()
        before = await quiet(cluster, 1, strangers)
        for _ in range(31):
            await cluster.fork()
        await settled(cluster, 32, strangers)
        old = {worker.id for worker in cluster.workers.values()}
        await cluster.reload()
        await settled(cluster, 32, strangers)
        assert not old & cluster.workers.keys()
        drained = [worker.drain() for worker in list(cluster.workers.values())[1:]]
        exits = await asyncio.gather(*drained)
        assert [exited.code for exited in exits] == [0] * 31
        del drained, exits
        after = await nothing_grew(before, cluster, 1, strangers)
        assert (await who_answers(cluster))["id"] in cluster.workers
    _tell("32 workers, reloaded and drained", before, after)


async def _kill_and_replace(cluster: Cluster, events: AsyncIterator[Event | EventsMissed]) -> None:
    """Kill the worker that a client is connected to; wait until another serves in its slot."""
    async with asyncio.timeout(PATIENCE), await Client.connect(cluster) as client:
        worker = cluster.workers[json.loads(await client.get("/who"))["id"]]
        os.kill(worker.pid, signal.SIGKILL)
        async for event in events:
            if isinstance(event, WorkerListening) and event.worker.slot == worker.slot:
                break
        await client.closed()


async def _reload(cluster: Cluster, client: Client) -> None:
    await cluster.reload()
    await client.get("/who")


def _tell(what: str, before: Census, after: Census) -> None:
    for kind in sorted({*before.counts, *after.counts}):
        sys.stdout.write(f"{what}: {kind}: {before.counts[kind]} -> {after.counts[kind]}\n")


# ---- memory and descriptors of a program's processes


async def test_memory_stays_flat_over_kills(tmp_path: Path) -> None:
    """Of the primary and of the zygote, which forks every replacement."""
    async with _served(tmp_path) as (program, url):
        zygote = program.zygote().pid
        await _kills(program, url, 6)
        figures = [_figures(program.pid, zygote)]
        for _ in range(2):
            await _kills(program, url, CYCLES // 2)
            figures.append(_figures(program.pid, zygote))
        assert program.zygote().pid == zygote
    _assert_flat(f"{CYCLES} kills", figures)


async def test_memory_stays_flat_over_reloads(tmp_path: Path) -> None:
    """Of the primary, and each zygote is as large as the one before."""
    async with _served(tmp_path) as (program, _):
        numbers = itertools.count(2)
        figures = []
        for count in (3, RELOADS // 2, RELOADS // 2):
            for _ in range(count):
                program.send_signal(signal.SIGHUP)
                await program.line(f"generation {next(numbers)} serves")
                await until(lambda: len(program.descendants()) == 3, "the old are gone")
            figures.append(_figures(program.pid, program.zygote().pid))
    _assert_flat(f"{RELOADS} reloads", figures)


async def test_a_new_zygote_forgets_the_workers_of_the_old(tmp_path: Path) -> None:
    """It watches those that it did not fork; when they are gone it has nothing of them left."""
    async with _served(tmp_path) as (program, url):
        old = {process.pid for process in program.descendants()}
        program.zygote().kill()
        await until(lambda: bool(_children(program) - old), "a new zygote")
        (zygote,) = _children(program) - old
        await until(lambda: pidfds_of(zygote) == 2, "it watches both")
        await _kills(program, url, 1)
        await until(lambda: pidfds_of(zygote) == 1, "it watches the other")
        await _kills(program, url, 1)
        await until(lambda: pidfds_of(zygote) == 0, "it watches nobody")


@asynccontextmanager
async def _served(folder: Path) -> AsyncIterator[tuple[Program, str]]:
    async with program_of(folder, **FREE) as program:
        yield program, (await program.url()).rstrip("/")
        assert await program.stop() == 0
        assert program.left_behind() == []


async def _kills(program: Program, url: str, count: int) -> None:
    for _ in range(count):
        worker = await who_answers(url)
        seen = len(program.lines)
        os.kill(worker["pid"], signal.SIGKILL)
        await program.line(f"event WorkerListening .* slot={worker['slot']} ", after=seen)


def _children(program: Program) -> set[int]:
    return {child.pid for child in psutil.Process(program.pid).children()}


def _figures(*pids: int) -> list[tuple[int, float]]:
    return [(fds_of(pid), mebibytes(pid)) for pid in pids]


def _assert_flat(what: str, figures: list[list[tuple[int, float]]]) -> None:
    """Compare the start, half of the way, and the end."""
    for name, start, half, end in zip(("primary", "zygote"), *figures, strict=True):
        sys.stdout.write(
            f"{what}: {name}: {start[0]} -> {half[0]} -> {end[0]} descriptors,"
            f" {start[1]:.2f} -> {half[1]:.2f} -> {end[1]:.2f} MiB\n"
        )
        assert start[0] == half[0] == end[0], f"descriptors of the {name}"
        assert end[1] - half[1] < _MAX_GROWTH_MIB, f"memory of the {name}"

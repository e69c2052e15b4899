"""What a program has while no client is connected: processes, their descriptors, memory.

before = await taken(scene)
...
after = await unchanged(scene, before)
"""

import contextlib
import os
import re
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.scene import WORKERS, Scene, send
from tests.support.census import mebibytes, pidfds_of
from tests.support.program import until

# Two of a kind have different numbers: socket:[31415].
_NUMBER = re.compile(r":\[\d+\]$")

# A reload may begin between two looks, and the one that was asked for meanwhile after it.
_MAX_LOOKS = 6

# How many descriptors of each kind a process has.
Descriptors = Counter[str]


@dataclass(frozen=True)
class Census:
    """A primary, its zygote and its workers; two are equal if only the memory differs."""

    primary: Descriptors
    zygote: Descriptors
    workers: tuple[Descriptors, ...]
    primary_mib: float = field(compare=False)

    def __str__(self) -> str:
        workers = ", ".join(str(descriptors.total()) for descriptors in self.workers)
        return (
            f"1 zygote, {len(self.workers)} workers; descriptors: primary {self.primary.total()},"
            f" zygote {self.zygote.total()}, workers {workers};"
            f" memory of the primary: {self.primary_mib:.2f} MiB"
        )


async def taken(scene: Scene) -> Census:
    """Count, once nothing is under way any more: then it changes nothing to replace all workers."""
    seen = [await _taken_anew(scene)]
    while len(seen) < 2 or seen[-1] != seen[-2]:
        seen.append(await _taken_anew(scene))
        assert len(seen) <= _MAX_LOOKS, f"it changes with each worker: {seen}"
    return seen[-1]


async def _taken_anew(scene: Scene) -> Census:
    """Count when there are only new workers, all of which the zygote has forked."""
    old = scene.pids_started()
    send(scene.workers(), signal.SIGTERM)
    await until(lambda: _is_settled(scene, old), "the program does not settle")
    return _count(scene)


async def unchanged(scene: Scene, before: Census) -> Census:
    """Count once all is as it was; fail with what is not."""
    after = await taken(scene)
    assert after == before, f"before: {before!r}\nafter: {after!r}"
    return after


def _is_settled(scene: Scene, old: set[int]) -> bool:
    """Are there a zygote and its workers, none of the old ones, and nobody else?"""
    program = scene.program
    (*zygotes,) = psutil.Process(program.pid).children()
    if len(zygotes) != 1 or len(program.left_behind()) != 2 + WORKERS:
        return False
    zygote = zygotes[0].pid
    forked = ({child.pid for child in zygotes[0].children()} & scene.pids_started()) - old
    # It watches no worker that another one forked, and the primary nobody that is gone.
    pidfds = pidfds_of(zygote), pidfds_of(program.pid)
    return (len(forked), *pidfds) == (WORKERS, 0, 1 + WORKERS)


def _count(scene: Scene) -> Census:
    (zygote,) = psutil.Process(scene.program.pid).children()
    return Census(
        _descriptors(scene.program.pid),
        _descriptors(zygote.pid),
        tuple(_descriptors(worker.pid) for worker in zygote.children()),
        mebibytes(scene.program.pid),
    )


def _descriptors(pid: int) -> Descriptors:
    folder = Path(f"/proc/{pid}/fd")
    targets: Counter[str] = Counter()
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            targets[_NUMBER.sub("", os.readlink(folder / name))] += 1
    # A process that counts its own descriptors has one more while it does.
    del targets[str(folder)]
    return targets

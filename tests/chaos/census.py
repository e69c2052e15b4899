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
    """Replace all workers, so that the zygote has forked each; count when nothing else is left."""
    send(scene.workers(), signal.SIGTERM)
    await until(lambda: _is_settled(scene), "the program does not settle")
    return _count(scene)


async def unchanged(scene: Scene, before: Census) -> Census:
    """Count once all is as it was; fail with what is not."""
    seen = await taken(scene)

    def is_as_before() -> bool:
        nonlocal seen
        if _is_settled(scene):
            seen = _count(scene)
        return seen == before

    try:
        await until(is_as_before, "changed")
    except AssertionError:
        raise AssertionError(f"before: {before!r}\nafter: {seen!r}") from None
    return seen


def _is_settled(scene: Scene) -> bool:
    program = scene.program
    (*zygotes,) = psutil.Process(program.pid).children()
    if len(zygotes) != 1 or len(program.left_behind()) != 2 + WORKERS:
        return False
    zygote = zygotes[0].pid
    forked = {child.pid for child in zygotes[0].children()} & scene.pids_started()
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

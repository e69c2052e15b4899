"""Whom the kernel lets run first: a worker that serves, not the primary that brings it more.

On a busy machine each new connection would wake the primary, put it in the place of a worker
in the middle of a request, and that worker back in its place: two switches and two cold
caches for one descriptor. As a *batch* process the primary still gets an idle CPU at once,
but waits for a busy one, and then finds several connections to hand over together. Measured
(benchmarks/request_cpu.py, one connection a request, two CPUs): 13 % less CPU time for the
whole tree, a third less for the primary; the median latency the same while a CPU is idle, up
to 0.5 ms more beside programs that use all of them.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

# For os.posix_spawn, so that a child is scheduled as we were before we gave way.
spawn_options: dict[str, Any] = {}


@contextlib.contextmanager
def workers_preferred() -> Iterator[None]:
    """Let workers run first meanwhile, unless somebody has chosen our place already.

    A sandbox may forbid it, and nothing depends on it. What we start inside inherits it,
    unless it is started with `spawn_options`.
    """
    if os.sched_getscheduler(0) == os.SCHED_OTHER:
        with contextlib.suppress(PermissionError):
            _be_a_batch_process()
            spawn_options["scheduler"] = (os.SCHED_OTHER, os.sched_param(0))
    try:
        yield
    finally:
        if spawn_options.pop("scheduler", None) is not None:
            _be_a_usual_process()


@contextlib.contextmanager
def workers_not_preferred() -> Iterator[None]:
    """Be scheduled meanwhile as we were before: an exec would keep it otherwise."""
    if preferred := "scheduler" in spawn_options:
        _be_a_usual_process()
    try:
        yield
    finally:
        if preferred:
            _be_a_batch_process()


def _be_a_usual_process() -> None:
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _be_a_batch_process() -> None:
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

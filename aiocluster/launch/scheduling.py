"""The scheduling of the primary: the kernel runs a worker that serves before it.

On a busy machine each new connection would wake the primary, which would displace a worker in the
middle of a request, and then the worker would displace it: two switches and two cold caches for
one descriptor. As a *batch* process the primary still gets an idle CPU at once, but waits for a
busy one, and then finds several connections to hand over together. Measured
(benchmarks/request_cpu.py, one connection a request, two CPUs): 13 % less CPU time for the
whole tree, a third less for the primary; the median latency the same while a CPU is idle, up
to 0.5 ms more beside programs that use all of them.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

# Options for os.posix_spawn, which give a child the usual scheduling.
spawn_options: dict[str, Any] = {}


@contextlib.contextmanager
def workers_preferred() -> Iterator[None]:
    """Let workers run first inside, unless this process already has a scheduling policy.

    A sandbox may forbid that, and nothing depends on it. Child processes inherit it, unless they
    are started with `spawn_options`.
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
    """Restore the usual scheduling inside: an exec would keep the present one."""
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

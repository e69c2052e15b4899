"""Lets the number of a role's workers follow its load: looks every second, asks, obeys.

What is decided, and why, is in scaling.py.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Protocol

from aiocluster.config.autoscale import Autoscale
from aiocluster.errors import BootError, ClusterStopping, ConfigError
from aiocluster.metrics.snapshot import Snapshot
from aiocluster.primary.reporting import Reporter
from aiocluster.primary.scaling import Decision, Scaler
from aiocluster.primary.slot import Slot
from aiocluster.primary.tasks import start_task

log = logging.getLogger("aiocluster.supervisor")

# Seconds between two looks: workers report about as often.
_INTERVAL = 1.0


class Scalable(Protocol):
    """The part of the supervisor that autoscaling needs."""

    @property
    def slots(self) -> Collection[Slot]: ...
    @property
    def ready_count(self) -> int: ...
    async def scale(self, wanted: int | str, reason: str) -> int: ...


class Autoscaler:
    """That of one role."""

    def __init__(self, config: Autoscale, role: str, reporter: Reporter, crew: Scalable) -> None:
        self._scaler = Scaler(config, role)
        self._role = role
        self._reporter = reporter
        self._crew = crew
        self._now: Callable[[], float] = asyncio.get_running_loop().time
        self._watch: asyncio.Task[None] | None = None
        self._changes: set[asyncio.Task[None]] = set()
        self._complained = ""

    def start(self) -> None:
        """Look from now on."""
        self._watch = start_task(self._look_on(), f"autoscaling {self._role}")

    def close(self) -> None:
        """Decide nothing more. Idempotent."""
        for task in (self._watch, *self._changes):
            if task is not None:
                task.cancel()

    def look(self, snapshot: Snapshot) -> Decision | None:
        """Decide by one snapshot; return what is done about it."""
        count, ready = len(self._crew.slots), self._crew.ready_count
        try:
            decision = self._scaler.decide(self._now(), snapshot, count=count, ready=ready)
        except ConfigError as error:
            self._complain(str(error))
            return None
        self._complained = ""
        if decision is not None:
            change = start_task(self._change(decision), f"scaling {self._role}")
            self._changes.add(change)
            change.add_done_callback(self._changes.discard)
        return decision

    async def _look_on(self) -> None:
        async for snapshot in self._reporter.subscribe(_INTERVAL):
            self.look(snapshot)

    async def _change(self, decision: Decision) -> None:
        try:
            await self._crew.scale(decision.count, decision.reason)
        except (BootError, ClusterStopping) as error:
            log.warning("role %s: not scaled (%s): %s", self._role, decision.reason, error)

    def _complain(self, what: str) -> None:
        """Once, until it has been well again or it is something else."""
        if what != self._complained:
            self._complained = what
            log.error("role %s: %s; the number of workers stays", self._role, what)

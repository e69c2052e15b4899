"""Lets a role's number of workers follow its load."""

import logging
from collections.abc import AsyncIterable, Callable
from typing import Protocol

from aiocluster.errors import ConfigError
from aiocluster.metrics.snapshot import Snapshot
from aiocluster.primary.scaling.autoscale_policy import AutoscalePolicy, Decision

log = logging.getLogger("aiocluster.autoscale")


class Staff(Protocol):
    """The part of a role's sizing that the autoscaler needs."""

    @property
    def places(self) -> int:
        """Return how many workers there should be."""
        ...

    @property
    def ready(self) -> int:
        """Return how many workers serve."""
        ...

    @property
    def is_changing(self) -> bool:
        """True while the number of workers is being changed."""
        ...

    def obey(self, decision: Decision) -> None:
        """Begin to scale to the decision's number, which `places` returns at once."""
        ...


class Autoscaler:
    """A follower of snapshots: it carries out what the policy decides at each."""

    def __init__(self, scaler: AutoscalePolicy, staff: Staff, now: Callable[[], float]) -> None:
        self._scaler = scaler
        self._staff = staff
        self._now = now
        self._trouble = ""

    async def follow(self, snapshots: AsyncIterable[Snapshot]) -> None:
        """Decide at each snapshot, until the snapshots end."""
        async for snapshot in snapshots:
            if (decision := self._decide(snapshot)) is not None:
                self._staff.obey(decision)

    def _decide(self, snapshot: Snapshot) -> Decision | None:
        staff = self._staff
        # One snapshot may be late on a busy machine; if several were left out, it was a pause.
        if snapshot.missed > 1:
            self._scaler.forget()
        try:
            decision = self._scaler.decide(
                self._now(),
                snapshot,
                count=staff.places,
                ready=staff.ready,
                is_changing=staff.is_changing,
            )
        except ConfigError as error:
            self._tell(error)
            return None
        self._trouble = ""
        return decision

    def _tell(self, error: ConfigError) -> None:
        """Log an error of the user's metric once, not at every snapshot."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.error("no scaling: %s", error, exc_info=error.__cause__)

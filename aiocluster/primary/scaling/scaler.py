"""Changes how many workers a role has, on request, one request after the other.

More: all new workers become ready, or none stays. Fewer: the highest slots are closed, and their
workers drain; idle connections move to the workers that stay.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Protocol

from aiocluster.config.autoscale import Autoscale
from aiocluster.errors import BootError, ClusterStopping, ConfigError, WorkerGone
from aiocluster.events import Event, Scaled
from aiocluster.primary.processes.spawner import FORK_PATIENCE
from aiocluster.primary.supervision.slot import Slot
from aiocluster.primary.workers.handle import WorkerHandle
from aiocluster.timeouts import running_timeout

log = logging.getLogger("aiocluster.supervisor")

# Less than half the rows of the scoreboard: in a reload both generations have rows.
MAX_WORKERS = 2000


class Positions(Protocol):
    """The part of the supervisor that the scaler needs."""

    @property
    def slots(self) -> Collection[Slot]: ...
    def open_slot(self, env: dict[str, str]) -> Slot: ...
    def close_slot(self, slot: Slot, reason: str) -> None: ...
    def why_not_up(self, slot: Slot) -> BootError: ...


class Scaler:
    """A scaler of one role's workers."""

    def __init__(
        self,
        role: str,
        positions: Positions,
        on_more: Callable[[Collection[WorkerHandle]], None],
        publish: Callable[[Event], None],
        autoscale: Autoscale | None = None,
    ) -> None:
        """Call `on_more` with new workers that are ready; `autoscale` sets the bounds, if any."""
        self._bounds = (1, MAX_WORKERS) if autoscale is None else (autoscale.min, autoscale.max)
        self._within = "" if autoscale is None else ", the bounds of autoscale"
        self._role = role
        self._positions = positions
        self._on_more = on_more
        self._publish = publish
        self.turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[int]] = set()
        self._closed = False

    async def scale(
        self, wanted: int | str, reason: str, *, if_there_are: int | None = None
    ) -> int:
        """Scale to `wanted` workers, or by a change such as "+1"; return how many there are now.

        If `if_there_are` is given and there are not as many when the turn comes, nothing changes.
        Returns when the new workers are ready, or the drained ones have exited. Raises BootError,
        and nothing has changed, if a new worker does not start; ConfigError; ClusterStopping.
        """
        change = checked_change(wanted)
        if self._closed:
            raise ClusterStopping("cannot scale: the cluster is stopping")
        task = asyncio.ensure_future(self._in_turn(change, reason, if_there_are))
        self._tasks.add(task)
        task.add_done_callback(self._over)
        await asyncio.wait({task})
        if task.cancelled():
            raise ClusterStopping("scaling was given up: the cluster is stopping")
        return task.result()

    def close(self) -> None:
        """Give up what is under way; the supervisor closes the slots. Idempotent."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    def _over(self, task: "asyncio.Task[int]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # perhaps its caller waits no more

    async def _in_turn(
        self, change: Callable[[int], int], reason: str, if_there_are: int | None
    ) -> int:
        leaving: list[WorkerHandle] = []
        async with self.turn:
            before = len(self._positions.slots)
            count = change(before) if if_there_are in (None, before) else before
            self._refuse_if_impossible(before, count)
            if count != before:
                log.info("role %s: from %d to %d workers (%s)", self._role, before, count, reason)
                self._publish(Scaled(self._role, before, count, reason))
            if count > before:
                await self._add(count - before)
            elif count < before:
                leaving = self._remove(before - count)
            now = len(self._positions.slots)
        # A drain takes its time: meanwhile more workers may be wanted again.
        if leaving:
            await asyncio.wait([worker.exited for worker in leaving])
        return now

    def _refuse_if_impossible(self, before: int, count: int) -> None:
        """Raise ConfigError for a count out of bounds, except a step back from beyond them."""
        lowest, highest = self._bounds
        if not min(lowest, before) <= count <= max(highest, before):
            raise ConfigError(
                f"scale: {count} workers are not possible; give {lowest} to {highest}{self._within}"
            )

    async def _add(self, count: int) -> None:
        slots = [self._positions.open_slot({}) for _ in range(count)]
        try:
            self._on_more(await asyncio.gather(*map(self._up, slots)))
        except BootError as error:
            log.error("role %s: no more workers than before: %s", self._role, error)
            self._take_back(slots, error)
            raise

    def _take_back(self, slots: Collection[Slot], error: BootError) -> None:
        before = len(self._positions.slots)
        for slot in slots:
            self._positions.close_slot(slot, "scale_down")
        now = len(self._positions.slots)
        self._publish(Scaled(self._role, before, now, f"new ones did not come up: {error}"))

    async def _up(self, slot: Slot) -> WorkerHandle:
        try:
            async with running_timeout(FORK_PATIENCE):
                worker = await asyncio.shield(slot.first)
        except (TimeoutError, WorkerGone):
            raise BootError(slot.trouble or "no worker was forked") from None
        await asyncio.shield(worker.settled)
        if not worker.was_ready:
            raise self._positions.why_not_up(slot)
        return worker

    def _remove(self, count: int) -> list[WorkerHandle]:
        """Close the highest slots, so that the others stay; return the workers that drain."""
        slots = sorted(self._positions.slots, key=lambda slot: slot.number)[-count:]
        leaving = [slot.current for slot in slots if slot.current is not None]
        for slot in slots:
            self._positions.close_slot(slot, "scale_down")
        return leaving


def checked_change(wanted: int | str) -> Callable[[int], int]:
    """Return the function from the old count to the new; ConfigError if `wanted` is neither."""
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        return lambda _: wanted
    if isinstance(wanted, str) and wanted[:1] in ("+", "-"):
        sign, digits = wanted[0], wanted[1:]
        if digits.isascii() and digits.isdigit() and len(digits) <= len(str(MAX_WORKERS)):
            step = int(sign + digits)
            return lambda before: before + step
    raise ConfigError(f"scale: {wanted!r} is not allowed; give a count, or a change such as '+1'")

"""Replaces the old generation by a new one, imported anew, in all slots or in none.

import ▶ renew the first slots, and see that they last ▶ renew the rest ▶ see that they
last ▶ retire the old

An old worker drains only when the new worker in its slot is ready, so there are never fewer ready
workers than before. If anything fails before the end, every slot goes back to the old generation.
Its zygote is kept until then, so its workers can still be forked.
"""

import asyncio
import logging
import traceback
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, Protocol

from aiocluster.config.roles import ONLY_ROLE, RoleSpec
from aiocluster.errors import BootError, ClusterStopping
from aiocluster.events import ReloadBegan, Reloaded, ReloadFailed
from aiocluster.primary.event_bus import EventBus
from aiocluster.primary.lifecycle.stability import StabilityCheck
from aiocluster.primary.processes.generations import Generation, Generations
from aiocluster.primary.processes.spawner import FORK_PATIENCE
from aiocluster.primary.supervision.slot import Slot
from aiocluster.primary.workers.exit_log import ExitLog
from aiocluster.primary.workers.exits import CRASH_WEIGHT
from aiocluster.primary.workers.handle import WorkerHandle
from aiocluster.timeouts import running_timeout

log = logging.getLogger("aiocluster.reload")


class Roster(Protocol):
    """The part of the supervisor that the reloader needs."""

    @property
    def workers(self) -> dict[int, WorkerHandle]: ...
    @property
    def slots(self) -> Collection[Slot]: ...


class Reloader:
    """A reloader of one role: it does one reload after the other."""

    def __init__(
        self,
        spec: RoleSpec,
        generations: Generations,
        roster: Roster,
        bus: EventBus,
        exit_log: ExitLog,
    ) -> None:
        self._role = spec.name
        # The reload's name in the log, which has no role if there is only one.
        self._name = "reload" if spec.name == ONLY_ROLE else f"reload of {spec.name}"
        self._settings = spec.settings
        self._generations = generations
        self._roster = roster
        self._bus = bus
        self._exit_log = exit_log
        self._loop = asyncio.get_running_loop()
        self.turn = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        # The reloads that a stop cancels: their generations do not serve yet.
        self._to_give_up: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def reload(self) -> None:
        """Replace every worker by one with the present code; return when the old ones are gone.

        If a reload is under way, one more follows it, for all calls made meanwhile. Raises
        BootError, with the cause, if the new code does not start: then the old code serves as
        before. Raises ClusterStopping if a stop comes first.
        """
        if self._closed:
            raise ClusterStopping("cannot reload: the cluster is stopping")
        mine = self.ask()
        await asyncio.wait({mine})
        if mine.cancelled():
            raise ClusterStopping("the reload was given up: the cluster is stopping")
        mine.result()

    @property
    def is_wanted(self) -> bool:
        """True while a reload waits for its turn."""
        return self._next is not None

    def ask(self) -> asyncio.Task[None]:
        """Let one more reload follow; return its task."""
        if self._next is None:
            self._next = self._loop.create_task(self._in_turn())
            self._to_give_up.add(self._next)
            self._next.add_done_callback(self._over)
        return self._next

    def close(self) -> None:
        """Give up what is under way; the supervisor ends the workers. Idempotent."""
        if self._to_give_up and not self._closed:
            log.warning("%s: given up, because the cluster is stopping", self._name)
        self._closed = True
        for task in self._to_give_up:
            task.cancel()

    async def _in_turn(self) -> None:
        async with self.turn:
            self._next = None  # a later call may be about later code
            await self._reload()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._to_give_up.discard(task)
        if not task.cancelled():
            task.exception()  # perhaps its caller waits no more

    async def _reload(self) -> None:
        number, began = self._generations.next_number, self._loop.time()
        log.info("%s: importing the app anew, as generation %d", self._name, number)
        self._bus.publish(ReloadBegan(number, self._role))
        try:
            await self._replace_generation()
        except BootError as error:
            log.error(
                "%s: generation %d is given up%s: %s", self._name, number, self._kept(number), error
            )
            self._bus.publish(ReloadFailed(number, error.cause, error.traceback, self._role))
            raise
        log.info(
            "%s: generation %d serves, after %.1f s", self._name, number, self._loop.time() - began
        )
        self._bus.publish(Reloaded(number, self._role))
        if task := asyncio.current_task():
            self._to_give_up.discard(task)
        await self._until_only(number)

    async def _replace_generation(self) -> None:
        try:
            new = await self._generations.begin()
        except BootError as error:
            if error.traceback and not error.is_shown:
                log.error("%s", error.traceback.rstrip())
            raise
        stability_check = StabilityCheck(
            new.number, self._settings.min_uptime, self._bus, self._exit_log
        )
        try:
            with stability_check:
                await self._roll(new, stability_check)
        except Exception as error:
            failure = _as_boot_error(error)
            log.error(
                "%s: %s; going back to generation %d", self._name, failure, self._current.number
            )
            await self._roll_back(new)
            raise failure from error
        # A stop before this leaves both generations: until it ends them, dead workers are replaced.
        self._generations.retire(self._generations.serve(new))

    @property
    def _current(self) -> Generation:
        return self._generations.current

    # ---- forward

    async def _roll(self, new: Generation, stability_check: StabilityCheck) -> None:
        """Renew every slot, and see that its worker lasts; then all slots are of `new`."""
        settings = self._settings
        # The first workers show whether the code lasts; the others need not wait for that again.
        hold = max(settings.min_ready_seconds, settings.min_uptime)
        # Slots that are opened meanwhile are of the old generation, as long as that serves.
        while todo := self._to_be_renewed(new):
            batch = todo[: settings.reload_surge]
            limit = settings.boot_timeout + hold + FORK_PATIENCE
            await _all_of(
                [slot.renew(new, "reload", hold) for slot in batch], stability_check, limit
            )
            if settings.restart == "always":
                hold = settings.min_ready_seconds
            # Else the slot of a crashed worker is closed, and could not go back to the old code.
            if not self._to_be_renewed(new):
                await stability_check.last(stability_check.seconds_left())

    def _to_be_renewed(self, new: Generation) -> list[Slot]:
        return [slot for slot in self._roster.slots if slot.generation is not new]

    async def _until_only(self, number: int) -> None:
        """Wait until the workers of other generations have exited; each has a kill timer."""
        workers = self._roster.workers.values()
        old = [worker for worker in workers if worker.generation != number and worker.is_leaving]
        if old:
            await asyncio.wait([worker.exited for worker in old])

    # ---- back

    def _kept(self, number: int) -> str:
        """Return what a failed reload has left of its generation, in words."""
        workers = self._roster.workers.values()
        if any(worker.generation == number and not worker.is_leaving for worker in workers):
            return ", but for workers that cannot be replaced"
        return ", nothing has changed"

    async def _roll_back(self, new: Generation) -> None:
        """Give every slot back to the old code; wait for it as long as a start may take."""
        renewed = [slot for slot in self._roster.slots if slot.generation is new]
        for slot in renewed:
            slot.generation = self._current
        limit = self._settings.boot_timeout + FORK_PATIENCE
        try:
            async with running_timeout(limit), asyncio.TaskGroup() as group:
                for slot in renewed:
                    group.create_task(self._restore(slot))
        except TimeoutError:
            log.error(
                "%s: workers of generation %d serve until they end: none of generation %d"
                " came up in %g s",
                self._name,
                new.number,
                self._current.number,
                limit,
            )
        except ExceptionGroup:
            log.exception(
                "%s: workers of generation %d serve until they end: they could not be replaced",
                self._name,
                new.number,
            )
        self._generations.retire(new)

    async def _restore(self, slot: Slot) -> None:
        """Fork a worker of the old generation, until one is ready: this code has served before."""
        while not slot.closed:
            try:
                await slot.renew(self._current, "reload")
            except BootError as error:
                log.error("slot %d: no worker of the old generation: %s", slot.number, error)
                await slot.pause(CRASH_WEIGHT)
            else:
                return


async def _all_of(
    renewals: Sequence[Coroutine[Any, Any, None]], stability_check: StabilityCheck, limit: float
) -> None:
    """Wait for all; if one fails, or the stability check does, give up the rest and raise why."""
    try:
        async with running_timeout(limit), asyncio.TaskGroup() as group:
            watching = group.create_task(stability_check.failure())
            await asyncio.wait([group.create_task(renewal) for renewal in renewals])
            watching.cancel()
    except TimeoutError:
        raise BootError(f"no worker could be started in {limit:g} s") from None
    except BaseExceptionGroup as group:
        raise _first(group.subgroup(BootError) or group) from None


def _as_boot_error(error: Exception) -> BootError:
    if isinstance(error, BootError):
        return error
    return BootError(f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

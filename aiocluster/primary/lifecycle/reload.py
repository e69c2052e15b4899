"""Puts a new generation in the place of the old: imported anew, slot by slot, or not at all.

    import ▶ renew the first slots, and see that they last ▶ renew the rest ▶ see that they
    last ▶ retire the old

An old worker goes only when the new one in its slot is ready, so there are never fewer ready
workers than before. When anything fails before the end, every slot goes back to the old
generation, which can still be forked: its zygote is kept until then.
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
    """Reloads one after the other, as often as asked for."""

    def __init__(
        self,
        spec: RoleSpec,
        generations: Generations,
        roster: Roster,
        bus: EventBus,
        exit_log: ExitLog,
    ) -> None:
        self._role = spec.name
        # What the log calls it: where there is one role, nothing.
        self._name = "reload" if spec.name == ONLY_ROLE else f"reload of {spec.name}"
        self._settings = spec.settings
        self._generations = generations
        self._roster = roster
        self._bus = bus
        self._exit_log = exit_log
        self._loop = asyncio.get_running_loop()
        self.turn = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        # At a stop: those whose generation does not serve yet.
        self._to_give_up: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def reload(self) -> None:
        """Replace every worker by one of the code as it is now; return when the old are gone.

        Asked while one is under way, another follows it, one for all who ask meanwhile.
        Raises BootError, with the cause, when the new code does not come up: then the old
        serves as before. ClusterStopping when a stop comes between.
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
        """True while one waits for its turn."""
        return self._next is not None

    def ask(self) -> asyncio.Task[None]:
        """Let one follow; return the task that is it."""
        if self._next is None:
            self._next = self._loop.create_task(self._in_turn())
            self._to_give_up.add(self._next)
            self._next.add_done_callback(self._over)
        return self._next

    def close(self) -> None:
        """Give up what is under way; the workers are another's to end. Idempotent."""
        if self._to_give_up and not self._closed:
            log.warning("%s: given up, for the cluster is stopping", self._name)
        self._closed = True
        for task in self._to_give_up:
            task.cancel()

    async def _in_turn(self) -> None:
        async with self.turn:
            self._next = None  # who asks from here on may have changed the code since
            await self._reload()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._to_give_up.discard(task)
        if not task.cancelled():
            task.exception()  # perhaps nobody waits for it any more

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
        # A stop that comes between leaves both: until it ends them they replace their dead.
        self._generations.retire(self._generations.serve(new))

    @property
    def _current(self) -> Generation:
        return self._generations.current

    # ---- forward

    async def _roll(self, new: Generation, stability_check: StabilityCheck) -> None:
        """Renew every slot, and see that it lasts; nobody is of another generation on return."""
        settings = self._settings
        # The first ones show whether the code lasts; the others need not wait for that again.
        hold = max(settings.min_ready_seconds, settings.min_uptime)
        # Slots may be opened meanwhile, and are the old generation's as long as that serves.
        while todo := self._to_be_renewed(new):
            batch = todo[: settings.reload_surge]
            limit = settings.boot_timeout + hold + FORK_PATIENCE
            await _all_of(
                [slot.renew(new, "reload", hold) for slot in batch], stability_check, limit
            )
            if settings.restart == "always":
                hold = settings.min_ready_seconds
            # Else the slot of one that crashed is closed, and could not be given back.
            if not self._to_be_renewed(new):
                await stability_check.last(stability_check.seconds_left())

    def _to_be_renewed(self, new: Generation) -> list[Slot]:
        return [slot for slot in self._roster.slots if slot.generation is not new]

    async def _until_only(self, number: int) -> None:
        """Wait until all workers of other generations are gone; each has a deadline."""
        workers = self._roster.workers.values()
        old = [worker for worker in workers if worker.generation != number and worker.is_leaving]
        if old:
            await asyncio.wait([worker.exited for worker in old])

    # ---- back

    def _kept(self, number: int) -> str:
        """Say what a reload that failed has left of its generation."""
        workers = self._roster.workers.values()
        if any(worker.generation == number and not worker.is_leaving for worker in workers):
            return ", but for workers that cannot be replaced"
        return ", nothing has changed"

    async def _roll_back(self, new: Generation) -> None:
        """Let the old code have every slot again, and see to it as long as a start may take."""
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
        """Put a worker of the old generation back. This code has served, so it is tried again."""
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
    """Wait for all; when one fails, or the probation does, give up the others and raise why."""
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

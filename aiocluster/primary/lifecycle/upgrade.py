"""Replaces this program by its next version, in the same process and with all that is open.

try it in a child ▶ wait for a quiet moment ▶ write the handover state ▶ exec

A moment is quiet if nothing is half done that cannot be written down: a fork, the end of a
worker, bytes that a channel still has to send. From then to the exec the loop does not run.
Connections wait in the kernel's accept queue, messages in their sockets.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import chain
from typing import NamedTuple, Protocol

from aiocluster.errors import BootError, ClusterStopping
from aiocluster.events import UpgradeFailed
from aiocluster.ipc.handover import HandoverState
from aiocluster.primary.event_bus import EventBus
from aiocluster.primary.processes.spawner import FORK_PATIENCE
from aiocluster.timeouts import running_timeout

log = logging.getLogger("aiocluster.upgrade")

# Seconds in which a moment must be quiet. A worker's end takes up to one.
_QUIET_TIMEOUT = 3.0

# Seconds that subscribers get to read earlier messages. Messages unread then are handed over.
_READING_TIMEOUT = 1.0

# Seconds that refused clients get to read their 503: a connection closed too soon is reset. In a
# flood of clients some always read.
_ANSWERING_TIMEOUT = 1.0

# Seconds between two looks.
_LOOK_INTERVAL = 0.005

# Turns of the loop in which an earlier signal is handled and can begin a stop.
_SIGNAL_TURNS = 20


class RoleLocks(NamedTuple):
    """The locks of a role. A task that changes the role's workers must hold one."""

    reloads: asyncio.Lock
    recycling: asyncio.Lock
    scaling: asyncio.Lock


class NextProgram(Protocol):
    """The next program: the one that is on the disk now."""

    async def try_out(self, boot_timeout: float) -> None:
        """Check that the next program starts; BootError if it does not."""
        ...

    def holding_signals(self) -> contextlib.AbstractContextManager[None]:
        """Hold signals back, for the next program or, if the exec fails, for this one."""
        ...

    def take_over(self, handover_state: HandoverState) -> None:
        """Execute the next program in this process. Never returns; OSError if that fails."""
        ...


class RunningProgram(Protocol):
    """The running program: the part of the primary that an upgrade needs."""

    @property
    def turns(self) -> Sequence[RoleLocks]:
        """Return the locks of each role."""
        ...

    @property
    def busy_reason(self) -> str: ...

    @property
    def are_answering(self) -> bool:
        """True while a refused client still reads its 503."""
        ...


class Upgrader:
    """An upgrader: it runs in turn with reloads, and never while workers are replaced or added."""

    def __init__(
        self,
        next_program: NextProgram,
        running_program: RunningProgram,
        bus: EventBus,
        boot_timeout: float,
        capture_state: Callable[[], HandoverState],
    ) -> None:
        """Call `capture_state()` for the handover state; from then to the exec no loop may run."""
        self._next_program = next_program
        self._running_program = running_program
        self._bus = bus
        self._boot_timeout = boot_timeout
        self._capture_state = capture_state
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def upgrade(self) -> None:
        """See Cluster.upgrade."""
        if self._closed:
            raise ClusterStopping("cannot upgrade: the cluster is stopping")
        task = self._loop.create_task(self._upgrade())
        self._tasks.add(task)
        task.add_done_callback(self._over)
        await asyncio.wait({task})
        if task.cancelled():
            raise ClusterStopping("the upgrade was given up: the cluster is stopping")
        task.result()

    def close(self) -> None:
        """Give up what is under way. Idempotent."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # perhaps its caller waits no more

    async def _upgrade(self) -> None:
        reloads, *others = zip(*self._running_program.turns, strict=True)
        async with contextlib.AsyncExitStack() as reload_locks:
            for turn in reloads:
                await reload_locks.enter_async_context(turn)
            try:
                log.info("upgrade: trying the new program")
                await self._next_program.try_out(self._boot_timeout)
                async with self._no_worker_changes([*chain(*others)]):
                    await self._take_over()
            except BootError as error:
                self._tell(error)
                raise

    def _tell(self, error: BootError) -> None:
        if error.traceback and not error.is_shown:
            log.error("%s", error.traceback.rstrip())
        log.error("upgrade: it is given up, nothing has changed: %s", error)
        self._bus.publish(UpgradeFailed(error.cause, error.traceback))

    @contextlib.asynccontextmanager
    async def _no_worker_changes(self, turns: Iterable[asyncio.Lock]) -> AsyncIterator[None]:
        limit = self._boot_timeout + FORK_PATIENCE
        async with contextlib.AsyncExitStack() as taken:
            try:
                async with running_timeout(limit):
                    for turn in turns:
                        await taken.enter_async_context(turn)
            except TimeoutError:
                text = f"workers were still being replaced or added after {limit:g} s"
                raise BootError(text) from None
            yield

    async def _take_over(self) -> None:
        await self._until(lambda: self._bus.is_idle, _READING_TIMEOUT)
        now = self._loop.time()
        until, patient_until = now + _QUIET_TIMEOUT, now + _ANSWERING_TIMEOUT
        while await self._until(lambda: self._is_quiet(patient_until), until - self._loop.time()):
            with self._next_program.holding_signals():
                # An earlier signal is handled now: exec would lose it.
                for _ in range(_SIGNAL_TURNS):
                    await asyncio.sleep(0)
                if self._is_quiet(patient_until):
                    self._leave_the_process()
        reason = self._running_program.busy_reason
        raise BootError(f"there was no quiet moment in {_QUIET_TIMEOUT:g} s: {reason}")

    def _is_quiet(self, patient_until: float) -> bool:
        answering = self._running_program.are_answering and self._loop.time() < patient_until
        return not (answering or self._running_program.busy_reason)

    def _leave_the_process(self) -> None:
        try:
            self._next_program.take_over(self._capture_state())
        except OSError as error:
            raise BootError(f"the new program could not be executed: {error}") from error

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until `condition()`, which gives no event, is true; return whether it is."""
        until = self._loop.time() + seconds
        while not (true := condition()) and self._loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_INTERVAL)
        return true

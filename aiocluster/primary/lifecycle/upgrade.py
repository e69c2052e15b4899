"""Puts another program in the place of this one: the same process, and all that is in it.

    try it as a child ▶ wait for a quiet moment ▶ write down the estate ▶ exec

The moment is quiet when nothing is half done that could not be written down: a fork, the end
of a worker, bytes that a channel still has to write. From then to the exec nothing of the
loop runs. Connections wait in the kernel's accept queue, messages in their sockets.
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

# Seconds until a moment must have been quiet. A worker's end takes up to one.
_QUIET_TIMEOUT = 3.0

# Seconds that subscribers get to read the messages that came before. What is unread then is
# handed on.
_READING_TIMEOUT = 1.0

# Seconds that clients get to read that they are turned away: what is closed too soon is reset.
# In a flood of them somebody always reads.
_ANSWERING_TIMEOUT = 1.0

# Seconds between two looks.
_LOOK_INTERVAL = 0.005

# Turns of the loop in which a signal that came before is heard and can begin a stop.
_SIGNAL_TURNS = 20


class RoleLocks(NamedTuple):
    """What all that changes the workers of a role takes turns by."""

    reloads: asyncio.Lock
    recycling: asyncio.Lock
    scaling: asyncio.Lock


class NextProgram(Protocol):
    """The program as it is now on the disk."""

    async def try_out(self, boot_timeout: float) -> None:
        """See whether it starts; BootError when it does not."""
        ...

    def holding_signals(self) -> contextlib.AbstractContextManager[None]:
        """Let signals wait, for it or, when it does not come, for us."""
        ...

    def take_over(self, handover_state: HandoverState) -> None:
        """Put it in our place. Returns never; OSError when that is not possible."""
        ...


class RunningProgram(Protocol):
    """What is here now: the part of all roles that an upgrade needs."""

    @property
    def turns(self) -> Sequence[RoleLocks]:
        """Those of each role."""
        ...

    @property
    def busy_reason(self) -> str: ...

    @property
    def are_answering(self) -> bool:
        """Does a client whom we have turned away still read why?"""
        ...


class Upgrader:
    """Upgrades in turn with reloads; never while a worker is being replaced, or more are wanted."""

    def __init__(
        self,
        successor: NextProgram,
        predecessor: RunningProgram,
        bus: EventBus,
        boot_timeout: float,
        capture_state: Callable[[], HandoverState],
    ) -> None:
        """`bequeath()` returns the estate; nothing of the loop may run from there to the exec."""
        self._successor = successor
        self._predecessor = predecessor
        self._bus = bus
        self._boot_timeout = boot_timeout
        self._bequeath = capture_state
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
            task.exception()  # perhaps nobody waits for it any more

    async def _upgrade(self) -> None:
        reloads, *others = zip(*self._predecessor.turns, strict=True)
        async with contextlib.AsyncExitStack() as nobody_reloads:
            for turn in reloads:
                await nobody_reloads.enter_async_context(turn)
            try:
                log.info("upgrade: trying the new program")
                await self._successor.try_out(self._boot_timeout)
                async with self._nobody_comes_or_goes([*chain(*others)]):
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
    async def _nobody_comes_or_goes(self, turns: Iterable[asyncio.Lock]) -> AsyncIterator[None]:
        limit = self._boot_timeout + FORK_PATIENCE
        async with contextlib.AsyncExitStack() as taken:
            try:
                async with running_timeout(limit):
                    for turn in turns:
                        await taken.enter_async_context(turn)
            except TimeoutError:
                text = f"a worker has been in replacement, or to come, for {limit:g} s"
                raise BootError(text) from None
            yield

    async def _take_over(self) -> None:
        await self._until(lambda: self._bus.is_idle, _READING_TIMEOUT)
        now = self._loop.time()
        until, patient_until = now + _QUIET_TIMEOUT, now + _ANSWERING_TIMEOUT
        while await self._until(lambda: self._is_quiet(patient_until), until - self._loop.time()):
            with self._successor.holding_signals():
                # One that came before is heard now: exec would forget it.
                for _ in range(_SIGNAL_TURNS):
                    await asyncio.sleep(0)
                if self._is_quiet(patient_until):
                    self._leave_the_process()
        raise BootError(
            f"there was no quiet moment in {_QUIET_TIMEOUT:g} s: {self._predecessor.busy_reason}"
        )

    def _is_quiet(self, patient_until: float) -> bool:
        answering = self._predecessor.are_answering and self._loop.time() < patient_until
        return not (answering or self._predecessor.busy_reason)

    def _leave_the_process(self) -> None:
        try:
            self._successor.take_over(self._bequeath())
        except OSError as error:
            raise BootError(f"the new program could not be executed: {error}") from error

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for a fact that nothing tells; return whether it came true."""
        until = self._loop.time() + seconds
        while not (true := condition()) and self._loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_INTERVAL)
        return true

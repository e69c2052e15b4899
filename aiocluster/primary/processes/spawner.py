"""The spawner: it keeps a zygote alive and has it fork all workers of one generation."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from aiocluster.config.roles import ONLY_ROLE
from aiocluster.config.run_app import RunAppCall
from aiocluster.errors import BootError, ChannelClosed, WorkerGone
from aiocluster.ipc.handover import GenerationState, ZygoteState
from aiocluster.ipc.messages import Fork
from aiocluster.launch.interpreter import CannotStart, StartedZygote
from aiocluster.primary.processes.process import Process, WorkerProcess
from aiocluster.primary.processes.zygote_handle import ZygoteHandle
from aiocluster.primary.tasks import start_task

log = logging.getLogger("aiocluster.spawner")

# Seconds between two starts of a zygote that keeps dying; they double up to the limit.
_ZYGOTE_PAUSE = 1.0
_MAX_ZYGOTE_PAUSE = 15.0

# Seconds to wait for the fork of a worker, beside its boot_timeout: enough to replace a zygote
# that hangs, or for a short lack of kernel resources.
FORK_PATIENCE = 15.0

# Seconds between two tries to send a Watch to a zygote that reads slower than the primary writes.
_WATCH_PAUSE = 0.01


class Spawner(Protocol):
    """The interface for starting workers' processes."""

    async def spawn(
        self, fork: Fork, handoff: int, channel: socket.socket, files: Sequence[int]
    ) -> Process:
        """Fork a worker that gets duplicates of its handoff and channel, and of `files`.

        `files` are the scoreboard, the worker's stack file and the listening sockets it shares.
        `channel` is closed as soon as it is sent: at the limit of open files, this frees the
        descriptor that the worker's pidfd needs.
        Raises WorkerGone if the worker could not be forked now (another try may succeed), and
        CannotStart if no worker can be forked any more.
        """
        ...

    def when_gone(self, worker_id: int, heard: Callable[[], None]) -> None:
        """Call `heard` once a worker that `spawn` did not return has no process.

        Mostly this is at once. If the `spawn` was cancelled, the worker may still be forked; it
        is then killed first.
        """
        ...


# Starts a zygote's process.
ZygoteStarter = Callable[[], Awaitable[StartedZygote]]


class ZygoteSpawner:
    """A Spawner that keeps one zygote alive and orders its forks."""

    def __init__(
        self, start_zygote: ZygoteStarter, first: StartedZygote | None, role: str = ONLY_ROLE
    ) -> None:
        self._role = role
        self._start_zygote = start_zygote
        self._first = first
        self._zygote: ZygoteHandle | None = None
        self._ready = asyncio.Event()  # a zygote can fork, or none ever will again
        self._processes: dict[int, WorkerProcess] = {}
        self._unwanted: dict[int, asyncio.Task[None]] = {}  # by worker id: the task that kills it
        self._keeper: asyncio.Task[None] | None = None
        self._retired = False
        self._never_again: CannotStart | None = None  # why there will be no zygote any more
        # The pids of all its zygotes, past ones included, and of its workers that are unreaped.
        self.zygote_pids: set[int] = set()
        self.call: RunAppCall | None = None  # what the code has passed to aiohttp's run_app
        self.is_job = False  # True if the app is known to be a job

    async def start(self, boot_timeout: float) -> None:
        """Start the zygote and have it import the app; BootError if that fails."""
        try:
            await self._begin(boot_timeout)
        except OSError as error:
            raise BootError(f"no new interpreter could be started: {error}") from error
        self._keeper = start_task(self._keep_zygote(boot_timeout), "keeping a zygote")

    @property
    def worker_ids(self) -> set[int]:
        """The ids of its workers that are not known to have ended."""
        return {*self._processes}

    @property
    def is_forking(self) -> bool:
        """True while the zygote has not answered an order to fork."""
        return self._zygote is not None and self._zygote.is_forking

    def state(self) -> ZygoteState | None:
        """Return what the next program must know of the zygote; None if it must start a new one."""
        if self._zygote is None or not self._ready.is_set():
            return None
        return self._zygote.state()

    def drop_unready(self) -> None:
        """Kill a zygote that is not ready yet: the next program would not wait for it."""
        if self._zygote is not None and not self._ready.is_set():
            self._zygote.give_up()

    def adopt(self, state: GenerationState, boot_timeout: float) -> None:
        """Take over the previous program's zygote, or start one if there is none."""
        self.zygote_pids |= {*state.zygote_pids}
        self._retired = state.is_retired
        if state.zygote is not None:
            sock = socket.socket(fileno=state.zygote.fd)
            started = StartedZygote(state.zygote.pid, sock)
            self._zygote = ZygoteHandle(started, self._on_forked, self._on_exited)
            self._zygote.adopt()
            self._ready.set()
        self._keeper = start_task(self._keep_zygote(boot_timeout), "keeping a zygote")

    def adopt_worker(self, worker_id: int, pid: int, pidfd: int) -> WorkerProcess:
        """Watch a worker that the previous program had."""
        process = WorkerProcess(pid, pidfd)
        self._on_forked(worker_id, process)
        return process

    async def spawn(
        self, fork: Fork, handoff: int, channel: socket.socket, files: Sequence[int]
    ) -> WorkerProcess:
        """See Spawner."""
        with channel:
            zygote = await self._living_zygote()
            forked = zygote.order(fork, (handoff, channel.fileno(), *files))
        try:
            return await asyncio.shield(forked)
        except asyncio.CancelledError:
            ending = start_task(_end_unwanted(forked), "ending an unwanted worker")
            self._unwanted[fork.worker_id] = ending
            ending.add_done_callback(lambda _: self._unwanted.pop(fork.worker_id))
            raise

    def when_gone(self, worker_id: int, heard: Callable[[], None]) -> None:
        """See Spawner."""
        if (ending := self._unwanted.get(worker_id)) is not None:
            ending.add_done_callback(lambda _: heard())
        else:
            heard()

    def retire(self) -> None:
        """Fork no more workers: a zygote that dies is not replaced. Idempotent."""
        self._retired = True

    def knows(self, pid: int) -> bool:
        """Return True if this is the zygote, or a worker that is not known to have ended."""
        if self._zygote is not None and self._zygote.pid == pid:
            return True
        return any(process.pid == pid for process in self._processes.values())

    async def close(self) -> None:
        """End the zygote; its workers must be gone already. Idempotent."""
        self._ready.clear()
        if self._keeper is not None:
            self._keeper.cancel()
            # The keeper may be about to reap the same zygote.
            await asyncio.wait({self._keeper})
            self._keeper = None
        if self._zygote is not None:
            await self._zygote.close()
            self._zygote = None
        self._ready.set()

    async def _begin(self, boot_timeout: float) -> None:
        first, self._first = self._first, None
        started = first or await self._start_zygote()
        self.zygote_pids.add(started.pid)
        self._zygote = zygote = ZygoteHandle(started, self._on_forked, self._on_exited)
        prepared = await zygote.prepare(boot_timeout)
        self.call, self.is_job = prepared.call, prepared.is_job
        for line in prepared.note.splitlines():
            log.warning("%s", line)
        if first is None and prepared.folder:
            log.info("the app was imported from %s", prepared.folder)
        for worker_id in [*self._processes]:
            await self._introduce(zygote, worker_id)
        self._ready.set()

    async def _living_zygote(self) -> ZygoteHandle:
        while True:
            await self._ready.wait()
            if self._never_again is not None:
                raise self._never_again
            if self._zygote is None:
                raise WorkerGone("its generation is over")
            if not self._zygote.lost.is_set():
                return self._zygote
            # The keeper has not seen the loss yet, and will start the next zygote.
            self._ready.clear()

    async def _introduce(self, zygote: ZygoteHandle, worker_id: int) -> None:
        """Have a new zygote watch a worker that lives: workers must not outlive the cluster."""
        while (process := self._processes.get(worker_id)) is not None and not process.is_dead:
            if zygote.watch(worker_id, process.pidfd):
                break
            await asyncio.sleep(_WATCH_PAUSE)

    async def _keep_zygote(self, boot_timeout: float) -> None:
        """Start a new zygote whenever one dies; its workers live on."""
        pause, has_told = _ZYGOTE_PAUSE, False
        while True:
            if self._zygote is not None:
                await self._zygote.lost.wait()
                self._ready.clear()
                await self._zygote.close()
                new = "" if self._retired else "starting a new one, "
                log.warning("the zygote (pid %d) is gone; %sworkers go on", self._zygote.pid, new)
                self._zygote = None
            if self._retired:
                self._ready.set()
                return
            try:
                await self._begin(boot_timeout)
                pause, has_told = _ZYGOTE_PAUSE, False
            except CannotStart as error:
                log.error("no new zygote: %s; workers go on, and none is replaced", error)
                self._log_if_no_worker()
                self._never_again = error
                self._ready.set()
                return
            except (BootError, ChannelClosed, OSError) as error:
                log.error("no new zygote, next try in %g s: %s", pause, error)
                if not has_told:
                    has_told = self._log_if_no_worker()
                await self._drop_zygote()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _MAX_ZYGOTE_PAUSE)

    def _log_if_no_worker(self) -> bool:
        """Log that no worker of this generation lives; return whether that is so."""
        if self._processes:
            return False
        log.error(
            "role %s has no worker of this generation, and none can be forked without a zygote",
            self._role,
        )
        return True

    async def _drop_zygote(self) -> None:
        if self._zygote is not None:
            self._zygote.give_up()
            await self._zygote.close()
            self._zygote = None

    def _on_forked(self, worker_id: int, process: WorkerProcess) -> None:
        self._processes[worker_id] = process
        process.on_status(lambda: self._forget(worker_id))

    def _on_exited(self, worker_id: int, status: int) -> None:
        if (process := self._processes.get(worker_id)) is not None:
            process.tell_status(status)

    def _forget(self, worker_id: int) -> None:
        if (process := self._processes.pop(worker_id, None)) is not None and process.is_unreaped:
            self.zygote_pids.add(process.pid)


async def _end_unwanted(forked: "asyncio.Future[WorkerProcess]") -> None:
    """Kill a worker if it is forked: the task that had ordered it was cancelled."""
    with contextlib.suppress(WorkerGone):
        process = await forked
        process.send_signal(signal.SIGKILL)
        await process.wait()

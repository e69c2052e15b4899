"""The one door to new processes: a zygote is kept alive, and forks workers when asked."""

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

# Seconds that whoever starts a worker waits for its fork, beside its boot_timeout: enough for a
# zygote that hangs to be replaced, and for a kernel that is short of something.
FORK_PATIENCE = 15.0

# Seconds between two tries to tell a zygote of one more worker, when it does not read as fast
# as we write.
_WATCH_PAUSE = 0.01


class Spawner(Protocol):
    """Starts workers' processes."""

    async def spawn(
        self, fork: Fork, handoff: int, channel: socket.socket, files: Sequence[int]
    ) -> Process:
        """Fork a worker that gets duplicates of its handoff and channel, and of `files`.

        `files` are the scoreboard, its stack file and the listening sockets that it shares.
        `channel` is closed as soon as it is on its way: at the limit of open files, that is
        where the worker's own descriptor comes from.
        Raises WorkerGone when it could not be forked now (another try may succeed), CannotStart
        when none will be any more.
        """
        ...

    def when_gone(self, worker_id: int, heard: Callable[[], None]) -> None:
        """Call `heard` once there is no process of a worker that `spawn` did not return.

        Mostly at once. But where the wait for it was cancelled one may still come, and is ended.
        """
        ...


# Starts a zygote's process.
ZygoteStarter = Callable[[], Awaitable[StartedZygote]]


class ZygoteSpawner:
    """Keeps one zygote alive and asks it to fork. See Spawner."""

    def __init__(
        self, start_zygote: ZygoteStarter, first: StartedZygote | None, role: str = ONLY_ROLE
    ) -> None:
        self._role = role
        self._start_zygote = start_zygote
        self._first = first
        self._zygote: ZygoteHandle | None = None
        self._ready = asyncio.Event()  # there is a zygote that forks, or never will be again
        self._processes: dict[int, WorkerProcess] = {}
        self._unwanted: dict[int, asyncio.Task[None]] = {}  # by worker: its end
        self._keeper: asyncio.Task[None] | None = None
        self._retired = False
        self._never_again: CannotStart | None = None  # why there will be no zygote any more
        # Those of all there ever were, and of workers whose status nobody has asked for.
        self.zygote_pids: set[int] = set()
        self.call: RunAppCall | None = None  # what its code has given to aiohttp's run_app
        self.is_job = False  # is its app known to be one?

    async def start(self, boot_timeout: float) -> None:
        """Start the zygote and let it import the app; BootError when it cannot."""
        try:
            await self._begin(boot_timeout)
        except OSError as error:
            raise BootError(f"no new interpreter could be started: {error}") from error
        self._keeper = start_task(self._keep_zygote(boot_timeout), "keeping a zygote")

    @property
    def worker_ids(self) -> set[int]:
        """Those of its workers whose end is still to be told."""
        return {*self._processes}

    @property
    def is_forking(self) -> bool:
        """True while the zygote has not answered an order."""
        return self._zygote is not None and self._zygote.is_forking

    def state(self) -> ZygoteState | None:
        """What the next program must know of its zygote; None when it is to start a new one."""
        if self._zygote is None or not self._ready.is_set():
            return None
        return self._zygote.state()

    def drop_unready(self) -> None:
        """Kill a zygote that is not ready yet: nobody would wait for it any more."""
        if self._zygote is not None and not self._ready.is_set():
            self._zygote.give_up()

    def adopt(self, state: GenerationState, boot_timeout: float) -> None:
        """Go on with a zygote that another program started; or start one, if there is none."""
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
        """Watch a worker that another program had."""
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
        """Nobody will be forked any more: a zygote that dies is not replaced. Idempotent."""
        self._retired = True

    def knows(self, pid: int) -> bool:
        """Is this the zygote, or a worker whose end is still to be told?"""
        if self._zygote is not None and self._zygote.pid == pid:
            return True
        return any(process.pid == pid for process in self._processes.values())

    async def close(self) -> None:
        """Let the zygote go; its workers must be gone already. Idempotent."""
        self._ready.clear()
        if self._keeper is not None:
            self._keeper.cancel()
            # It may be about to reap the same zygote.
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
            # Its keeper has not heard of it yet, and will start the next.
            self._ready.clear()

    async def _introduce(self, zygote: ZygoteHandle, worker_id: int) -> None:
        """Tell a new zygote of a worker, if it still lives: it must not outlive the cluster."""
        while (process := self._processes.get(worker_id)) is not None and not process.is_dead:
            if zygote.watch(worker_id, process.pidfd):
                break
            await asyncio.sleep(_WATCH_PAUSE)

    async def _keep_zygote(self, boot_timeout: float) -> None:
        """When the zygote dies its workers live on; start a new one."""
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
                self._never_again = error
                self._ready.set()
                return
            except (BootError, ChannelClosed, OSError) as error:
                log.error("no new zygote, next try in %g s: %s", pause, error)
                if not self._processes and not has_told:
                    has_told = True
                    log.error(
                        "role %s has no worker, and none can be forked without a zygote: nothing"
                        " is serving",
                        self._role,
                    )
                await self._drop_zygote()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _MAX_ZYGOTE_PAUSE)

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
    """Whoever asked for this worker has given up."""
    with contextlib.suppress(WorkerGone):
        process = await forked
        process.send_signal(signal.SIGKILL)
        await process.wait()

"""The one door to new processes: a zygote is kept alive, and forks workers when asked."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiocluster.errors import BootError, ChannelClosed, ProtocolError, WorkerGone
from aiocluster.ipc.messages import (
    Exited,
    Fork,
    Forked,
    ForkFailed,
    FromZygote,
    Message,
    Prepared,
    PrepareFailed,
    Watch,
)
from aiocluster.ipc.packets import receive_packet, send_packet
from aiocluster.primary.exits import ExitStatus
from aiocluster.primary.process import Process, WorkerProcess

log = logging.getLogger("aiocluster.spawner")

# Seconds between two starts of a zygote that keeps dying; they double up to the limit.
_ZYGOTE_PAUSE = 1.0
_MAX_ZYGOTE_PAUSE = 15.0

# An idle zygote ends within a millisecond of its socket; after this many seconds it is killed.
_ZYGOTE_EXIT_TIMEOUT = 5.0


class Spawner(Protocol):
    """Starts workers' processes."""

    async def spawn(self, fork: Fork, fds: tuple[int, int, int]) -> Process:
        """Fork a worker that gets duplicates of `fds`: its handoff, channel, scoreboard.

        Raises WorkerGone when it could not be forked now (another try may succeed).
        """
        ...


# Starts a zygote's process and returns its pid and our end of its socket.
ZygoteStarter = Callable[[], Awaitable[tuple[int, socket.socket]]]


class ZygoteSpawner:
    """Keeps one zygote alive and asks it to fork. See Spawner."""

    def __init__(
        self, start_zygote: ZygoteStarter, first: tuple[int, socket.socket] | None
    ) -> None:
        self._start_zygote = start_zygote
        self._first = first
        self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = None
        self._prepared: asyncio.Future[Prepared] = self._loop.create_future()
        self._ready = asyncio.Event()
        self._lost = asyncio.Event()
        self._forks: dict[int, asyncio.Future[WorkerProcess]] = {}
        self._processes: dict[int, WorkerProcess] = {}
        self._unwanted: set[asyncio.Task[ExitStatus]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self.zygote_pid: int | None = None
        self.zygote_pids: set[int] = set()  # of all there ever were

    async def start(self, boot_timeout: float) -> None:
        """Start the zygote and let it import the app; BootError when it cannot."""
        await self._connect(await self._next_zygote(), boot_timeout)
        self._keeper = self._loop.create_task(self._keep_zygote(boot_timeout))

    async def spawn(self, fork: Fork, fds: tuple[int, int, int]) -> WorkerProcess:
        """See Spawner."""
        await self._ready.wait()
        assert self._sock is not None
        forked = self._forks[fork.worker_id] = self._loop.create_future()
        try:
            send_packet(self._sock, fork, fds)
        except (ChannelClosed, BlockingIOError) as error:
            del self._forks[fork.worker_id]
            raise WorkerGone(f"the zygote takes no more orders: {error}") from error
        try:
            process: WorkerProcess = await asyncio.shield(forked)
        except asyncio.CancelledError:
            forked.add_done_callback(self._kill_unwanted)
            raise
        return process

    def knows(self, pid: int) -> bool:
        """Is this the zygote, or a worker whose end is still to be told?"""
        return pid == self.zygote_pid or any(p.pid == pid for p in self._processes.values())

    async def close(self) -> None:
        """Let the zygote go; its workers must be gone already. Idempotent."""
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        if self.zygote_pid is not None and not self._ready.is_set():
            # It is still importing, which no closed socket ends.
            os.kill(self.zygote_pid, signal.SIGKILL)
        self._disconnect()
        if self.zygote_pid is not None:
            await _reap(self.zygote_pid)
            self.zygote_pid = None

    async def _next_zygote(self) -> tuple[int, socket.socket]:
        first, self._first = self._first, None
        return first or await self._start_zygote()

    async def _connect(self, zygote: tuple[int, socket.socket], boot_timeout: float) -> None:
        self.zygote_pid, sock = zygote
        self.zygote_pids.add(self.zygote_pid)
        sock.setblocking(False)
        self._sock = sock
        self._lost.clear()
        self._prepared = self._loop.create_future()
        self._loop.add_reader(sock.fileno(), self._on_packet)
        try:
            async with asyncio.timeout(boot_timeout):
                prepared = await self._prepared
        except TimeoutError:
            raise BootError(f"importing the app took longer than {boot_timeout:g} s") from None
        if prepared.note:
            log.warning("%s", prepared.note)
        for worker_id in [*self._processes]:
            await self._watch(sock, worker_id)
        self._ready.set()

    async def _watch(self, sock: socket.socket, worker_id: int) -> None:
        """Let a new zygote, which reads, but perhaps not as fast, know of a living worker."""
        while (process := self._processes.get(worker_id)) is not None:
            try:
                send_packet(sock, Watch(worker_id), [process.pidfd])
                break
            except BlockingIOError:
                await asyncio.sleep(0.01)

    async def _keep_zygote(self, boot_timeout: float) -> None:
        """When the zygote dies its workers live on; start a new one."""
        pause = _ZYGOTE_PAUSE
        while True:
            await self._lost.wait()
            pid, self.zygote_pid = self.zygote_pid, None
            if pid is not None:
                await _reap(pid)
            log.warning("the zygote (pid %s) is gone; starting a new one, workers go on", pid)
            try:
                await self._connect(await self._next_zygote(), boot_timeout)
                pause = _ZYGOTE_PAUSE
            except (BootError, ChannelClosed, OSError) as error:
                log.error("no new zygote, next try in %g s: %s", pause, error)
                self._disconnect()
                self._lost.set()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _MAX_ZYGOTE_PAUSE)

    def _on_packet(self) -> None:
        assert self._sock is not None
        try:
            received = receive_packet(self._sock, FromZygote)
        except BlockingIOError:
            return
        except ProtocolError as error:
            log.error("the zygote sent nonsense: %s", error)
            received = None
        if received is None:
            self._disconnect()
            self._lost.set()
            return
        self._on_message(*received)

    def _on_message(self, message: Message, fds: list[int]) -> None:
        match message:
            case Forked(worker_id=worker_id, pid=pid):
                self._on_forked(worker_id, WorkerProcess(pid, fds[0]))
            case ForkFailed(worker_id=worker_id, error=error_text):
                self._forks.pop(worker_id).set_exception(WorkerGone(f"cannot fork: {error_text}"))
            case Exited(worker_id=worker_id, status=status):
                if (process := self._processes.get(worker_id)) is not None:
                    process.tell_status(status)
            case Prepared() if not self._prepared.done():  # else it came after the timeout
                self._prepared.set_result(message)
            case Prepared():
                return
            case PrepareFailed(cause=cause, traceback=traceback):
                self._prepared.set_exception(BootError(cause, traceback))
            case _:
                raise ProtocolError(f"a zygote may not send {message!r}")

    def _on_forked(self, worker_id: int, process: WorkerProcess) -> None:
        self._processes[worker_id] = process
        process.on_status(lambda: self._forget(worker_id))
        self._forks.pop(worker_id).set_result(process)

    def _kill_unwanted(self, forked: "asyncio.Future[WorkerProcess]") -> None:
        """Whoever asked for this worker has given up."""
        if forked.exception() is not None:
            return
        process = forked.result()
        process.send_signal(signal.SIGKILL)
        reaping = self._loop.create_task(process.wait())
        self._unwanted.add(reaping)
        reaping.add_done_callback(self._unwanted.discard)

    def _forget(self, worker_id: int) -> None:
        self._processes.pop(worker_id, None)

    def _disconnect(self) -> None:
        """Forget a zygote that is gone, or make it go by closing its socket. Idempotent."""
        if self._sock is None:
            return
        self._ready.clear()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        self._sock = None
        if not self._prepared.done():
            self._prepared.set_exception(BootError("the zygote died while importing the app"))
        for forked in self._forks.values():
            if not forked.done():
                forked.set_exception(WorkerGone("the zygote died"))
        self._forks.clear()


async def _reap(pid: int) -> None:
    """Wait for a child that is about to end; kill it when it does not."""
    loop = asyncio.get_running_loop()
    dead = asyncio.Event()
    pidfd = os.pidfd_open(pid)
    loop.add_reader(pidfd, dead.set)
    try:
        async with asyncio.timeout(_ZYGOTE_EXIT_TIMEOUT):
            await dead.wait()
    except TimeoutError:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    with contextlib.suppress(ChildProcessError):
        # It is dead: this does not block.
        os.waitpid(pid, 0)  # noqa: ASYNC222

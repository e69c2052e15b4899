"""Workers that a test plays: a fake process, and the far ends of real sockets.

A FakeProcess obeys SIGKILL at once, unless told to be stubborn, and nothing else.
"""

import asyncio
import itertools
import os
import signal
import socket
from collections.abc import Callable, Sequence

from aiocluster.config.run_app import RunAppCall
from aiocluster.errors import BootError, ProtocolError, WorkerGone
from aiocluster.events import Event
from aiocluster.ipc.channel import Channel, open_channel
from aiocluster.ipc.handoff import handoff_pair, take_all
from aiocluster.ipc.handover import GenerationState, ZygoteState
from aiocluster.ipc.messages import (
    BootFailed,
    Fork,
    FromWorker,
    Lead,
    Listen,
    Message,
    Online,
    Ready,
    Serving,
    Subscribe,
    ToWorker,
    Unlisten,
    Unsubscribe,
)
from aiocluster.ipc.scoreboard import CONNECTIONS_TAKEN, Scoreboard, open_row
from aiocluster.ipc.stacks import StackFile
from aiocluster.metrics.snapshot import Report
from aiocluster.primary.dispatch.backend import Backend
from aiocluster.primary.dispatch.capacity import Limits
from aiocluster.primary.processes.exit_status import ExitStatus
from aiocluster.primary.sockets.connection import Connection
from aiocluster.primary.workers.handle import WorkerHandle, WorkerSpec
from tests.support.connections import close_all, none_lost
from tests.support.waiting import soon

# Above what the kernel gives out, so that a slip could never signal a stranger.
_pids = itertools.count(5_000_000)


class FakeProcess:
    """A process that exists only here."""

    def __init__(self) -> None:
        self.pid = next(_pids)
        self.pidfd = -1
        self.signals: asyncio.Queue[int] = asyncio.Queue()
        self.is_stubborn = False
        self.on_end: Callable[[], None] = lambda: None
        self._callbacks: list[Callable[[], None]] = []
        self._status: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()

    @property
    def is_dead(self) -> bool:
        """True once it has ended."""
        return self._status.done()

    def send_signal(self, number: int) -> None:
        """See Process."""
        self.signals.put_nowait(number)
        if number == signal.SIGKILL and not self.is_stubborn:
            self.end(ExitStatus(None, signal.SIGKILL))

    def on_death(self, callback: Callable[[], None]) -> None:
        """See Process."""
        self._callbacks.append(callback)

    async def wait(self) -> ExitStatus:
        """See Process."""
        return await asyncio.shield(self._status)

    def end(self, status: ExitStatus) -> None:
        """It is dead from now on."""
        if self.is_dead:
            return
        self._status.set_result(status)
        self.on_end()
        for callback in self._callbacks:
            callback()


class FakeWorker:
    """A worker, played by the test."""

    def __init__(self, fork: Fork, process: FakeProcess) -> None:
        self.fork = fork
        self.process = process
        self.said_to_it: asyncio.Queue[Message] = asyncio.Queue()
        self.leads = 0  # how often it was told to; the first that is ready is, in every test
        self.disconnected = asyncio.Event()
        self.error: ProtocolError | None = None
        self.channel = Channel(ToWorker, self._on_message, self._on_closed)
        process.on_end = self._on_end

    async def open(self, handoff: socket.socket, channel: socket.socket, row: memoryview) -> None:
        """Own these ends."""
        self.handoff, self.row = handoff, row
        await open_channel(channel, self.channel)

    def say(self, *messages: Message) -> None:
        """Send messages of ours to the primary."""
        for message in messages:
            self.channel.post(message)

    def boot(self) -> None:
        """Come up."""
        self.say(Online(), Ready())

    def fail_to_boot(self, cause: str, traceback: str = "") -> None:
        """Say why the app does not start, and exit as a worker does then."""
        self.say(Online(), BootFailed(cause, traceback))
        self.exit(3)

    async def hear(self) -> Message:
        """Return the next message of the primary."""
        return await soon(self.said_to_it.get())

    def taken(self) -> list[tuple[int, int]]:
        """Take all connections that wait for it; return the descriptor and listener of each."""
        return [taken[:2] for taken in take_all(self.handoff, none_lost)]

    def exit(self, code: int = 0) -> None:
        """End by itself."""
        self.process.end(ExitStatus(code, None))

    def die_of(self, number: int) -> None:
        """End by a signal from outside."""
        self.process.end(ExitStatus(None, number))

    def close(self) -> None:
        """Let go of everything. Idempotent."""
        self._on_end()
        self.channel.abort()

    def _on_end(self) -> None:
        self.channel.close()
        for fd, _ in self.taken() if self.handoff.fileno() >= 0 else []:
            os.close(fd)
        self.handoff.close()

    def _on_message(self, message: Message, size: int) -> None:
        self.channel.consumed(size)
        if isinstance(message, Lead):
            self.leads += 1
        else:
            self.said_to_it.put_nowait(message)

    def _on_closed(self, error: ProtocolError | None) -> None:
        self.error = error
        self.disconnected.set()


class FakeSpawner:
    """Starts workers that the test plays."""

    def __init__(self) -> None:
        self.refusals: list[Exception] = []
        self.boot_error: BootError | None = None
        self.is_retired = False
        self.closed = asyncio.Event()
        self.zygote_pids: set[int] = set()
        self.call: RunAppCall | None = None
        self.is_job = False
        self.is_forking = False
        self.zygote: ZygoteState | None = None
        self.adopted: GenerationState | None = None
        self.is_dropped = False
        self.workers: list[FakeWorker] = []
        self.files: list[int] = []  # of the last one
        # Who hears of the end of those whose fork was given up; None: each at once.
        self.unwanted: list[Callable[[], None]] | None = None
        self._spawned: asyncio.Queue[FakeWorker] = asyncio.Queue()

    async def spawn(
        self, fork: Fork, handoff: int, channel: socket.socket, files: Sequence[int]
    ) -> FakeProcess:
        """See Spawner."""
        if self.refusals:
            channel.close()
            raise self.refusals.pop(0)
        worker = FakeWorker(fork, FakeProcess())
        self.files = [*files]
        duplicate = socket.socket(fileno=os.dup(handoff))
        await worker.open(duplicate, channel, open_row(files[0], fork.row))
        self.workers.append(worker)
        self._spawned.put_nowait(worker)
        return worker.process

    def when_gone(self, worker_id: int, heard: Callable[[], None]) -> None:
        """See Spawner."""
        if self.unwanted is None:
            heard()
        else:
            self.unwanted.append(heard)

    async def start(self, boot_timeout: float) -> None:
        """See GenerationSpawner."""
        if self.boot_error is not None:
            raise self.boot_error

    def knows(self, pid: int) -> bool:
        """See GenerationSpawner."""
        return any(worker.process.pid == pid for worker in self.workers)

    @property
    def worker_ids(self) -> set[int]:
        """See GenerationSpawner."""
        return {one.fork.worker_id for one in self.workers if not one.process.is_dead}

    def state(self) -> ZygoteState | None:
        """See GenerationSpawner."""
        return self.zygote

    def drop_unready(self) -> None:
        """See GenerationSpawner."""
        self.is_dropped = True

    def adopt(self, state: GenerationState, boot_timeout: float) -> None:
        """See GenerationSpawner."""
        self.adopted = state

    def adopt_worker(self, worker_id: int, pid: int, pidfd: int) -> FakeProcess:
        """See GenerationSpawner."""
        process = FakeProcess()
        process.pid, process.pidfd = pid, pidfd
        return process

    def retire(self) -> None:
        """See GenerationSpawner."""
        self.is_retired = True

    def refuse(self, times: int) -> None:
        """Fail to fork, as the kernel may."""
        self.refusals += [WorkerGone("cannot fork: Resource temporarily unavailable")] * times

    async def next(self) -> FakeWorker:
        """Return the next worker that was spawned."""
        return await soon(self._spawned.get())

    async def ready(self, count: int) -> list[FakeWorker]:
        """Return the next `count` workers, booted, by slot."""
        workers = [await self.next() for _ in range(count)]
        for worker in workers:
            worker.boot()
        return sorted(workers, key=lambda worker: worker.fork.slot)

    def let_go(self) -> None:
        """End all."""
        for worker in self.workers:
            worker.close()

    async def close(self) -> None:
        """See GenerationSpawner."""
        self.closed.set()


class FakeOwner:
    """Owns handles: writes down what they tell."""

    def __init__(self) -> None:
        self.addresses: tuple[tuple[str, int], ...] = (("127.0.0.1", 8000),)
        self.graceful_timeout = 30.0
        self.idle_grace = 0.0
        self.keeps_last = False
        self.have_others = False
        self.returned: list[Connection] = []
        self.scoreboard = Scoreboard()
        self.log: list[str] = []
        self.disconnected: list[int] = []
        self.reports: list[Report] = []
        self.requests: asyncio.Queue[str] = asyncio.Queue()
        self.subscriptions: asyncio.Queue[Subscribe | Unsubscribe] = asyncio.Queue()
        self.wanted: list[Listen | Serving | Unlisten] = []
        self.unheard: list[Callable[[], None]] = []
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def publish(self, event: Event) -> None:
        """See Owner."""
        self.log.append(type(event).__name__)
        self._events.put_nowait(event)

    def when_heard(self, heard: Callable[[], None]) -> None:
        """See Owner."""
        self.unheard.append(heard)

    def others_serve(self) -> bool:
        """See Owner."""
        return self.have_others

    def is_last(self, worker: WorkerHandle) -> bool:
        """See Owner."""
        return self.keeps_last

    def let_go(self, worker: WorkerHandle, reason: str) -> None:
        """See Owner."""
        if self.keeps_last:
            self.log.append(f"let go ({reason})")
        else:
            worker.begin_drain(reason)

    def on_ready(self, worker: WorkerHandle) -> None:
        """See Owner."""
        self.log.append("ready")

    def on_unready(self, worker: WorkerHandle) -> None:
        """See Owner."""
        self.log.append("unready")

    def on_lost_channel(self, worker: WorkerHandle) -> None:
        """See Owner."""
        self.disconnected.append(worker.id)

    def on_drain_request(self, worker: WorkerHandle, reason: str) -> None:
        """See Owner."""
        self.requests.put_nowait(reason)

    def on_report(self, worker: WorkerHandle, report: Report) -> None:
        """See Owner."""
        self.reports.append(report)

    def on_subscribe(self, worker: WorkerHandle, request: Subscribe | Unsubscribe) -> None:
        """See Owner."""
        self.subscriptions.put_nowait(request)

    def on_server(self, worker: WorkerHandle, message: Listen | Serving | Unlisten) -> None:
        """See Owner."""
        self.wanted.append(message)

    async def event(self) -> Event:
        """Return the next event."""
        return await soon(self._events.get())


async def play_worker(
    owner: FakeOwner, worker_id: int = 1, slot: int = 0, generation: int = 1, restarts: int = 0
) -> tuple[WorkerHandle, FakeWorker]:
    """Return a handle that has just been forked, and the worker behind it."""
    scoreboard = owner.scoreboard
    row = scoreboard.claim()
    handoff, channel = handoff_pair(), socket.socketpair()
    limits, returned = Limits(0.05, 1024), owner.returned
    backend = Backend(slot, handoff, (scoreboard, row), limits, lambda: None, returned.extend)
    spec = WorkerSpec(worker_id, slot, "web", generation, restarts)
    handle = WorkerHandle(spec, backend, row, StackFile(), owner)
    await open_channel(channel[0], handle.channel)
    process = FakeProcess()
    worker = FakeWorker(Fork(worker_id, slot, "web", generation, row, [], {}), process)
    theirs = socket.socket(fileno=os.dup(handoff[1].fileno()))
    await worker.open(theirs, channel[1], open_row(scoreboard.fd, row))
    handle.began(process, 0.0, 0.0)
    return handle, worker


def let_go(handle: WorkerHandle, worker: FakeWorker) -> None:
    """Close both sides. Idempotent."""
    worker.close()
    handle.channel.abort()
    handle.stacks.close()
    close_all(handle.backend.close())


class FarEnd:
    """The primary's end of a worker's channel, played by the test."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Message] = asyncio.Queue()
        self.sizes: list[int] = []
        self.disconnected = asyncio.Event()
        self.channel = Channel(FromWorker, self._on_message, self._on_closed)

    async def open(self, sock: socket.socket) -> None:
        """Own this end."""
        await open_channel(sock, self.channel)

    async def hear(self) -> Message:
        """Return the worker's next message."""
        return await soon(self.heard.get())

    def _on_message(self, message: Message, size: int) -> None:
        self.sizes.append(size)
        self.heard.put_nowait(message)

    def _on_closed(self, error: ProtocolError | None) -> None:
        self.disconnected.set()


def close_taken(worker: FakeWorker) -> int:
    """Take what the worker was given; return how many."""
    taken = worker.taken()
    for fd, _ in taken:
        os.close(fd)
    worker.row[CONNECTIONS_TAKEN] += len(taken)
    return len(taken)

"""A worker as the primary sees it."""

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiocluster.config.roles import ONLY_ROLE
from aiocluster.config.settings import checked_seconds
from aiocluster.errors import ChannelClosed, ProtocolError, WorkerGone
from aiocluster.events import (
    Event,
    WorkerAtFdLimit,
    WorkerBelowFdLimit,
    WorkerDisconnected,
    WorkerExited,
    WorkerListening,
    WorkerMessage,
    WorkerOnline,
)
from aiocluster.ipc.channel import Channel
from aiocluster.ipc.handover import WorkerState
from aiocluster.ipc.messages import (
    BootFailed,
    Drain,
    Drained,
    DrainRequest,
    FromWorker,
    Lead,
    Listen,
    Message,
    Online,
    Ready,
    ReportMetrics,
    RoomAgain,
    Serving,
    Subscribe,
    Unlisten,
    Unsubscribe,
    UserMessage,
)
from aiocluster.ipc.stacks import STACKS_SIGNAL, StackFile
from aiocluster.metrics.snapshot import Report
from aiocluster.primary.dispatch.backend import Backend
from aiocluster.primary.processes.exit_status import ExitStatus
from aiocluster.primary.processes.process import Process
from aiocluster.primary.workers.exit_cause import ExitCause
from aiocluster.primary.workers.kill_timer import KillTimer
from aiocluster.primary.workers.phases import Phase, Trigger, advance
from aiocluster.timeouts import KILL_GRACE, running_timeout

log = logging.getLogger("aiocluster.supervisor")

# Seconds in which the last messages of a dead worker are read. A child of the worker that has
# its end of the channel would keep that open for ever.
_LAST_WORDS_TIMEOUT = 0.2


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """The description of a worker to be forked."""

    worker_id: int
    slot: int
    role: str
    generation: int
    restarts: int
    env: dict[str, str] = field(default_factory=dict)


class Owner(Protocol):
    """The owner of a handle: it decides about the worker, and gets what the worker reports."""

    addresses: tuple[tuple[str, int], ...]
    graceful_timeout: float
    idle_grace: float

    def publish(self, event: Event) -> None: ...
    def when_heard(self, heard: Callable[[], None]) -> None: ...
    def others_serve(self) -> bool: ...
    def is_last(self, worker: "WorkerHandle") -> bool: ...
    def let_go(self, worker: "WorkerHandle", reason: str) -> None: ...
    def on_ready(self, worker: "WorkerHandle") -> None: ...
    def on_unready(self, worker: "WorkerHandle") -> None: ...
    def on_lost_channel(self, worker: "WorkerHandle") -> None: ...
    def on_drain_request(self, worker: "WorkerHandle", reason: str) -> None: ...
    def on_report(self, worker: "WorkerHandle", report: Report) -> None: ...
    def on_subscribe(self, worker: "WorkerHandle", request: Subscribe | Unsubscribe) -> None: ...
    def on_server(self, worker: "WorkerHandle", message: Listen | Serving | Unlisten) -> None: ...


class WorkerHandle:
    """The object that stands for one worker: its identity, its state and its commands."""

    def __init__(
        self, spec: WorkerSpec, backend: Backend, row: int, stacks: StackFile, owner: Owner
    ) -> None:
        self.id = spec.worker_id
        self.slot = spec.slot
        self.role = spec.role
        self.generation = spec.generation
        self.restarts = spec.restarts
        self.env = spec.env
        self.phase = Phase.STARTING
        # Seconds: the fork in unix time and on the loop's clock, and when the worker became ready.
        self.started_at = self.born = self.ready_at = 0.0
        self.backend = backend
        self.row = row
        self.stacks = stacks
        self.shared: frozenset[int] = frozenset()  # listeners it can accept from
        self.channel = Channel(FromWorker, self._on_message, self._on_channel_closed, packed=True)
        self.boot_failure: BootFailed | None = None
        self.was_ready = False
        self.drain_timeout: float | None = None  # seconds; None: the owner's
        self.serves = True  # once ready: it takes connections; else it runs a job
        self.ending = ExitCause()
        self.settled: asyncio.Future[None] = asyncio.Future()  # at ready, or death before
        self.exited: asyncio.Future[WorkerExited] = asyncio.Future()
        self._owner = owner
        self._process: Process | None = None
        self._deadline = KillTimer(self.kill_for)
        self._unpaid = 0  # bytes of its messages that are not handled yet
        self._is_to_pay = False  # its credit, when they are handled
        self._disconnected = asyncio.Event()
        # What came over the channel before the worker's WorkerForked was published: that must be
        # the worker's first event.
        self._early: list[Callable[[], None]] | None = []
        backend.worker_id = spec.worker_id
        backend.room.on_fd_limit = self._on_fd_limit
        backend.on_broken = self._on_handoff_broken

    def __repr__(self) -> str:
        return f"<WorkerHandle id={self.id} slot={self.slot} pid={self.pid} {self.phase}>"

    def __str__(self) -> str:
        role = "" if self.role == ONLY_ROLE else f"{self.role} "
        return f"{role}worker {self.id} (pid {self.pid})"

    @property
    def pid(self) -> int:
        """Return the process id; 0 before the fork."""
        return self._process.pid if self._process is not None else 0

    @property
    def is_connected(self) -> bool:
        """True while messages can be exchanged with the worker."""
        return not self.channel.closed

    @property
    def is_leaving(self) -> bool:
        """True once the worker drains or has exited."""
        return self.phase in (Phase.DRAINING, Phase.EXITED)

    @property
    def is_leader(self) -> bool:
        """True while the worker leads its role: it does what must be done once."""
        return self.backend.leads

    @property
    def cut(self) -> list[str]:
        """Return what the worker had to give up at the end of a drain."""
        return self.ending.cut

    @property
    def ended_well(self) -> bool:
        """True if the worker has exited, and nothing was killed or given up for that."""
        if not self.exited.done():
            return False
        if not self.was_ready:
            return True  # the worker had begun nothing
        return self.ending.is_clean(self.exited.result())

    @property
    def is_dead(self) -> bool:
        """True once the worker's process is gone."""
        return self.phase is Phase.EXITED

    async def send(self, message: Any) -> None:
        """Send `message`; the worker's `messages()` yields it.

        A message may be None, bool, int, float, str, bytes, list, tuple, dict and datetime with a
        time zone, nested as you like; a tuple arrives as a list. Waits while the worker has too
        much unread. Raises MessageError, naming the part that cannot be sent; WorkerGone.
        """
        try:
            await self.channel.send(message)
        except ChannelClosed:
            raise WorkerGone(f"{self} is no longer connected") from None

    def drain(self, timeout: float | None = None) -> "asyncio.Future[WorkerExited]":
        """Let the worker finish what is open and exit; await the result for its WorkerExited.

        The drain begins at once, awaited or not. If no other worker serves, and one will take its
        place, the drain begins when that one is ready. What is unfinished after `timeout` seconds
        (by default `graceful_timeout`) is cut. Idempotent.
        """
        if timeout is not None:
            seconds = checked_seconds("drain: the timeout", timeout)
            known = self.drain_timeout
            self.drain_timeout = seconds if known is None else min(known, seconds)
        self._owner.let_go(self, "drain")
        return asyncio.shield(self.exited)

    def kill(self, number: int = signal.SIGTERM) -> "asyncio.Future[WorkerExited]":
        """Send the worker a signal; await the result for its WorkerExited.

        TERM makes the worker drain, and KILL ends it at once, as from a shell.
        """
        self.ending.sent_signal = number
        if number == signal.SIGTERM and self._owner.is_last(self):
            self.ending.ask("kill")  # the worker asks to drain at the signal
        elif number == signal.SIGTERM:
            self._leave("kill", self._owner.graceful_timeout)
        if self._process is not None:
            self._process.send_signal(number)
        return asyncio.shield(self.exited)

    # ---- for the supervisor

    def begin_drain(
        self, reason: str, timeout: float | None = None
    ) -> "asyncio.Future[WorkerExited]":
        """Drain the worker for `reason`. A later call may only shorten the drain.

        If other workers serve, idle connections move to them, except in a "stop", which ends all.
        """
        timeout = self.drain_timeout if timeout is None else timeout
        seconds = self._owner.graceful_timeout if timeout is None else timeout
        importing = self.phase is Phase.STARTING
        self._leave(reason, seconds)
        if not self.is_dead:
            self.backend.order_drain()
        if importing and self._process is not None:
            # The worker has no loop yet to read the message, and an import may take long.
            self._process.send_signal(signal.SIGTERM)
        stopping = reason == "stop"
        moving = not stopping and self._owner.others_serve()
        self.channel.post(Drain(seconds, moving, stopping, self._owner.idle_grace))
        return asyncio.shield(self.exited)

    def lead(self, does: bool) -> None:
        """Let the worker lead its role, or lead no more; a blocked loop does not delay that."""
        self.backend.lead(does)
        if does:
            self.channel.post(Lead())

    def disconnect(self, fault: str, timeout: float | None = None) -> None:
        """Disconnect the worker for a fault of its code; it finishes what it has. Idempotent.

        The worker is killed after `timeout` seconds, by default after those of any drain.
        """
        if not self.channel.closed:
            log.error("%s %s: it is disconnected, and replaced", self, fault)
            self.channel.abort()
        if timeout is not None:
            self._deadline.at_latest_in(timeout, "disconnected")

    def ask_for_stacks(self) -> None:
        """Let the worker write the stacks of its threads and tasks to `stacks`."""
        self.stacks.clear()
        if self._process is not None:
            self._process.send_signal(STACKS_SIGNAL)

    def kill_for(self, reason: str, stack: str = "") -> None:
        """Kill the worker for `reason`; `stack` is what it did."""
        self.ending.kill(reason, stack)
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)

    def began(self, process: Process, wall: float, now: float) -> None:
        """Note that the worker was forked."""
        self._process = process
        self.started_at = wall
        self.born = now

    def announced(self) -> None:
        """Handle what came over the channel before WorkerForked, which is published now."""
        early, self._early = self._early or [], None
        for heard in early:
            # The last of these may be the channel's end, which must be handled.
            try:
                heard()
            except ProtocolError as error:
                log.error("%s sent nonsense and is disconnected: %s", self, error)
                self.channel.abort()

    async def flush_channel(self) -> None:
        """Wait until all that a dead worker had sent is read, and it counts as disconnected."""
        try:
            async with running_timeout(_LAST_WORDS_TIMEOUT):
                await self._disconnected.wait()
        except TimeoutError:
            self.channel.abort()
            await self._disconnected.wait()

    def ended(self, status: ExitStatus) -> WorkerExited:
        """Note that the process is gone; return the worker's last event."""
        self.phase = advance(self.phase, Trigger.EXIT)
        self._deadline.cancel()
        if status.code == 0 and self.backend.was_unwired:
            self.ending.ask("disconnected")
        self.stacks.close()
        event = self.ending.event(self, status, boot_failed=self.boot_failure is not None)
        if not self.settled.done():
            self.settled.set_result(None)
        self.exited.set_result(event)
        return event

    # ---- from one program to the next

    @property
    def busy_reason(self) -> str:
        """Return what is half done with the worker, and must be over before an upgrade; or ""."""
        if self._process is None or self._process.is_dead or self.backend.is_closed:
            return f"{self} is ending"
        if self.channel.closed:
            return "" if self._disconnected.is_set() else f"{self} is being disconnected"
        return f"{self} does not read what is sent to it" if self.channel.unsent else ""

    def state(self) -> WorkerState:
        """Return what the next program must know of the worker."""
        assert self._process is not None
        return WorkerState(
            worker_id=self.id,
            slot=self.slot,
            role=self.role,
            generation=self.generation,
            restarts=self.restarts,
            env=self.env,
            row=self.row,
            pid=self.pid,
            pidfd=self._process.pidfd,
            stacks=self.stacks.fd,
            backend=self.backend.state(),
            channel=None if self.channel.closed else self.channel.state(self._unpaid),
            phase=self.phase.value,
            started_at=self.started_at,
            born=self.born,
            ready_at=self.ready_at,
            was_ready=self.was_ready,
            serves=self.serves,
            boot_failure=self.boot_failure,
            has_drained=self.ending.has_drained,
            cut=self.ending.cut,
            killed=self.ending.killed,
            reason=self.ending.reason,
            sent_signal=self.ending.sent_signal,
            stack=self.ending.stack,
            deadline=self._deadline.state(),
            shared=sorted(self.shared),
        )

    def adopt(self, state: WorkerState, process: Process) -> None:
        """Take over the worker from the previous program."""
        self.began(process, state.started_at, state.born)
        self.phase = Phase(state.phase)
        self.ready_at, self.was_ready = state.ready_at, state.was_ready
        self.serves, self.boot_failure = state.serves, state.boot_failure
        self.shared = frozenset(state.shared)
        self.ending.adopt(state)
        self.backend.adopt(state.backend)
        if self.was_ready:
            self.settled.set_result(None)
        self._deadline.adopt(state.deadline)
        if state.channel is not None:
            self.channel.adopt(state.channel)
        else:
            self.channel.close()
            self._disconnected.set()

    # ---- inside

    def _leave(self, reason: str, timeout: float) -> None:
        """Mark the worker as leaving: it gets nothing new, and is killed if it takes too long."""
        if self.is_dead:
            return
        self.ending.ask(reason)
        self.phase = advance(self.phase, Trigger.DRAIN)
        self._owner.on_unready(self)
        self._deadline.at_latest_in(timeout + KILL_GRACE, reason)

    def _on_message(self, message: Message, size: int) -> None:
        if self._early is not None:
            self._early.append(lambda: self._on_message(message, size))
            return
        match message:
            case UserMessage(payload=payload):
                self._unpaid += size
                payload.on_nonsense = self._on_nonsense
                self._owner.publish(WorkerMessage(self, payload))
                if not self._is_to_pay:
                    self._is_to_pay = True
                    self._owner.when_heard(self._pay)
            case RoomAgain():
                self.backend.room.look_again()
            case ReportMetrics(report=report):
                self._owner.on_report(self, report)
            case Subscribe() | Unsubscribe():
                self._owner.on_subscribe(self, message)
            case Listen() | Serving() | Unlisten():
                self._owner.on_server(self, message)
            case _:
                self._on_progress(message)

    def _on_nonsense(self, error: ProtocolError) -> None:
        self.disconnect(f"sent nonsense ({error})")

    def _pay(self) -> None:
        """Return the credit for the worker's messages, all of which are handled."""
        self._is_to_pay = False
        size, self._unpaid = self._unpaid, 0
        self.channel.consumed(size)

    def _on_progress(self, message: Message) -> None:
        match message:
            case Online():
                self.phase = advance(self.phase, Trigger.ONLINE)
                self._owner.publish(WorkerOnline(self))
            case Ready(serves=serves):
                self.serves = serves
                self.phase = advance(self.phase, Trigger.READY)
                self._on_ready()
            case BootFailed():
                self.boot_failure = message
            case DrainRequest(reason=reason):
                self._owner.on_drain_request(self, reason)
            case Drained(cut=cut):
                self.ending.drained(cut)
            case _:
                raise ProtocolError(f"a worker may not send {message!r}")

    def _on_ready(self) -> None:
        if self.phase is not Phase.READY:  # drained while it started
            return
        self.was_ready = True
        self.ready_at = asyncio.get_running_loop().time()
        addresses = self._owner.addresses if self.serves else ()
        self._owner.publish(WorkerListening(self, addresses))
        self._owner.on_ready(self)
        if not self.settled.done():
            self.settled.set_result(None)

    def _on_fd_limit(self, is_there: bool) -> None:
        if self.is_dead:
            return
        if is_there:
            log.warning("%s is at its limit of open files: no new connections for it", self)
        else:
            log.info("%s has room for connections again", self)
        self._owner.publish(WorkerAtFdLimit(self) if is_there else WorkerBelowFdLimit(self))

    def _on_handoff_broken(self, why: str) -> None:
        if not self.is_dead:
            self.disconnect(f"has broken its handoff ({why})")

    def _on_channel_closed(self, error: ProtocolError | None) -> None:
        if self._early is not None:
            self._early.append(lambda: self._on_channel_closed(error))
            return
        if error is not None:
            log.error("%s sent nonsense and is disconnected: %s", self, error)
        if self.phase is not Phase.DRAINING and not self.is_dead:
            # The worker crashed, or closed its channel: either way no message reaches it any more.
            self._on_lost_channel()
        self._disconnected.set()
        sent = self.ending.sent_signal
        died_of = sent if sent == signal.SIGKILL else None
        self._owner.publish(WorkerDisconnected(self, self.ending.is_voluntary(died_of)))

    def _on_lost_channel(self) -> None:
        """Take the worker out of service: mostly it is dying, else it drains in the usual time."""
        self._owner.on_unready(self)
        self._owner.on_lost_channel(self)
        self._deadline.at_latest_in(self._owner.graceful_timeout + KILL_GRACE, "disconnected")

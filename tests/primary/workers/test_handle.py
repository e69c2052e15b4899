"""A worker seen from the primary; the test plays the worker, at the far end of real sockets."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from aiocluster.errors import MessageError, ProtocolError, WorkerGone
from aiocluster.events import (
    WorkerAtFdLimit,
    WorkerBelowFdLimit,
    WorkerDisconnected,
    WorkerExited,
    WorkerListening,
    WorkerMessage,
    WorkerOnline,
)
from aiocluster.ipc.messages import (
    BootFailed,
    Drain,
    Drained,
    DrainRequest,
    Endpoint,
    Listen,
    Online,
    Ready,
    ReportMetrics,
    Serving,
    Subscribe,
    Unlisten,
    Unsubscribe,
    UserMessage,
)
from aiocluster.ipc.scoreboard import UNWIRED
from aiocluster.ipc.stacks import STACKS_SIGNAL, StackFile
from aiocluster.metrics.snapshot import Report
from aiocluster.primary.processes.exit_status import ExitStatus
from aiocluster.primary.workers.handle import WorkerHandle, WorkerSpec
from aiocluster.primary.workers.phases import Phase
from tests.support.waiting import soon, turns, turns_until
from tests.support.workers import FakeOwner, FakeProcess, FakeWorker, let_go, play_worker

REPORT = Report(latency={}, lag_mean=0.0, lag_max=0.0, cpu_percent=0.0, rss_bytes=1, pss_bytes=1)


class Stage:
    """One worker, both sides."""

    def __init__(self, owner: FakeOwner, handle: WorkerHandle, worker: FakeWorker) -> None:
        self.owner, self.handle, self.worker = owner, handle, worker

    async def ready(self) -> None:
        """Bring it up."""
        self.handle.announced()
        self.worker.boot()
        await turns_until(lambda: self.handle.was_ready)

    async def exited(self) -> WorkerExited:
        """Do as the supervisor does when its process is dead; return how it ended."""
        status = await soon(self.worker.process.wait())
        await soon(self.handle.flush_channel())
        return self.handle.ended(status)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    owner = FakeOwner()
    handle, worker = await play_worker(owner)
    yield Stage(owner, handle, worker)
    let_go(handle, worker)
    await turns()


# ---- what is heard


async def test_a_term_to_the_last_one_makes_it_ask(stage: Stage) -> None:
    """Another is to serve before it goes; what it goes for is known already."""
    stage.owner.keeps_last = True
    await stage.ready()

    stage.handle.kill()

    assert stage.handle.phase is Phase.READY
    assert await soon(stage.worker.process.signals.get()) == signal.SIGTERM
    assert stage.handle.ending.reason == "kill"


async def test_a_life_is_told_in_order(stage: Stage) -> None:
    """Online, listening with the addresses, its messages, disconnected, exited."""
    await stage.ready()
    await stage.worker.channel.send("hello")
    assert await stage.owner.event() == WorkerOnline(stage.handle)
    assert await stage.owner.event() == WorkerListening(stage.handle, (("127.0.0.1", 8000),))
    assert await stage.owner.event() == WorkerMessage(stage.handle, "hello")
    stage.worker.exit(1)

    exited = await stage.exited()

    assert await stage.owner.event() == WorkerDisconnected(stage.handle, voluntary=False)
    assert exited == WorkerExited(stage.handle, 1, None, False, "crash")


async def test_nothing_is_heard_before_it_is_announced(stage: Stage) -> None:
    """Nobody hears of a worker before its WorkerForked; then nothing is missing."""
    stage.worker.boot()
    await stage.worker.channel.send("early")
    stage.worker.channel.close()
    await soon(stage.worker.disconnected.wait())
    await turns(20)
    assert stage.owner.log == []

    stage.handle.announced()

    assert stage.owner.log == [
        "WorkerOnline",
        "WorkerListening",
        "ready",
        "WorkerMessage",
        "unready",
        "WorkerDisconnected",
    ]


async def test_it_follows_the_life_cycle(stage: Stage) -> None:
    """The phase is what the worker said, and what was asked of it."""
    phases = [stage.handle.phase]
    stage.handle.announced()
    stage.worker.say(Online())
    await stage.owner.event()
    phases.append(stage.handle.phase)
    stage.worker.say(Ready())
    await stage.owner.event()
    phases.append(stage.handle.phase)
    stage.handle.drain()
    phases.append(stage.handle.phase)
    stage.worker.exit(0)
    await stage.exited()

    assert [*phases, stage.handle.phase] == list(Phase)
    assert stage.handle.is_dead


async def test_it_settles_when_it_is_ready(stage: Stage) -> None:
    """Who waits for the start of a worker need not wait for its end."""
    assert not stage.handle.settled.done()
    await stage.ready()

    assert stage.handle.settled.done()


async def test_it_settles_when_it_dies_before(stage: Stage) -> None:
    """Who waits for the start of a worker does not wait for ever."""
    stage.handle.announced()
    stage.worker.exit(1)
    await stage.exited()

    assert stage.handle.settled.done()
    assert not stage.handle.was_ready


async def test_its_last_words_are_heard(stage: Stage) -> None:
    """What a worker sent before it died is not lost."""
    await stage.ready()
    for number in range(3):
        await stage.worker.channel.send(number)
    stage.worker.say(Drained(["GET /slow"]))
    stage.worker.die_of(signal.SIGSEGV)

    exited = await stage.exited()

    assert stage.owner.log.count("WorkerMessage") == 3
    assert stage.handle.ending.cut == ["GET /slow"]
    assert exited == WorkerExited(stage.handle, None, signal.SIGSEGV, False, "signal")


async def test_a_channel_that_a_grandchild_keeps_open_does_not_hold_up_the_end(
    stage: Stage,
) -> None:
    """The process is dead: after a moment its channel counts as closed."""
    await stage.ready()
    stage.worker.process.on_end = lambda: None  # the channel's far end stays open
    stage.worker.exit(0)

    await stage.exited()

    assert stage.owner.log[-1] == "WorkerDisconnected"


async def test_reports_and_subscriptions_reach_the_owner(stage: Stage) -> None:
    """What is not this handle's business is passed on."""
    await stage.ready()
    stage.worker.say(ReportMetrics(REPORT), Subscribe(7, 0.5), Unsubscribe(7))

    assert await soon(stage.owner.subscriptions.get()) == Subscribe(7, 0.5)
    assert await soon(stage.owner.subscriptions.get()) == Unsubscribe(7)
    assert stage.owner.reports == [REPORT]


async def test_what_it_wants_for_servers_of_its_own_reaches_the_owner(stage: Stage) -> None:
    """In its order."""
    await stage.ready()
    stage.worker.say(Listen(1, [Endpoint(2, "127.0.0.1", 0)], 0, 100), Serving(254), Unlisten(254))

    await turns_until(lambda: len(stage.owner.wanted) == 3)
    assert stage.owner.wanted[1:] == [Serving(254), Unlisten(254)]


async def test_a_request_to_drain_is_the_owners_to_decide(stage: Stage) -> None:
    """The worker asks; nothing happens to it until somebody says so."""
    await stage.ready()
    stage.worker.say(DrainRequest("max_requests"))

    assert await soon(stage.owner.requests.get()) == "max_requests"
    assert stage.handle.phase is Phase.READY


async def test_a_message_is_paid_for_when_it_was_heard(stage: Stage) -> None:
    """Until subscribers have read, the worker's window is not opened again."""
    await stage.ready()
    big = b"x" * 400_000
    for _ in range(2):
        await stage.worker.channel.send(big)
    third = asyncio.ensure_future(stage.worker.channel.send(big))
    await turns_until(lambda: stage.owner.log.count("WorkerMessage") == 2)
    await turns(20)
    assert not third.done()

    # Once for all of them: thousands may be paid for in one turn of the loop.
    (heard,) = stage.owner.unheard
    heard()

    await soon(third)


async def test_messages_reach_the_worker(stage: Stage) -> None:
    """`send` from before the worker is ready, in order."""
    await stage.handle.send({"config": 1})
    await stage.handle.send((1, 2))

    assert await stage.worker.hear() == UserMessage({"config": 1})
    assert await stage.worker.hear() == UserMessage([1, 2])


async def test_a_message_that_cannot_be_sent_is_the_senders_fault(stage: Stage) -> None:
    """It is named, and the channel stays as it was."""
    with pytest.raises(MessageError, match=r"message\['a'\]"):
        await stage.handle.send({"a": object()})
    await stage.handle.send("fine")

    assert await stage.worker.hear() == UserMessage("fine")


async def test_sending_to_a_worker_that_is_gone_says_so(stage: Stage) -> None:
    """A message to nobody is not silently dropped."""
    await stage.ready()
    stage.worker.exit(0)
    await stage.exited()

    with pytest.raises(WorkerGone, match=r"worker 1 \(pid \d+\) is no longer connected"):
        await stage.handle.send("hello?")


@pytest.mark.parametrize(
    "nonsense",
    [b"GET / HTTP/1.1\r\n\r\n", b"\xc1", b"\x93\x28\x01\xc3", b"\x91\xcd\x03\xe7"],
    ids=["http", "no msgpack", "what only a primary may send", "unknown"],
)
async def test_nonsense_disconnects_the_worker(
    stage: Stage, nonsense: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the worker is given nothing more."""
    await stage.ready()

    assert stage.worker.channel._transport is not None
    stage.worker.channel._transport.write(nonsense)
    await soon(stage.worker.disconnected.wait())
    await turns_until(lambda: stage.owner.log[-1] == "WorkerDisconnected")

    assert "sent nonsense and is disconnected" in caplog.text
    assert stage.owner.log[-2:] == ["unready", "WorkerDisconnected"]
    assert not stage.handle.is_connected


async def test_a_broken_handoff_disconnects_the_worker(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, however often it is broken."""
    await stage.ready()
    stage.worker.handoff.send(b"")
    stage.worker.handoff.send(b"")
    await soon(stage.worker.disconnected.wait())
    await turns_until(lambda: stage.owner.log[-1] == "WorkerDisconnected")

    assert caplog.text.count("has broken its handoff") == 1
    assert stage.owner.disconnected == [stage.handle.id]
    assert stage.owner.log[-2:] == ["unready", "WorkerDisconnected"]


async def test_a_message_that_is_none_disconnects_the_worker_when_it_is_read(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """On its way nobody looks at it: it may be large, and mostly nobody reads it here."""
    await stage.ready()
    while not isinstance(await stage.owner.event(), WorkerListening):
        pass
    assert stage.worker.channel._transport is not None
    stage.worker.channel._transport.write(b"\x14\0\0\0\1\xc1")
    event = await stage.owner.event()
    assert isinstance(event, WorkerMessage)
    assert stage.handle.is_connected
    for _ in range(2):
        with pytest.raises(ProtocolError):
            _ = event.message

    assert caplog.text.count("sent nonsense (not a message: ") == 1
    await soon(stage.worker.disconnected.wait())


async def test_what_comes_out_of_turn_disconnects_the_worker(stage: Stage) -> None:
    """A worker that is ready cannot become ready once more."""
    await stage.ready()
    stage.worker.say(Ready())

    await soon(stage.worker.disconnected.wait())
    assert not stage.handle.is_connected


# ---- what is asked of it


async def test_drain_takes_effect_at_once_and_may_be_asked_again(stage: Stage) -> None:
    """From the call on it gets nothing new; the result can be awaited by many."""
    await stage.ready()
    first, second = stage.handle.drain(5.0), stage.handle.drain(5.0)
    assert stage.owner.log[-1] == "unready"
    assert await stage.worker.hear() == Drain(5.0, moving=False)

    stage.worker.exit(0)
    exited = await stage.exited()

    assert await soon(first) is await soon(second) is exited


async def test_drain_has_the_usual_timeout(stage: Stage) -> None:
    """Unless another is given it is `graceful_timeout`."""
    await stage.ready()
    stage.handle.drain()

    assert await stage.worker.hear() == Drain(30.0, moving=False)


@pytest.mark.parametrize("reason", ["stop", "drain", "reload", "max_requests", "kill"])
async def test_only_a_stop_ends_the_whole_service(stage: Stage, reason: str) -> None:
    """Whether others serve at that moment says nothing about it: a successor may follow."""
    await stage.ready()
    stage.handle.begin_drain(reason, 5.0)

    stopping = reason == "stop"
    assert await stage.worker.hear() == Drain(5.0, moving=False, stopping=stopping)


async def test_who_stops_waiting_for_a_drain_does_not_stop_the_drain(stage: Stage) -> None:
    """A cancelled wait is nobody else's business."""
    await stage.ready()
    impatient, patient = stage.handle.drain(), stage.handle.drain()
    impatient.cancel()
    stage.worker.exit(0)

    assert await stage.exited() is await soon(patient)


async def test_a_worker_that_is_dead_can_be_drained_and_killed(stage: Stage) -> None:
    """It changes nothing, and tells how it ended."""
    await stage.ready()
    stage.worker.exit(0)
    exited = await stage.exited()

    assert await soon(stage.handle.drain()) is exited
    assert await soon(stage.handle.kill(signal.SIGKILL)) is exited
    assert await soon(stage.handle.kill()) is exited


async def test_kill_sends_the_signal(stage: Stage) -> None:
    """TERM unless another is given; a signal that does not end it changes nothing else."""
    await stage.ready()
    stage.handle.kill(signal.SIGUSR1)
    phases = [stage.handle.phase]

    stage.handle.kill()

    assert [*phases, stage.handle.phase] == [Phase.READY, Phase.DRAINING]
    assert [stage.worker.process.signals.get_nowait() for _ in range(2)] == [
        signal.SIGUSR1,
        signal.SIGTERM,
    ]


async def test_one_told_to_drain_while_it_starts_never_listens(stage: Stage) -> None:
    """Its Ready crossed our Drain: it is given nothing."""
    stage.handle.announced()
    stage.handle.drain()
    stage.worker.boot()
    stage.worker.exit(0)
    exited = await stage.exited()

    assert stage.owner.log == ["unready", "WorkerOnline", "WorkerDisconnected"]
    assert exited.reason == "drain"


async def test_one_that_may_still_import_is_told_to_drain_by_a_signal(stage: Stage) -> None:
    """It has no loop yet that would read the message; once it has one, it reads that."""
    stage.handle.announced()
    stage.handle.drain()
    stage.handle.drain()

    assert await soon(stage.worker.process.signals.get()) == signal.SIGTERM
    assert stage.worker.process.signals.empty()
    assert await stage.worker.hear() == Drain(30.0, moving=False)


async def test_one_whose_loop_runs_is_told_to_drain_by_a_message(stage: Stage) -> None:
    """A signal would only say less."""
    await stage.ready()
    stage.handle.drain()
    assert await stage.worker.hear() == Drain(30.0, moving=False)

    assert stage.worker.process.signals.empty()


@pytest.mark.parametrize("ask", ["drain", "kill"])
async def test_one_that_does_not_end_in_time_is_killed(
    stage: Stage, ask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every wait has an end: the timeout, and a grace for the app's clean-up."""
    monkeypatch.setattr("aiocluster.primary.workers.handle.KILL_GRACE", 0.01)
    stage.owner.graceful_timeout = 0.0
    await stage.ready()

    getattr(stage.handle, ask)()
    exited = await stage.exited()

    assert stage.handle.ending.killed
    assert exited == WorkerExited(stage.handle, None, signal.SIGKILL, True, ask)


async def test_one_that_lost_its_channel_is_given_time_and_then_killed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that cannot be talked to is not kept for ever."""
    monkeypatch.setattr("aiocluster.primary.workers.handle.KILL_GRACE", 0.01)
    stage.owner.graceful_timeout = 0.0
    await stage.ready()

    stage.worker.channel.close()
    exited = await stage.exited()

    assert stage.owner.log[-2:] == ["unready", "WorkerDisconnected"]
    assert (exited.signal, exited.reason) == (signal.SIGKILL, "disconnected")


@pytest.mark.parametrize(
    ("code", "unwired", "reason"),
    [(0, 1, "disconnected"), (0, 0, "exit"), (1, 1, "crash"), (0, 2**64 - 1, "exit")],
)
async def test_one_that_lost_a_wire_and_finished_says_so(
    stage: Stage, code: int, unwired: int, reason: str
) -> None:
    """It exits with 0, as all is finished; yet nobody has asked it to."""
    await stage.ready()
    stage.worker.row[UNWIRED] = unwired
    stage.worker.exit(code)

    exited = await stage.exited()

    assert (exited.reason, exited.voluntary) == (reason, False)


async def test_a_deadline_ends_with_the_worker(stage: Stage) -> None:
    """One that ended in time is not killed afterwards."""
    await stage.ready()
    stage.handle.drain()
    stage.worker.exit(0)
    await stage.exited()

    assert stage.handle._deadline.state() is None


# ---- how it ended

BY_TERM = ExitStatus(None, signal.SIGTERM)
BY_KILL = ExitStatus(None, signal.SIGKILL)


@pytest.mark.parametrize(
    ("asked", "status", "reason", "voluntary"),
    [
        ("drain", ExitStatus(0, None), "drain", True),
        ("drain", ExitStatus(1, None), "drain", True),
        ("drain", BY_KILL, "drain", True),
        ("kill TERM", ExitStatus(0, None), "kill", True),
        ("kill TERM", BY_TERM, "kill", True),
        ("kill KILL", BY_KILL, "kill", True),
        ("kill USR1", ExitStatus(None, signal.SIGUSR1), "kill", True),
        ("kill USR1", ExitStatus(1, None), "crash", False),
        ("kill USR1", BY_KILL, "signal", False),
        ("drain, kill TERM", ExitStatus(0, None), "drain", True),
        ("kill TERM, kill KILL", BY_KILL, "kill", True),
        ("", ExitStatus(0, None), "exit", False),
        ("", ExitStatus(1, None), "crash", False),
        ("", ExitStatus(255, None), "crash", False),
        ("", BY_TERM, "signal", False),
        ("", BY_KILL, "signal", False),
        ("", ExitStatus(None, signal.SIGSEGV), "signal", False),
        ("", ExitStatus(None, None), "crash", False),
        ("stop", ExitStatus(0, None), "stop", True),
        ("max_requests", ExitStatus(0, None), "max_requests", True),
        ("boot timeout", BY_KILL, "boot_timeout", False),
    ],
)
async def test_the_event_says_why_it_ended_and_whether_it_was_asked_to(
    stage: Stage, asked: str, status: ExitStatus, reason: str, voluntary: bool
) -> None:
    """`voluntary` tells a deploy or an operator from a crash; `reason` tells which."""
    await stage.ready()
    stage.worker.process.is_stubborn = True
    for order in filter(None, asked.split(", ")):
        match order.split():
            case ["drain"]:
                stage.handle.drain()
            case ["kill", name]:
                stage.handle.kill(signal.Signals[f"SIG{name}"])
            case ["boot", "timeout"]:
                stage.handle.kill_for("boot_timeout")
            case _:
                stage.handle.begin_drain(order)
    stage.worker.process.end(status)

    assert await stage.exited() == WorkerExited(
        stage.handle, status.code, status.signal, voluntary, reason
    )


async def test_one_that_hung_has_its_stack_in_its_end(stage: Stage) -> None:
    """A deadline that passes while it dies takes nothing from that, nor from the reason."""
    await stage.ready()
    stage.worker.process.is_stubborn = True
    stage.handle.kill_for("hang", "in slow_function")
    stage.handle.kill_for("stop")
    stage.worker.process.end(BY_KILL)

    exited = await stage.exited()

    assert exited == WorkerExited(
        stage.handle, None, signal.SIGKILL, False, "hang", "in slow_function"
    )


async def test_asked_for_its_stacks_it_gets_a_signal_and_an_empty_file(stage: Stage) -> None:
    """What it may have written before is no answer."""
    os.write(stage.handle.stacks.fd, b"late")

    stage.handle.ask_for_stacks()

    assert await soon(stage.worker.process.signals.get()) == STACKS_SIGNAL
    assert stage.handle.stacks.take() == ""


async def test_its_stack_file_ends_with_it(stage: Stage) -> None:
    """Asked afterwards it says nothing, to nobody."""
    stage.handle.announced()
    stage.worker.exit(0)
    await stage.exited()

    stage.handle.ask_for_stacks()

    assert stage.handle.stacks.fd < 0


async def test_its_limit_of_open_files_is_told_each_way(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """As an event and in the log; but nothing of a worker that has ended."""
    await stage.ready()
    for _ in range(2):
        await stage.owner.event()
    stage.handle.backend.room.on_fd_limit(True)
    stage.handle.backend.room.on_fd_limit(False)

    assert await stage.owner.event() == WorkerAtFdLimit(stage.handle)
    assert await stage.owner.event() == WorkerBelowFdLimit(stage.handle)
    assert "is at its limit of open files" in caplog.text

    stage.worker.exit(0)
    await stage.exited()
    heard = len(stage.owner.log)
    stage.handle.backend.room.on_fd_limit(True)
    assert len(stage.owner.log) == heard


async def test_one_that_could_not_boot_says_so(stage: Stage) -> None:
    """The cause is kept, with its traceback, and it is not voluntary."""
    stage.handle.announced()
    stage.worker.fail_to_boot("ValueError: no database", "Traceback …")

    exited = await stage.exited()

    assert stage.handle.boot_failure == BootFailed("ValueError: no database", "Traceback …")
    assert exited == WorkerExited(stage.handle, 3, None, False, "boot_failed")


@pytest.mark.parametrize(
    ("ask", "voluntary"),
    [
        (lambda handle: None, False),
        (lambda handle: handle.drain(), True),
        (lambda handle: handle.kill(signal.SIGKILL), True),
        (lambda handle: handle.kill_for("boot_timeout"), False),
        (lambda handle: handle.begin_drain("memory_limit"), True),
        (lambda handle: handle.kill_for("memory_limit"), False),
    ],
    ids=["crash", "drain", "kill", "boot timeout", "too large", "far too large"],
)
async def test_both_ends_of_a_life_agree_on_voluntary(
    stage: Stage, ask: Any, voluntary: bool
) -> None:
    """WorkerDisconnected and WorkerExited tell the same."""
    await stage.ready()
    for _ in range(2):
        await stage.owner.event()
    ask(stage.handle)
    stage.worker.die_of(signal.SIGKILL)

    exited = await stage.exited()

    assert await stage.owner.event() == WorkerDisconnected(stage.handle, voluntary)
    assert exited.voluntary is voluntary


async def test_it_is_named_by_id_and_pid(stage: Stage) -> None:
    """Logs and debuggers show which worker is meant."""
    pid = stage.worker.process.pid

    assert str(stage.handle) == f"worker 1 (pid {pid})"
    assert repr(stage.handle) == f"<WorkerHandle id=1 slot=0 pid={pid} starting>"


async def test_a_second_drain_never_moves_the_deadline_away(stage: Stage) -> None:
    """Asked again, it may only get quicker."""
    await stage.ready()
    stage.handle.drain(1.0)
    first = _end(stage)

    stage.handle.drain(100.0)
    assert _end(stage) == pytest.approx(first)

    stage.handle.drain(0.5)
    assert _end(stage) < first


def _end(stage: Stage) -> float:
    state = stage.handle._deadline.state()
    assert state is not None
    return state[0]


@pytest.mark.parametrize("fault", ["hang", "memory_limit"])
async def test_a_fault_of_its_own_is_told_also_while_it_drains(stage: Stage, fault: str) -> None:
    """Whatever it was told to go for, that is not why it ended."""
    await stage.ready()
    stage.handle.begin_drain("reload")

    stage.handle.kill_for(fault)
    exited = stage.handle.ended(ExitStatus(None, signal.SIGKILL))

    assert (exited.reason, exited.voluntary) == (fault, False)


async def test_another_program_takes_it_over_as_it_is(stage: Stage) -> None:
    """Its phase, its deadline, why it goes, and what it could not finish."""
    await stage.ready()
    stage.handle.begin_drain("reload", 5.0)
    stage.worker.say(Drained(["GET /slow"]))
    await turns_until(lambda: bool(stage.handle.ending.cut) and not stage.handle.busy_reason)
    state = stage.handle.state()
    other, far = await play_worker(stage.owner, worker_id=1)
    let_go(other, far)
    spec, stacks = WorkerSpec(1, 0, "web", 1, 0), StackFile(os.dup(state.stacks))
    adopted = WorkerHandle(spec, other.backend, state.row, stacks, stage.owner)
    adopted.adopt(msgspec.structs.replace(state, channel=None), FakeProcess())

    assert adopted.phase is Phase.DRAINING
    assert adopted.was_ready
    assert adopted.settled.done()
    assert adopted.ending.cut == ["GET /slow"]
    assert not adopted.is_connected
    again = msgspec.structs.replace(
        adopted.state(), backend=state.backend, channel=state.channel, stacks=state.stacks
    )
    (when, reason), (was, _) = adopted.state().deadline or (0, ""), state.deadline or (0, "")
    assert when == pytest.approx(was, abs=0.1)
    assert reason == "reload"
    assert (
        msgspec.structs.replace(again, deadline=state.deadline, pid=state.pid, pidfd=state.pidfd)
        == state
    )
    assert adopted.ended(ExitStatus(0, None)).reason == "reload"


async def test_what_must_be_over_before_an_upgrade(stage: Stage) -> None:
    """A worker that does not read, one that is being disconnected, one that is dying."""
    await stage.ready()
    assert stage.handle.busy_reason == ""
    transport = stage.worker.channel._transport
    assert transport is not None
    transport.pause_reading()
    await stage.handle.send("x" * 900_000)
    assert "does not read what is sent to it" in stage.handle.busy_reason
    transport.resume_reading()
    await turns_until(lambda: not stage.handle.busy_reason)
    stage.handle.channel.close()
    assert "is being disconnected" in stage.handle.busy_reason
    await turns_until(lambda: not stage.handle.busy_reason)
    stage.worker.exit(0)
    assert "is ending" in stage.handle.busy_reason


async def test_messages_that_nobody_has_heard_are_owed(stage: Stage) -> None:
    """Or the worker's window would be smaller after each upgrade."""
    await stage.ready()
    await stage.worker.channel.send("x" * 100)
    await turns_until(lambda: bool(stage.owner.unheard))
    state = stage.handle.state()
    assert state.channel is not None
    assert state.channel.owed > 100
    stage.owner.unheard.pop()()
    assert stage.handle.state().channel == state.channel

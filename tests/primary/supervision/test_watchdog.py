"""What the watchdog does about blocked workers. Time is made up; the wires are real."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aiocluster.config.settings import settings_from
from aiocluster.events import Event, WorkerBlocked
from aiocluster.ipc.messages import Online, Ready
from aiocluster.ipc.scoreboard import CONNECTIONS_TAKEN, HEARTBEAT
from aiocluster.ipc.stacks import END, STACKS_SIGNAL
from aiocluster.policies.round_robin import RoundRobin
from aiocluster.primary.dispatch.dispatcher import Dispatcher
from aiocluster.primary.supervision.watchdog import Watchdog
from aiocluster.primary.workers.handle import WorkerHandle
from tests.support.connections import at_fd_limit, close_all, connections, open_fds
from tests.support.waiting import soon, turns_until
from tests.support.workers import FakeOwner, FakeWorker, let_go, play_worker


class Stage:
    """A watchdog over workers whose hearts and hands the test plays."""

    def __init__(self, **settings: Any) -> None:
        self.owner = FakeOwner()
        self.handles: dict[int, WorkerHandle] = {}
        self.workers: list[FakeWorker] = []
        self.heard: asyncio.Queue[Event] = asyncio.Queue()
        self.dispatcher = Dispatcher(RoundRobin(), lambda: None, lambda: None)
        self.watchdog = Watchdog(
            settings_from(settings),
            self.owner.scoreboard,
            self.dispatcher,
            self.handles,
            self.heard.put_nowait,
        )
        self.now = 1000.0
        self.beats = 0
        self.watchdog.look(self.now)

    async def add(self, count: int, *, ready: bool = True) -> None:
        for _ in range(count):
            number = len(self.workers)
            handle, worker = await play_worker(self.owner, number + 1, number)
            handle.announced()
            self.handles[handle.id] = handle
            self.workers.append(worker)
            if ready:
                worker.say(Online(), Ready())
                await soon(asyncio.shield(handle.settled))
                self.dispatcher.add(handle.backend)
        self.dispatcher.update(self.now)
        self.beat(*range(len(self.workers)))

    def give(self, count: int) -> None:
        self.dispatcher.dispatch(connections(count), self.now)

    def take(self, index: int) -> int:
        """Take what a worker was given, as a healthy one does at once; return how many."""
        taken = self.workers[index].taken()
        for fd, _ in taken:
            os.close(fd)
        self.workers[index].row[CONNECTIONS_TAKEN] += len(taken)
        return len(taken)

    def beat(self, *indices: int) -> None:
        self.beats += 1
        for index in indices:
            self.workers[index].row[HEARTBEAT] = self.beats

    def run(self, seconds: float, *beating: int) -> None:
        """Look as often as the watchdog wants to, while these workers beat and take."""
        end = self.now + seconds
        while self.now < end:
            self.beat(*beating)
            for index in beating:
                self.take(index)
            self.now += self.watchdog._pause
            self.watchdog.look(self.now)

    def queued(self) -> list[int]:
        return [handle.backend.queued for handle in self.handles.values()]

    async def signal_of(self, index: int) -> int:
        return await soon(self.workers[index].process.signals.get())

    def answer(self, index: int, text: bytes) -> None:
        """Write stacks, as the worker with this index."""
        os.write(self.handles[index + 1].stacks.fd, text)

    async def close(self) -> None:
        self.watchdog.close()
        for handle, worker in zip(self.handles.values(), self.workers, strict=True):
            let_go(handle, worker)


MakeStage = Callable[..., Stage]


@pytest.fixture
async def make_stage() -> AsyncIterator[MakeStage]:
    stages: list[Stage] = []

    def make(**settings: Any) -> Stage:
        stages.append(Stage(**settings))
        return stages[-1]

    yield make
    for stage in stages:
        await stage.close()


# ---- stealing


async def test_what_a_blocked_worker_has_not_taken_goes_to_another(make_stage: MakeStage) -> None:
    """In time for the other to answer within steal_after, and not earlier than need be."""
    stage = make_stage()
    await stage.add(2)
    stage.give(10)
    assert stage.queued() == [5, 5]
    given_at = stage.now

    while stage.queued()[0]:
        stage.run(0.001, 1)

    assert 0.15 < stage.now - given_at <= 0.22
    assert stage.handles[1].backend.sent == 0
    assert stage.queued() == [0, 5]
    assert stage.take(1) == 5


async def test_a_worker_that_was_robbed_is_given_nothing_until_it_turns(
    make_stage: MakeStage,
) -> None:
    """Its empty queue says nothing good of it; the next beat does."""
    stage = make_stage()
    await stage.add(2)
    stage.give(2)
    stage.run(0.3, 1)

    stage.give(6)
    assert stage.queued() == [0, 6]

    stage.take(1)
    stage.run(0.1, 0, 1)
    stage.give(2)
    assert stage.queued() == [1, 1]


async def test_a_worker_whose_heart_stalls_is_passed_over_before_it_is_given_anything(
    make_stage: MakeStage,
) -> None:
    """No client has to wait to find out."""
    stage = make_stage()
    await stage.add(2)
    stage.run(0.4, 1)

    stage.give(4)

    assert stage.queued() == [0, 4]


async def test_where_all_are_blocked_nothing_is_stolen(make_stage: MakeStage) -> None:
    """It would only come back; as soon as one turns, it gets what the others hold up."""
    stage = make_stage()
    await stage.add(2)
    stage.give(4)
    stage.run(1.0)
    assert [handle.backend.sent for handle in stage.handles.values()] == [2, 2]

    stage.run(0.5, 1)

    assert stage.queued()[0] == 0
    assert stage.handles[2].backend.sent == 4


async def test_a_single_worker_keeps_its_connections(make_stage: MakeStage) -> None:
    """There is nobody else, and looking does not become more frequent for that."""
    stage = make_stage()
    await stage.add(1)
    stage.give(3)
    stage.run(1.0)

    assert stage.queued() == [3]
    assert stage.watchdog._pause == pytest.approx(0.1)


async def test_nothing_is_stolen_where_there_is_no_descriptor_for_it(
    make_stage: MakeStage,
) -> None:
    """The kernel would destroy what the primary has no room for; it waits instead."""
    stage = make_stage()
    await stage.add(2)
    stage.give(60)
    stage.take(1)
    with at_fd_limit(free=20):
        stage.run(1.0, 1)
        assert stage.queued() == [30, 0]

    stage.run(0.2, 1)

    assert stage.handles[2].backend.sent == 60


async def test_a_worker_that_drains_is_robbed_too(make_stage: MakeStage) -> None:
    """It may be blocked for longer than its clients want to wait."""
    stage = make_stage()
    await stage.add(2)
    stage.give(2)
    stage.dispatcher.remove(stage.handles[1].backend)
    stage.handles[1].begin_drain("drain")
    stage.dispatcher.update(stage.now)

    stage.run(0.3, 1)

    assert stage.handles[2].backend.sent == 2


async def test_a_paused_primary_steals_nothing_from_those_that_were_paused_too(
    make_stage: MakeStage,
) -> None:
    """An hour's sleep is no hour in which a worker took nothing."""
    stage = make_stage()
    await stage.add(2)
    stage.run(0.3, 0, 1)
    stage.give(2)
    stage.now += 3600.0
    stage.watchdog.look(stage.now)

    assert [handle.backend.sent for handle in stage.handles.values()] == [1, 1]
    assert not any(handle.backend.is_stuck for handle in stage.handles.values())


# ---- loops that do not turn


async def test_a_lag_is_told_with_its_stack_and_kills_nobody(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, as an event and in the log."""
    stage = make_stage()
    await stage.add(1)
    stage.run(1.5)
    assert await stage.signal_of(0) == STACKS_SIGNAL
    stage.answer(0, b"in slow_function\n" + END)

    event = await soon(stage.heard.get())

    assert event == WorkerBlocked(stage.handles[1], event.seconds, "in slow_function")  # type: ignore[attr-defined]
    stage.run(20.0)
    await turns_until(lambda: not stage.watchdog._examinations)
    assert stage.workers[0].process.signals.empty()
    assert stage.heard.empty()
    assert caplog.text.count("in slow_function") == 1
    assert "has not turned for 1." in caplog.text


@pytest.mark.parametrize(("level", "is_all"), [("INFO", False), ("DEBUG", True)])
async def test_the_log_has_the_loops_stack_and_the_event_has_all(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture, level: str, is_all: bool
) -> None:
    """With the level `debug`, the log has all as well."""
    caplog.set_level(level, "aiocluster.watchdog")
    stage = make_stage()
    await stage.add(1)
    stage.run(1.5)
    assert await stage.signal_of(0) == STACKS_SIGNAL
    threads = [f"Thread 0x{name} (most recent call first):\n  in {name}\n" for name in "ab"]
    stage.answer(0, "\n".join(threads).encode() + END)

    event = await soon(stage.heard.get())

    assert isinstance(event, WorkerBlocked)
    assert ("  in a\n" in event.stack, "  in b" in event.stack) == (True, True)
    assert ("  in a\n" in caplog.text, "  in b\n" in caplog.text) == (is_all, True)
    assert ("(other threads: 1, tasks: 0): all are in" in caplog.text) == (not is_all)


async def test_a_hang_is_told_with_its_stack_and_killed(make_stage: MakeStage) -> None:
    """The event of its end has the stack and the reason."""
    stage = make_stage(lag_warning=0, hang_timeout=2.0)
    await stage.add(2)
    stage.run(2.5, 1)
    assert await stage.signal_of(0) == STACKS_SIGNAL
    stage.answer(0, b"in endless_loop\n" + END)

    event = await soon(stage.heard.get())
    assert await stage.signal_of(0) == signal.SIGKILL
    exited = stage.handles[1].ended(await stage.workers[0].process.wait())

    assert isinstance(event, WorkerBlocked)
    assert (exited.reason, exited.voluntary, exited.stack) == ("hang", False, "in endless_loop")
    assert stage.workers[1].process.signals.empty()


async def test_one_that_gives_no_stack_is_killed_all_the_same(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is stopped answers no signal but that."""
    monkeypatch.setattr("aiocluster.primary.supervision.watchdog._ANSWER_TIMEOUT", 0.02)
    stage = make_stage(lag_warning=0, hang_timeout=2.0)
    await stage.add(1)
    stage.run(2.5)

    event = await soon(stage.heard.get())

    assert isinstance(event, WorkerBlocked)
    assert event.stack == ""
    assert await stage.signal_of(0) == STACKS_SIGNAL
    assert await stage.signal_of(0) == signal.SIGKILL
    assert "gave no stack" in caplog.text


async def test_one_that_comes_to_itself_while_it_is_asked_lives(make_stage: MakeStage) -> None:
    """Thirty seconds are long, but not for ever."""
    stage = make_stage(lag_warning=0, hang_timeout=2.0)
    await stage.add(1)
    stage.run(2.1)
    assert await stage.signal_of(0) == STACKS_SIGNAL
    stage.run(0.1, 0)
    stage.answer(0, END)

    await soon(stage.heard.get())
    await turns_until(lambda: not stage.watchdog._examinations)

    assert stage.workers[0].process.signals.empty()


async def test_one_that_has_beaten_since_the_last_look_lives(make_stage: MakeStage) -> None:
    """The primary itself may have been stopped between that look and the verdict."""
    stage = make_stage(lag_warning=0, hang_timeout=2.0)
    await stage.add(1)
    stage.run(2.1)
    assert await stage.signal_of(0) == STACKS_SIGNAL
    stage.beat(0)
    stage.answer(0, END)

    await soon(stage.heard.get())
    await turns_until(lambda: not stage.watchdog._examinations)

    assert stage.workers[0].process.signals.empty()


async def test_one_that_dies_while_it_is_asked_is_told_of_no_more(make_stage: MakeStage) -> None:
    """After its WorkerExited there is nothing; and it died of what it died of."""
    stage = make_stage(lag_warning=0, hang_timeout=2.0)
    await stage.add(1)
    stage.run(2.1)
    handle = stage.handles[1]
    close_all(handle.backend.close())
    stage.workers[0].exit(5)
    exited = handle.ended(await stage.workers[0].process.wait())

    await turns_until(lambda: not stage.watchdog._examinations)

    assert (exited.reason, exited.stack) == ("crash", "")
    assert stage.heard.empty()


async def test_two_questions_to_one_worker_get_an_answer_each(make_stage: MakeStage) -> None:
    """It has one file to answer to: the second is asked when the first is answered."""
    stage = make_stage(lag_warning=1.0, hang_timeout=1.15)
    await stage.add(1)
    stage.run(1.3)
    assert await stage.signal_of(0) == STACKS_SIGNAL
    stage.answer(0, b"first\n" + END)
    first = await soon(stage.heard.get())
    assert await stage.signal_of(0) == STACKS_SIGNAL
    stage.answer(0, b"second\n" + END)
    second = await soon(stage.heard.get())

    assert isinstance(first, WorkerBlocked)
    assert isinstance(second, WorkerBlocked)
    assert (first.stack, second.stack) == ("first", "second")
    assert await stage.signal_of(0) == signal.SIGKILL


async def test_a_worker_that_has_spoilt_its_row_is_disconnected(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """When it is seen twice; it can count again then, for what it finishes."""
    stage = make_stage()
    await stage.add(2)
    stage.give(4)
    row = stage.workers[0].row
    for field in range(len(row)):
        row[field] = 2**64 - 1

    stage.watchdog.look(stage.now + 0.1)
    assert stage.handles[1].is_connected
    stage.watchdog.look(stage.now + 0.2)

    assert not stage.handles[1].is_connected
    assert stage.handles[2].is_connected
    assert caplog.text.count("cannot be right in what it counts (its heartbeat lies in") == 1
    assert not any(row)
    stage.take(1)
    await soon(stage.workers[0].disconnected.wait())


async def test_a_worker_whose_row_was_zeroed_is_disconnected(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if it counts on from there; where it had counted nothing there is no harm."""
    stage = make_stage()
    await stage.add(2)
    stage.give(4)
    assert stage.take(0) == 2
    stage.watchdog.look(stage.now + 0.1)
    for worker in stage.workers:
        for field in range(len(worker.row)):
            worker.row[field] = 0

    stage.watchdog.look(stage.now + 0.2)
    assert stage.handles[1].is_connected
    stage.workers[0].row[CONNECTIONS_TAKEN] += 1
    stage.watchdog.look(stage.now + 0.3)

    assert not stage.handles[1].is_connected
    assert stage.handles[2].is_connected
    assert "(its taken connections fell from 2 to 1)" in caplog.text


async def test_figures_that_are_right_again_are_believed(make_stage: MakeStage) -> None:
    """Only a contradiction that lasts is one."""
    stage = make_stage()
    await stage.add(1)
    row = stage.workers[0].row
    for _ in range(3):
        row[HEARTBEAT] = 2**64 - 1
        stage.watchdog.look(stage.now)
        stage.beat(0)
        stage.watchdog.look(stage.now)

    assert stage.handles[1].is_connected


async def test_a_worker_that_boots_is_not_watched(make_stage: MakeStage) -> None:
    """Imports take as long as they take; there is another limit for that."""
    stage = make_stage(hang_timeout=2.0)
    await stage.add(1, ready=False)
    stage.handles[1].begin_drain("stop")  # not even when it is told to go before it has come
    stage.run(100.0)

    assert not stage.watchdog._examinations
    assert await stage.signal_of(0) == signal.SIGTERM  # of the drain
    assert stage.workers[0].process.signals.empty()


async def test_a_paused_machine_kills_nobody(make_stage: MakeStage) -> None:
    """However long and however often it sleeps."""
    stage = make_stage(hang_timeout=2.0)
    await stage.add(2)
    for _ in range(5):
        stage.run(0.2, 0, 1)
        stage.now += 3600.0
        stage.watchdog.look(stage.now)

    assert not stage.watchdog._examinations


async def test_closed_it_looks_no_more_and_leaves_nothing(make_stage: MakeStage) -> None:
    """Also while a worker is being asked; to close twice is harmless."""
    before = open_fds()
    stage = make_stage(lag_warning=0, hang_timeout=2.0)
    stage.watchdog.start()
    await stage.add(1)
    stage.run(2.5)
    assert await stage.signal_of(0) == STACKS_SIGNAL

    stage.watchdog.close()
    stage.watchdog.close()
    await turns_until(lambda: not stage.watchdog._examinations)

    assert stage.heard.empty()
    let_go(stage.handles[1], stage.workers[0])
    assert {fd for fd in open_fds() - before if "stacks" in fd} == set()

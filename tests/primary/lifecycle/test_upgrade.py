"""Upgrades in their turn, at a quiet moment, or not at all; the exec is played."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from aiocluster.errors import BootError, ClusterStopping
from aiocluster.events import UpgradeFailed, WorkerMessage
from aiocluster.ipc.handover import HandoverState
from aiocluster.primary.event_bus import EventBus
from aiocluster.primary.lifecycle import upgrade
from aiocluster.primary.lifecycle.upgrade import RoleLocks, Upgrader
from tests.ipc.test_handover import ESTATE
from tests.support.waiting import soon, turns


class Executed(Exception):
    """The new program runs: nothing of ours does."""


class FakeNextProgram:
    """A program that can be told what becomes of it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.trial_error: BootError | None = None
        self.exec_error: Exception = Executed()

    async def try_out(self, boot_timeout: float) -> None:
        self.done.append("try out")
        await self.may_start.wait()
        if self.trial_error is not None:
            raise self.trial_error

    @contextlib.contextmanager
    def holding_signals(self) -> Iterator[None]:
        self.done.append("hold")
        try:
            yield
        finally:
            self.done.append("release")

    def take_over(self, handover_state: HandoverState) -> None:
        assert handover_state is ESTATE
        self.done.append("exec")
        raise self.exec_error


class FakeRunningProgram:
    """Two roles, restless as long as told."""

    def __init__(self) -> None:
        self.turns = [
            RoleLocks(asyncio.Lock(), asyncio.Lock(), asyncio.Lock()),
            RoleLocks(asyncio.Lock(), asyncio.Lock(), asyncio.Lock()),
        ]
        self.busy_reason = ""
        self.are_answering = False


class Stage:
    def __init__(self) -> None:
        self.next_program, self.running_program = FakeNextProgram(), FakeRunningProgram()
        self.bus = EventBus()
        self.failures: list[UpgradeFailed] = []
        self.bus.on(UpgradeFailed, self.failures.append)
        self.upgrader = Upgrader(
            self.next_program, self.running_program, self.bus, 60.0, lambda: ESTATE
        )

    @property
    def done(self) -> list[str]:
        return self.next_program.done

    def begin(self) -> "asyncio.Task[None]":
        return asyncio.create_task(self.upgrader.upgrade())

    async def executes(self) -> None:
        with pytest.raises(Executed):
            await soon(self.upgrader.upgrade())


@pytest.fixture
async def stage() -> Stage:
    return Stage()


async def test_the_program_is_tried_then_executed_with_signals_held(stage: Stage) -> None:
    """And when the exec fails they are let in again."""
    await stage.executes()
    assert stage.done == ["try out", "hold", "exec", "release"]


async def test_one_that_does_not_start_changes_nothing(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """The cause is raised, logged, and in the event; the next try is free."""
    stage.next_program.trial_error = BootError("SyntaxError: no", "the traceback")
    with pytest.raises(BootError, match="SyntaxError: no"):
        await soon(stage.upgrader.upgrade())
    assert stage.done == ["try out"]
    assert stage.failures == [UpgradeFailed("SyntaxError: no", "the traceback")]
    assert "nothing has changed: SyntaxError: no" in caplog.text
    assert "the traceback" in caplog.text

    stage.next_program.trial_error = None
    await stage.executes()


async def test_an_exec_that_fails_changes_nothing(stage: Stage) -> None:
    """Such as of an interpreter that is not there any more."""
    stage.next_program.exec_error = FileNotFoundError(2, "No such file or directory")
    with pytest.raises(BootError, match=r"could not be executed: .* No such file"):
        await soon(stage.upgrader.upgrade())
    assert stage.done == ["try out", "hold", "exec", "release"]
    assert len(stage.failures) == 1


@pytest.mark.parametrize("role", [0, 1])
@pytest.mark.parametrize("which", RoleLocks._fields)
async def test_it_waits_for_its_turn(stage: Stage, role: int, which: str) -> None:
    """While a reload, the replacement of one worker, or a scaling is under way in any role."""
    async with getattr(stage.running_program.turns[role], which):
        upgrading = stage.begin()
        await turns()
        assert "exec" not in stage.done
    with pytest.raises(Executed):
        await soon(upgrading)


async def test_a_replacement_that_never_ends_is_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every wait has an end."""
    monkeypatch.setattr(upgrade, "FORK_PATIENCE", -60.0)
    both = stage.running_program.turns
    async with both[1].recycling:
        with pytest.raises(BootError, match="still being replaced or added after 0 s"):
            await soon(stage.upgrader.upgrade())

    # It keeps nobody else waiting.
    assert not any(turn.locked() for turns in both for turn in turns)


async def test_it_waits_for_a_quiet_moment(stage: Stage) -> None:
    """What is half done is finished first."""
    stage.running_program.busy_reason = "a worker is being forked"
    upgrading = stage.begin()
    await turns()
    assert stage.done == ["try out"]
    stage.running_program.busy_reason = ""
    with pytest.raises(Executed):
        await soon(upgrading)


async def test_it_waits_until_who_is_turned_away_has_read_why(stage: Stage) -> None:
    """What is closed too soon is reset, and the answer with it."""
    stage.running_program.are_answering = True
    upgrading = stage.begin()
    await turns()
    assert stage.done == ["try out"]
    stage.running_program.are_answering = False
    with pytest.raises(Executed):
        await soon(upgrading)


async def test_in_a_flood_of_refusals_it_waits_for_a_moment_only(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody always reads."""
    monkeypatch.setattr(upgrade, "_ANSWERING_TIMEOUT", 0.0)
    stage.running_program.are_answering = True
    await stage.executes()


async def test_no_quiet_moment_is_told(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is restless: a worker that does not read, by its name."""
    monkeypatch.setattr(upgrade, "_QUIET_TIMEOUT", 0.0)
    stage.running_program.busy_reason = "worker 7 (pid 70) does not read what is sent to it"
    with pytest.raises(BootError, match=r"no quiet moment in 0 s: worker 7 .* does not read"):
        await soon(stage.upgrader.upgrade())
    assert "exec" not in stage.done


async def test_a_moment_that_passes_while_signals_are_heard_is_not_used(stage: Stage) -> None:
    """It is looked for again."""

    class Once(FakeRunningProgram):
        looks = 0

        @property
        def busy_reason(self) -> str:
            self.looks += 1
            return "busy" if self.looks == 2 else ""

        @busy_reason.setter
        def busy_reason(self, value: str) -> None:
            pass

    stage.upgrader = Upgrader(stage.next_program, Once(), stage.bus, 60.0, lambda: ESTATE)
    await stage.executes()
    assert stage.done == ["try out", "hold", "release", "hold", "exec", "release"]


async def test_subscribers_may_read_what_came_before(stage: Stage) -> None:
    """The exec waits for them, but not for ever."""
    events = stage.bus.events()
    worker: Any = object()
    stage.bus.publish(WorkerMessage(worker, "hello"))
    upgrading = stage.begin()
    await turns()
    assert "exec" not in stage.done
    await anext(events)
    with pytest.raises(Executed):
        await soon(upgrading)


async def test_a_stop_gives_it_up(stage: Stage) -> None:
    """Whoever waits for it hears why, and nobody may ask again."""
    stage.next_program.may_start.clear()
    upgrading = stage.begin()
    await turns()
    stage.upgrader.close()
    with pytest.raises(ClusterStopping, match="was given up"):
        await soon(upgrading)
    with pytest.raises(ClusterStopping, match="cannot upgrade"):
        await stage.upgrader.upgrade()
    assert stage.failures == []

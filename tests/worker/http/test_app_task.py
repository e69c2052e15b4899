"""One task for all hooks: what it keeps from one step to the next, and how a step ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest

from aiocluster.worker.http.app_task import AppTask
from tests.support.waiting import soon, turns

NAME: ContextVar[str] = ContextVar("name")


class Stage:
    """A task of hooks, and how often it was cancelled by the app."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.task = AppTask(self._on_cancelled)

    def _on_cancelled(self) -> None:
        self.cancelled += 1

    async def run(self, step: Callable[[], Awaitable[Any]]) -> Any:
        return await soon(self.task.begin(step))


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    stage.task.close()
    await turns()


async def test_steps_share_a_task_and_a_context(stage: Stage) -> None:
    """A token that the first has is valid in the last; the caller's context stays as it was."""
    tasks: list[Any] = []

    async def begin() -> Any:
        tasks.append(asyncio.current_task())
        return NAME.set("app")

    token = await stage.run(begin)

    async def end() -> None:
        tasks.append(asyncio.current_task())
        NAME.reset(token)

    await stage.run(end)

    assert tasks[0] is tasks[1]
    assert stage.task.context.get(NAME) is None
    assert NAME.get(None) is None


async def test_a_timeout_may_span_two_steps(stage: Stage) -> None:
    """As may everything that a task can enter and leave once."""
    timeout = asyncio.timeout(1000.0)

    await stage.run(timeout.__aenter__)
    await stage.run(lambda: timeout.__aexit__(None, None, None))

    assert stage.cancelled == 0


async def test_a_task_group_whose_task_fails_is_told_of_and_left_in_the_end(stage: Stage) -> None:
    """It cancels the task between two steps; the last step gets to know why."""
    group = asyncio.TaskGroup()

    async def fail() -> None:
        raise LookupError("no such price")

    async def begin() -> None:
        await group.__aenter__()
        group.create_task(fail())

    await stage.run(begin)
    await turns()
    assert stage.cancelled == 1
    assert await stage.run(lambda: asyncio.sleep(0, "between")) == "between"

    with pytest.raises(ExceptionGroup) as raised:
        await stage.run(lambda: group.__aexit__(None, None, None))

    assert isinstance(raised.value.exceptions[0], LookupError)
    assert stage.cancelled == 1


@pytest.mark.parametrize("error", [LookupError("x"), SystemExit(3), KeyboardInterrupt()])
async def test_what_a_step_raises_is_for_who_waits(stage: Stage, error: BaseException) -> None:
    """An exit, too: it must not end the loop, for there are other hooks to run."""

    async def fail() -> None:
        raise error

    running = stage.task.begin(fail)
    await asyncio.wait({running})

    assert running.exception() is error
    assert await stage.run(lambda: asyncio.sleep(0, "next")) == "next"


async def test_a_step_that_raises_cancelled_error_was_not_cancelled(stage: Stage) -> None:
    """`task.cancel(); await task` is no cancellation of the task itself."""

    async def end() -> None:
        poller = asyncio.create_task(asyncio.sleep(1000))
        poller.cancel()
        await poller

    running = stage.task.begin(end)
    await asyncio.wait({running})

    assert running.cancelled()
    assert stage.cancelled == 0


async def test_a_step_that_the_app_cancels_is_told_of(stage: Stage) -> None:
    """While it runs, as between two steps."""
    waiting = asyncio.Event()

    async def step() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        await waiting.wait()

    running = stage.task.begin(step)
    await asyncio.wait({running})

    assert running.cancelled()
    assert stage.cancelled == 1


async def test_a_step_that_is_cut_is_none_that_the_app_cancelled(stage: Stage) -> None:
    """And leaves no trace in the task: a later timeout works."""
    running = stage.task.begin(asyncio.Event().wait)
    await turns()

    await soon(stage.task.cut(1000.0))

    assert running.cancelled()
    assert stage.cancelled == 0

    async def late() -> None:
        async with asyncio.timeout(0.0):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await stage.run(late)


async def test_hooks_that_follow_each_other_in_a_step_are_all_cut(stage: Stage) -> None:
    """One that swallows its cancellation lets the next one begin, which is cancelled, too."""
    cut: list[int] = []

    async def step() -> None:
        for number in range(3):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cut.append(number)

    running = stage.task.begin(step)
    await turns()

    await soon(stage.task.cut(0.1))

    assert cut == [0, 1, 2]
    assert running.done()


async def test_a_step_that_has_not_begun_is_cut(stage: Stage) -> None:
    """There is nothing to cancel yet, and it never begins."""
    running = stage.task.begin(asyncio.Event().wait)

    await soon(stage.task.cut(1000.0))

    assert running.cancelled()
    assert await stage.run(lambda: asyncio.sleep(0, "next")) == "next"


async def test_a_step_that_does_not_end_costs_no_other_its_turn(stage: Stage) -> None:
    """The next runs in another task, with the same context."""
    go = asyncio.Event()

    async def refuse() -> None:
        NAME.set("app")
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue

    async def name() -> str:
        return NAME.get()

    refusing = stage.task.begin(refuse)
    await turns()
    await soon(stage.task.cut(0.0))
    assert not refusing.done()

    assert await stage.run(name) == "app"

    go.set()
    await turns()
    assert stage.cancelled == 0


async def test_without_anyone_to_tell_a_cancellation_ends_it() -> None:
    """As at the end of a loop, which waits for all tasks that it cancels."""
    before = asyncio.all_tasks()
    AppTask()
    await turns()
    (task,) = asyncio.all_tasks() - before

    task.cancel()

    await soon(asyncio.wait({task}))
    assert task.cancelled()


async def test_a_scope_that_cancels_in_each_turn_does_not_spin(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn but the first takes a moment, until the next step begins."""
    pauses: list[float] = []
    monkeypatch.setattr("aiocluster.worker.http.app_task._pause", pauses.append)

    async def begin() -> Any:
        return asyncio.current_task()

    task = await stage.run(begin)
    await turns()
    task.cancel()
    await turns()
    assert stage.cancelled == 1
    assert pauses == []

    for _ in range(3):
        task.cancel()
        await turns()
    assert stage.cancelled == 4
    assert pauses == [0.001] * 3

"""The end of a worker: nothing that is left running holds it up for ever."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvloop

from aiocluster.worker.process_exit import end_tasks, end_threads, run_to_the_end
from tests.support.waiting import soon, turns


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_an_exit_lets_the_main_task_come_to_its_end(error: BaseException) -> None:
    """However often one comes through the loop."""
    asked: list[BaseException] = []
    loop = uvloop.new_event_loop()
    enough = asyncio.Event()

    def leave(raised: BaseException) -> None:
        asked.append(raised)
        if len(asked) < 2:
            loop.call_soon(exit_now)
        else:
            enough.set()

    def exit_now() -> None:
        raise error

    async def main() -> int:
        loop.call_soon(exit_now)
        await enough.wait()
        return 5

    assert run_to_the_end(loop, main(), leave) == 5
    assert asked == [error, error]
    loop.close()


def test_a_loop_that_the_app_stops_runs_on() -> None:
    """`loop.stop()` ends web.run_app with an error, and the drain is done all the same."""
    asked: list[BaseException] = []
    loop = uvloop.new_event_loop()
    enough = asyncio.Event()

    def leave(raised: BaseException) -> None:
        asked.append(raised)
        enough.set()

    async def main() -> int:
        loop.call_soon(loop.stop)
        await enough.wait()
        return 5

    assert run_to_the_end(loop, main(), leave) == 5
    assert isinstance(asked[0], RuntimeError)
    loop.close()


def test_what_the_main_task_raises_ends_it() -> None:
    """There is nothing left that could come to an end."""
    loop = uvloop.new_event_loop()

    async def main() -> int:
        raise LookupError("x")

    with pytest.raises(LookupError):
        run_to_the_end(loop, main(), lambda error: None)
    loop.close()


async def test_tasks_that_are_left_are_cancelled_and_awaited() -> None:
    """Those that they start meanwhile, too."""
    cleaned: list[str] = []

    async def clean(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await turns()
            cleaned.append(name)

    async def parent() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            child = asyncio.create_task(clean("child"))
            child.add_done_callback(lambda _: None)

    tasks = [asyncio.create_task(clean("task")), asyncio.create_task(parent())]
    await turns()

    assert await soon(end_tasks(1000.0))

    assert all(task.cancelled() for task in tasks)
    assert sorted(cleaned) == ["child", "task"]


async def test_a_task_that_will_not_end_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """And left."""
    go = asyncio.Event()

    async def refuse() -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(refuse())
    await turns()

    assert not await soon(end_tasks(0.0))

    assert "tasks run on" in caplog.text
    assert "refuse" in caplog.text
    go.set()
    await task


async def test_what_a_task_raises_when_it_is_cancelled_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing waits for it."""

    async def fail() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError("no such price")

    task = asyncio.create_task(fail())
    await turns()

    assert await soon(end_tasks(1000.0))

    assert task.done()
    assert "no such price" in caplog.text


async def test_a_generator_that_is_left_open_is_closed() -> None:
    """As `asyncio.run` does; one that does not close is left."""
    closed = asyncio.Event()

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            closed.set()

    left = numbers()
    await anext(left)

    assert await soon(end_tasks(1000.0))

    assert closed.is_set()


def _start(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target)
    thread.start()
    return thread


@pytest.fixture
def _no_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real ones would end those of the tests."""
    monkeypatch.setattr(threading, "_threading_atexits", [])


@pytest.mark.usefixtures("_no_pools")
def test_threads_are_waited_for() -> None:
    """Those that they start, too."""
    done: list[str] = []

    def child() -> None:
        done.append("child")

    _start(lambda: _start(child))

    assert end_threads(1000.0)

    assert done == ["child"]


@pytest.mark.usefixtures("_no_pools")
def test_a_thread_that_does_not_end_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """And left; a daemon is neither waited for nor named."""
    go = threading.Event()
    thread = threading.Thread(target=go.wait, name="flusher")
    daemon = threading.Thread(target=go.wait, name="watcher", daemon=True)
    thread.start()
    daemon.start()

    assert not end_threads(0.0)

    assert "threads run on: flusher" in caplog.text
    assert "watcher" not in caplog.text
    go.set()
    thread.join()
    daemon.join()


def test_a_pool_finishes_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its threads wait for work until they are told that there is no more."""
    pool, done = ThreadPoolExecutor(1), threading.Event()
    pool.submit(done.set)
    monkeypatch.setattr(threading, "_threading_atexits", [pool.shutdown])

    assert end_threads(1000.0)

    assert done.is_set()


def test_a_pool_that_does_not_end_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its threads are named."""
    pool, go = ThreadPoolExecutor(1, thread_name_prefix="prices"), threading.Event()
    pool.submit(go.wait)
    monkeypatch.setattr(threading, "_threading_atexits", [pool.shutdown])

    assert not end_threads(0.0)

    assert "prices_0" in caplog.text
    go.set()
    assert end_threads(1000.0)

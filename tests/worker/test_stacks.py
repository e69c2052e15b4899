"""What a worker writes when it is asked what it is doing. The process is this one."""

import asyncio
import faulthandler
import os
import signal
import threading
import time
from collections.abc import AsyncIterator

import pytest

from aiocluster.ipc.stacks import END, STACKS_SIGNAL, StackFile
from aiocluster.worker.stacks import show_stacks_on_request
from tests.support.waiting import turns, turns_until


@pytest.fixture
async def stacks() -> AsyncIterator[StackFile]:
    stacks = StackFile()
    show_stacks_on_request(stacks.fd)
    yield stacks
    faulthandler.unregister(STACKS_SIGNAL)
    signal.signal(STACKS_SIGNAL, signal.SIG_DFL)
    stacks.close()


def ask() -> None:
    os.kill(os.getpid(), STACKS_SIGNAL)


async def in_a_function(shared_listener: asyncio.Event) -> None:
    await in_another(shared_listener)


async def in_another(shared_listener: asyncio.Event) -> None:
    await shared_listener.wait()


async def test_the_stack_of_the_thread_comes_first_and_then_the_tasks(stacks: StackFile) -> None:
    """Where the loop's thread is, by function and line; and that it is the end."""

    def asking() -> None:
        ask()

    asking()
    text = stacks.take()

    threads, tasks = text.split("tasks of the loop")
    assert "in asking" in threads
    assert "(running)" in tasks
    assert "in test_the_stack_of_the_thread_comes_first_and_then_the_tasks" in tasks


async def test_a_task_is_told_down_to_what_it_waits_for(stacks: StackFile) -> None:
    """Not only its outermost coroutine: the most recent call first, as threads are told."""
    shared_listener = asyncio.Event()
    task = asyncio.create_task(in_a_function(shared_listener), name="waiter")
    await turns()

    ask()
    text = stacks.take()
    shared_listener.set()
    await task

    _, told = text.split("Task waiter:")
    lines = [line.rsplit(" in ", 1)[1] for line in told.splitlines() if " in " in line]
    assert lines[:3] == ["wait", "in_another", "in_a_function"]


async def test_tasks_that_wait_at_one_place_are_told_once(stacks: StackFile) -> None:
    """A server has thousands of idle connections, each of them a task."""
    shared_listener = asyncio.Event()
    tasks = [
        asyncio.create_task(in_a_function(shared_listener), name=f"idle-{n}") for n in range(500)
    ]
    await turns()

    ask()
    text = stacks.take()
    shared_listener.set()
    await asyncio.gather(*tasks)

    assert text.count("in in_another") == 1
    assert " and 497 more:" in text
    assert len(text) < 10_000


async def test_every_thread_is_told(stacks: StackFile) -> None:
    """The one that holds a lock may not be the one that waits for it."""
    waiting, shared_listener = threading.Event(), threading.Event()

    def hold_a_lock() -> None:
        waiting.set()
        shared_listener.wait()

    thread = threading.Thread(target=hold_a_lock)
    thread.start()
    waiting.wait()

    ask()
    text = stacks.take()
    shared_listener.set()
    thread.join()

    assert "in hold_a_lock" in text
    assert "in test_every_thread_is_told" in text


async def test_a_loop_that_sleeps_tells_its_tasks_and_sleeps_on(stacks: StackFile) -> None:
    """Python's own calls go on after a signal as if nothing had been."""
    asker = threading.Timer(0.02, ask)
    began = time.monotonic()
    asker.start()
    time.sleep(0.1)  # noqa: ASYNC251, TID251 (to block the loop is what it is for)

    assert time.monotonic() - began >= 0.1
    assert stacks.is_complete
    assert "tasks of the loop" in stacks.take()
    asker.join()


async def test_a_loop_that_waits_for_events_tells_them_too(stacks: StackFile) -> None:
    """Asked a moment too late, it tells that it does nothing."""
    asker = threading.Timer(0.02, ask)
    asker.start()

    await turns_until(lambda: stacks.is_complete)
    asker.join()

    assert "tasks of the loop" in stacks.take()


async def test_what_cannot_be_told_raises_nothing_into_the_users_code(
    stacks: StackFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler runs in the middle of it; the answer says why there is none."""

    def fail(loop: object) -> None:
        raise RuntimeError("no tasks today")

    monkeypatch.setattr(asyncio, "all_tasks", fail)

    ask()

    assert os.pread(stacks.fd, 10_000, 0).endswith(END)
    assert "cannot show the tasks: RuntimeError('no tasks today')" in stacks.take()

"""Who watches that a stop is not held up by a blocked loop. Here the test blocks its own."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from aiocluster.program import guard as module
from aiocluster.program.guard import Guard, leave
from tests.support.program import PATIENCE


class Stage:
    """A guard, what time it is for it, and whether it has ended all."""

    def __init__(self) -> None:
        self.time = 0.0
        self.looked = threading.Semaphore(0)
        self.ended = threading.Event()
        self.guard = Guard(self.ended.set, self.now)

    def now(self) -> float:
        self.looked.release()
        return self.time

    async def looks(self, count: int = 3) -> None:
        """Let it look some times, while the loop turns."""
        loop = asyncio.get_running_loop()
        for _ in range(count):
            await loop.run_in_executor(None, self.looked.acquire)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(module, "_LOOK_INTERVAL", 0.001)
    before = signal.getsignal(signal.SIGUSR2)
    stage = Stage()
    yield stage
    stage.guard.close()
    signal.signal(signal.SIGUSR2, before)


async def test_a_blocked_loop_is_not_waited_for(stage: Stage) -> None:
    """The deadline has passed, and no turn comes."""
    stage.guard.listen({})
    stage.guard.watch(0.0)

    assert stage.ended.wait(PATIENCE)  # which blocks the loop


async def test_a_loop_that_turns_is_left_alone(stage: Stage) -> None:
    """However long it takes after the deadline: others have their own."""
    stage.guard.listen({})
    stage.guard.watch(0.0)
    stage.time = 1000.0
    await stage.looks(10)

    assert not stage.ended.is_set()


async def test_before_the_deadline_a_loop_may_be_blocked(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And asked again the deadline only comes nearer."""
    monkeypatch.setattr(module, "_TURN_TIMEOUT", 0.001)
    stage.guard.listen({})
    stage.guard.watch(30.0)
    stage.guard.watch(40.0)
    stage.time = 29.0
    for _ in range(10):
        assert stage.looked.acquire(timeout=PATIENCE)
    assert not stage.ended.is_set()

    stage.time = 30.0
    assert stage.ended.wait(PATIENCE)


async def test_a_signal_is_heard_amid_a_call_that_blocks(stage: Stage) -> None:
    """By the guard at once; by the loop, when it turns again, as before."""
    heard, main = asyncio.Event(), threading.get_ident()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR2, heard.set)
    reader, writer = os.pipe()
    stage.guard = Guard(lambda: os.write(writer, b"x"), stage.now)
    stage.guard.listen({signal.SIGUSR2: 0.0})
    threading.Timer(0.01, signal.pthread_kill, (main, signal.SIGUSR2)).start()

    assert os.read(reader, 1) == b"x"

    async with asyncio.timeout(PATIENCE):
        await heard.wait()
    loop.remove_signal_handler(signal.SIGUSR2)
    os.close(reader)
    os.close(writer)


async def test_it_leaves_no_thread_and_may_be_closed_twice(stage: Stage) -> None:
    """Nor has it one before a stop."""
    before = threading.active_count()
    stage.guard.listen({})
    assert threading.active_count() == before
    stage.guard.watch(0.0)
    stage.guard.close()
    stage.guard.close()
    stage.guard.watch(0.0)

    assert threading.active_count() == before


class Blocked(logging.Handler):
    """A log that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.go.wait(PATIENCE)


def test_leaving_waits_for_no_log_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The children are killed first; whatever fails, this process ends, with the code."""
    done: list[object] = []
    monkeypatch.setattr(os, "_exit", done.append)
    monkeypatch.setattr(module, "_TELL_TIMEOUT", 0.01)
    blocked = Blocked()
    module.log.addHandler(blocked)
    try:
        leave(lambda: done.append("killed"), 1)
    finally:
        module.log.removeHandler(blocked)
        blocked.go.set()
    assert done == ["killed", 1]

    with pytest.raises(RuntimeError):
        leave(_fail, 1)
    assert done == ["killed", 1, 1]


def _fail() -> None:
    raise RuntimeError("no")


async def test_the_handler_that_was_there_hears_the_signal_too(stage: Stage) -> None:
    """A loop that has no wake-up descriptor for signals, as on Windows, has only its handler."""
    heard: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    stage.guard.listen({signal.SIGUSR2: 60.0})
    os.kill(os.getpid(), signal.SIGUSR2)
    assert heard == [signal.SIGUSR2]
    stage.guard.close()

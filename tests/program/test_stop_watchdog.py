"""Who watches that a stop is not held up by a blocked loop. Here the test blocks its own."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from aiocluster.program.stop_watchdog import _TURN_TIMEOUT, StopWatchdog, end_in, end_never
from tests.support.program import PATIENCE
from tests.support.waiting import turns_until


class Stage:
    """A guard, what time it is for it, and in how many seconds the kernel is to end all."""

    def __init__(self) -> None:
        self.time = 0.0
        self.asked: list[float] = []
        self.guard = StopWatchdog(self.asked.append, lambda: self.time)


@pytest.fixture
def stage() -> Iterator[Stage]:
    before = signal.getsignal(signal.SIGUSR2)
    stage = Stage()
    yield stage
    stage.guard.close()
    signal.signal(signal.SIGUSR2, before)


async def test_the_end_is_asked_for_at_once(stage: Stage) -> None:
    """Before the loop turns, which it may never do again; with time for one turn more."""
    stage.guard.listen({})
    stage.guard.watch(30.0)

    assert stage.asked == [30.0 + _TURN_TIMEOUT]


async def test_asked_again_the_end_only_comes_nearer(stage: Stage) -> None:
    """A later signal gives nobody more time."""
    stage.guard.listen({})
    stage.guard.watch(30.0)
    stage.time = 20.0
    stage.guard.watch(40.0)
    stage.guard.watch(5.0)

    assert stage.asked == [left + _TURN_TIMEOUT for left in (30.0, 10.0, 5.0)]


async def test_a_loop_that_turns_puts_the_end_off(stage: Stage) -> None:
    """However long it takes after the deadline: others have their own."""
    stage.guard.listen({})
    stage.guard.watch(0.0)
    stage.time = 1000.0
    await turns_until(lambda: len(stage.asked) >= 3)

    assert {*stage.asked} == {_TURN_TIMEOUT}


async def test_once_closed_it_asks_for_nothing(stage: Stage) -> None:
    """Closed twice is no harm, and what was asked for is taken back."""
    stage.guard = StopWatchdog()
    stage.guard.listen({})
    stage.guard.watch(1000.0)
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    stage.guard.close()
    stage.guard.close()
    stage.guard.watch(0.0)

    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


async def test_a_signal_is_heard_amid_a_call_that_blocks(stage: Stage) -> None:
    """By the guard at once; by the loop, when it turns again, as before."""
    heard, main = asyncio.Event(), threading.get_ident()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR2, heard.set)
    reader, writer = os.pipe()

    def say(seconds: float) -> None:
        os.write(writer, b"x")

    stage.guard = StopWatchdog(say)
    stage.guard.listen({signal.SIGUSR2: 60.0})
    threading.Timer(0.01, signal.pthread_kill, (main, signal.SIGUSR2)).start()

    assert os.read(reader, 1) == b"x"

    async with asyncio.timeout(PATIENCE):
        await heard.wait()
    stage.guard.close()
    loop.remove_signal_handler(signal.SIGUSR2)
    os.close(reader)
    os.close(writer)


async def test_the_handler_that_was_there_hears_the_signal_too(stage: Stage) -> None:
    """A loop that has no wake-up descriptor for signals, as on Windows, has only its handler."""
    heard: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    stage.guard.listen({signal.SIGUSR2: 60.0})
    os.kill(os.getpid(), signal.SIGUSR2)

    assert heard == [signal.SIGUSR2]


def test_the_end_needs_no_python_no_thread_and_no_descriptor() -> None:
    """A process that is blocked in C ends of SIGALRM, though it had blocked and ignored that."""
    code = (
        "import ctypes, resource, signal\n"
        "from aiocluster.program.stop_watchdog import end_in\n"
        "mutex, lock = ctypes.create_string_buffer(64), ctypes.PyDLL(None).pthread_mutex_lock\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))\n"
        "signal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\n"
        "lock(mutex)\n"
        "end_in(0.0)\n"
        "lock(mutex)\n"
    )

    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE).returncode == (
        -signal.SIGALRM
    )


def test_an_end_that_is_taken_back_does_not_come() -> None:
    """Twice is no harm."""
    end_in(1000.0)
    end_never()
    end_never()

    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)

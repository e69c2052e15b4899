"""Which signals are handled, in this process itself."""

import asyncio
import multiprocessing
import os
import signal
import threading
from functools import partial

import pytest

from aiocluster.program import signals
from aiocluster.program.signals import (
    Interrupted,
    handle_signals,
    handled_signals,
    hold_signals,
    holding_signals,
    ignore,
    interruptible,
    release_signals,
)
from tests.support.waiting import turns

UNCATCHABLE = {signal.SIGKILL, signal.SIGSTOP}
FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
HARMLESS = {
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGPIPE,
    signal.SIGTSTP,
    signal.SIGURG,
    signal.SIGWINCH,
}


def test_every_signal_that_could_end_us_is_handled() -> None:
    """None but the uncatchable, our own faults and the harmless may act by default."""
    assert signal.valid_signals() - handled_signals() == UNCATCHABLE | FAULTS | HARMLESS


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGRTMIN + 3])
def test_a_signal_that_means_nothing_is_logged(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """By number, and by name where it has one."""
    ignore(number)

    assert f"(signal {int(number)}), which changes nothing" in caplog.text


def test_held_signals_wait_and_can_be_forgotten() -> None:
    """A late TERM ends nobody."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    hold_signals()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        # To this thread: another one would not hold it.
        signal.pthread_kill(threading.get_ident(), number)

    release_signals()

    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_what_the_program_lets_wait_by_itself_waits_on() -> None:
    """And is not forgotten; released twice, or never held, nothing changes."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        release_signals()
        hold_signals()
        hold_signals()
        release_signals()
        release_signals()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
        assert signal.sigwait({signal.SIGUSR1}) == signal.SIGUSR1
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})


def test_an_exec_that_fails_leaves_the_mask_as_it_was() -> None:
    """Also what waited before, whoever held it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        with pytest.raises(OSError, match="no"), holding_signals():
            raise OSError("no")
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_what_takes_long_can_be_interrupted(number: signal.Signals) -> None:
    """And what a signal means otherwise is as it was."""
    meaning = signal.getsignal(number)
    hold_signals()
    try:
        with pytest.raises(Interrupted), interruptible():
            signal.pthread_kill(threading.get_ident(), number)
    finally:
        release_signals()

    assert signal.getsignal(number) is meaning


def test_a_signal_that_waits_already_interrupts_and_leaves_all_as_it_was() -> None:
    """It is heard as soon as signals may be; a second one does not cut the end short."""
    meaning = signal.getsignal(signal.SIGTERM)
    hold_signals()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.pthread_kill(threading.get_ident(), number)
        with pytest.raises(Interrupted), interruptible():
            pass
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == held
    finally:
        release_signals()

    assert signal.getsignal(signal.SIGTERM) is meaning


def test_a_signal_that_comes_while_they_are_held_is_heard_afterwards() -> None:
    """Unless there is an exec in between: then by the next program."""
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with holding_signals():
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            assert heard == []
        assert heard == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


async def test_a_loop_without_signal_handlers_hears_them_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On Windows no loop has add_signal_handler, and no signal can wait."""

    def as_on_windows(*_: object) -> None:
        raise NotImplementedError

    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    monkeypatch.setattr(loop, "add_signal_handler", as_on_windows, raising=False)
    monkeypatch.setattr(signals, "_CAN_WAIT", False)
    monkeypatch.setattr(signals, "handled_signals", lambda: {signal.SIGTERM, signal.SIGINT})
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        handle_signals({signal.SIGTERM: heard.set})
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(60):
            await heard.wait()
        hold_signals()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        release_signals()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def test_a_forked_child_hears_nothing_for_its_parent() -> None:
    """What ends it ends it alone, and its parent's loop does not hear of it."""
    heard: list[str] = []
    before = {number: signal.getsignal(number) for number in handled_signals()}
    handle_signals({signal.SIGTERM: partial(heard.append, "TERM")})
    try:
        child = multiprocessing.get_context("fork").Process(target=signal.pause)
        child.start()
        child.terminate()
        await asyncio.to_thread(child.join, 30)
        await turns(20)
        assert (child.exitcode, heard) == (-signal.SIGTERM, [])
    finally:
        hold_signals()
        for number in before:
            asyncio.get_running_loop().remove_signal_handler(number)
        release_signals()
        for number, handler in before.items():
            signal.signal(number, handler)

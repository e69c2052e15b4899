"""Which signals a program that is a cluster handles: all that could end it by default.

Any of them would leave the workers behind, so each has a meaning or is logged.
"""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, cast

from aiocluster.ipc.signals import signals_of

log = logging.getLogger("aiocluster")

# A fault of the primary itself: a handler would only return to the faulting instruction.
_FAULTS = {*signals_of("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL")}

# Job control and harmless ones: what they do by default hurts nobody. SIGCHLD and SIGPIPE
# are taken care of by the loop and by Python.
_LEFT_ALONE = {
    *signals_of("SIGCHLD", "SIGCONT", "SIGPIPE", "SIGTSTP", "SIGURG", "SIGWINCH"),
}

_STOPS = signals_of("SIGTERM", "SIGINT", "SIGQUIT")

# The process whose loop hears signals, while it does.
_hearing: set[int] = set()

# The masks from before a fork that is under way, by thread.
_masks: dict[int, set[signal.Signals]] = {}

# Which of them the program lets wait by itself; known while they are held or handled.
_waiting_anyway: list[set[int]] = []

# On Windows there is no mask of signals.
_CAN_WAIT = hasattr(signal, "pthread_sigmask")


class Interrupted(Exception):
    """A signal came that ends the program."""


def handled_signals() -> set[int]:
    """Return the signals that are handled."""
    others = {*signals_of("SIGKILL", "SIGSTOP"), *_FAULTS, *_LEFT_ALONE}
    return {int(number) for number in signal.valid_signals() - others}


def hold_signals(*, by_us: bool = False) -> None:
    """Let them wait from now on; where a signal cannot wait (Windows) it is ignored.

    `by_us`: they wait already, since the program that was here before has held them.
    """
    _hearing.discard(os.getpid())
    if not _CAN_WAIT:
        for number in handled_signals():
            signal.signal(number, signal.SIG_IGN)
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, handled_signals())
    if not _waiting_anyway:
        _waiting_anyway.append(set() if by_us else {int(number) for number in before})


def release_signals() -> None:
    """They mean again what they did before they were held; those that waited are forgotten."""
    if not _CAN_WAIT:
        for number in handled_signals():
            signal.signal(number, _usual_handler(number))
    elif _waiting_anyway:
        released = handled_signals() - _waiting_anyway.pop()
        while waiting := signal.sigpending() & released:
            signal.sigwait(waiting)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, released)
        signal.pthread_sigmask(signal.SIG_BLOCK, handled_signals() - released)


@contextlib.contextmanager
def holding_signals() -> Iterator[None]:
    """Let them wait meanwhile; an exec inside keeps them waiting, for the next program."""
    was_hearing = os.getpid() in _hearing
    before = signal.pthread_sigmask(signal.SIG_BLOCK, handled_signals())
    _hearing.discard(os.getpid())
    try:
        yield
    finally:
        if was_hearing:
            _hearing.add(os.getpid())
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def handle_signals(meanings: Mapping[int, Callable[[], None]]) -> None:
    """Let the running loop hear them from now on; one without a meaning is logged.

    Processes that are forked meanwhile do not inherit that.
    """
    loop = asyncio.get_running_loop()
    _hearing.add(os.getpid())
    _keep_handlers_from_children()
    for number in handled_signals():
        meaning = meanings.get(number) or partial(ignore, number)
        try:
            loop.add_signal_handler(number, meaning)
        except NotImplementedError:  # the loops of Windows do not have it
            signal.signal(number, partial(_hear_in, loop, meaning))
    if _CAN_WAIT:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handled_signals())


@functools.cache
def _keep_handlers_from_children() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_hold_at_fork,
            after_in_parent=_release_after_fork,
            after_in_child=_forget_handlers,
        )


def _hold_at_fork() -> None:
    """Let signals wait until the child has no handler of its parent any more."""
    if os.getpid() in _hearing:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, handled_signals())
        _masks[threading.get_ident()] = cast(set[signal.Signals], mask)


def _release_after_fork() -> None:
    if (mask := _masks.pop(threading.get_ident(), None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _forget_handlers() -> None:
    """Let a process that was forked from one that hears signals, say by multiprocessing, hear none.

    The handlers that it inherits write to the descriptor that wakes its parent's loop: what ends
    the child would be heard there, and would not end it.
    """
    if threading.get_ident() not in _masks:
        return
    _hearing.clear()
    signal.set_wakeup_fd(-1)
    for number in handled_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, _usual_handler(number))
    _release_after_fork()


def _hear_in(
    loop: asyncio.AbstractEventLoop, meaning: Callable[[], None], number: int, frame: object
) -> None:
    loop.call_soon_threadsafe(meaning)


def _usual_handler(number: int) -> Any:
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL


def ignore(number: int) -> None:
    """Say that this signal changes nothing."""
    log.warning("got %s (signal %d), which changes nothing", signal.strsignal(number), number)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """While signals are held, let the first that stops a program raise Interrupted inside."""
    heard: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        heard.append(number)
        if len(heard) == 1:  # another one would cut short what the first has begun to end
            raise Interrupted(f"got {signal.strsignal(number)}")

    before = {number: signal.signal(number, interrupt) for number in _STOPS}
    try:
        # One that waits already is heard here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        for number, handler in before.items():
            # None: it was not set from Python, and cannot be set again from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

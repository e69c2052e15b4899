"""The signals that the program handles: all that could end it by default.

Any of them would leave the workers behind, so each has an effect or is logged.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from aiocluster.ipc.forks import hear_alone, hear_no_more, usual_handler
from aiocluster.ipc.signals import signals_of

log = logging.getLogger("aiocluster")

# Faults of the primary itself: a handler would only return to the faulting instruction.
_FAULTS = {*signals_of("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL")}

# Signals for job control, and harmless ones: their default actions leave no worker behind. The
# loop handles SIGCHLD, and Python SIGPIPE.
_LEFT_ALONE = {
    *signals_of("SIGCHLD", "SIGCONT", "SIGPIPE", "SIGTSTP", "SIGURG", "SIGWINCH"),
}

_STOPS = signals_of("SIGTERM", "SIGINT", "SIGQUIT")

# The handled signals that the program itself had blocked; known while signals are held or handled.
_waiting_anyway: list[set[int]] = []

# Windows has no mask of signals.
_CAN_WAIT = hasattr(signal, "pthread_sigmask")


class Interrupted(Exception):
    """A signal that ends the program, as an exception."""


def handled_signals() -> set[int]:
    """Return the signals that are handled."""
    others = {*signals_of("SIGKILL", "SIGSTOP"), *_FAULTS, *_LEFT_ALONE}
    return {int(number) for number in signal.valid_signals() - others}


def hold_signals(*, by_us: bool = False) -> None:
    """Block the handled signals from now on; where that is not possible (Windows), ignore them.

    With `by_us` the signals are blocked already, by the previous program in this process.
    """
    hear_no_more()
    if not _CAN_WAIT:
        for number in handled_signals():
            signal.signal(number, signal.SIG_IGN)
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, handled_signals())
    if not _waiting_anyway:
        _waiting_anyway.append(set() if by_us else {int(number) for number in before})


def release_signals() -> None:
    """Give the signals their former effects again; drop the pending ones."""
    if not _CAN_WAIT:
        for number in handled_signals():
            signal.signal(number, usual_handler(number))
    elif _waiting_anyway:
        released = handled_signals() - _waiting_anyway.pop()
        while waiting := signal.sigpending() & released:
            signal.sigwait(waiting)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, released)
        signal.pthread_sigmask(signal.SIG_BLOCK, handled_signals() - released)


@contextlib.contextmanager
def holding_signals() -> Iterator[None]:
    """Block the signals inside; after an exec they stay blocked, for the next program."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, handled_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def handle_signals(meanings: Mapping[int, Callable[[], None]]) -> None:
    """Handle the signals in the running loop from now on; a signal without a meaning is logged.

    Processes that are forked meanwhile do not inherit the handlers.
    """
    loop = asyncio.get_running_loop()
    hear_alone(handled_signals(), callable)
    for number in handled_signals():
        meaning = meanings.get(number) or partial(ignore, number)
        try:
            loop.add_signal_handler(number, meaning)
        except NotImplementedError:  # the loops of Windows have no such method
            signal.signal(number, partial(_hear_in, loop, meaning))
    if _CAN_WAIT:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handled_signals())


def _hear_in(
    loop: asyncio.AbstractEventLoop, meaning: Callable[[], None], number: int, frame: object
) -> None:
    loop.call_soon_threadsafe(meaning)


def ignore(number: int) -> None:
    """Log that this signal has no effect."""
    log.warning("got %s (signal %d), which changes nothing", signal.strsignal(number), number)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """While signals are held, raise Interrupted inside at the first that stops a program."""
    heard: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        heard.append(number)
        if len(heard) == 1:  # a further one would cut short the end that the first has begun
            raise Interrupted(f"got {signal.strsignal(number)}")

    before = {number: signal.signal(number, interrupt) for number in _STOPS}
    try:
        # A pending signal is handled here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        for number, handler in before.items():
            # None: the handler was not set from Python, which cannot set it again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

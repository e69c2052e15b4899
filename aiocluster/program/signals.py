"""Which signals a program that is a cluster handles: all that could end it by default.

Any of them would leave the workers behind, so each has a meaning or is logged.
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

# A fault of the primary itself: a handler would only return to the faulting instruction.
_FAULTS = {*signals_of("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL")}

# Job control and harmless ones: what they do by default hurts nobody. SIGCHLD and SIGPIPE
# are taken care of by the loop and by Python.
_LEFT_ALONE = {
    *signals_of("SIGCHLD", "SIGCONT", "SIGPIPE", "SIGTSTP", "SIGURG", "SIGWINCH"),
}

_STOPS = signals_of("SIGTERM", "SIGINT", "SIGQUIT")

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
    hear_no_more()
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
            signal.signal(number, usual_handler(number))
    elif _waiting_anyway:
        released = handled_signals() - _waiting_anyway.pop()
        while waiting := signal.sigpending() & released:
            signal.sigwait(waiting)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, released)
        signal.pthread_sigmask(signal.SIG_BLOCK, handled_signals() - released)


@contextlib.contextmanager
def holding_signals() -> Iterator[None]:
    """Let them wait meanwhile; an exec inside keeps them waiting, for the next program."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, handled_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def handle_signals(meanings: Mapping[int, Callable[[], None]]) -> None:
    """Let the running loop hear them from now on; one without a meaning is logged.

    Processes that are forked meanwhile do not inherit that.
    """
    loop = asyncio.get_running_loop()
    hear_alone(handled_signals(), callable)
    for number in handled_signals():
        meaning = meanings.get(number) or partial(ignore, number)
        try:
            loop.add_signal_handler(number, meaning)
        except NotImplementedError:  # the loops of Windows do not have it
            signal.signal(number, partial(_hear_in, loop, meaning))
    if _CAN_WAIT:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handled_signals())


def _hear_in(
    loop: asyncio.AbstractEventLoop, meaning: Callable[[], None], number: int, frame: object
) -> None:
    loop.call_soon_threadsafe(meaning)


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

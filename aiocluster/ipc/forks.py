"""Sockets and signal handlers that a process forked by the user's code must not inherit.

A copy of a socket would keep a port taken, and hide from its other end that this process is gone.
A copy of a signal handler would act in the child, and wake the loop of this process.
"""

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakSet

_sockets: WeakSet[socket.socket] = WeakSet()

# The signal mask from before a fork that is under way, by thread.
_masks: dict[int, set[signal.Signals]] = {}


@dataclass(frozen=True, slots=True)
class _Hearing:
    """A process that handles signals, the signals, and the handlers that no child may have."""

    process: int
    numbers: Collection[int]
    is_ours: Callable[[object], bool]


_hearing: list[_Hearing] = []


def keep_from_children(*sockets: socket.socket) -> None:
    """Close these sockets in each process forked from this one, if they are still open."""
    _be_called()
    _sockets.update(sockets)


def hear_alone(numbers: Collection[int], is_ours: Callable[[object], bool]) -> None:
    """Reset these signals in each process forked from this one, if their handler `is_ours`.

    The descriptor that wakes the loop is reset, too.
    """
    _be_called()
    _hearing[:] = [_Hearing(os.getpid(), numbers, is_ours)]


def hear_no_more() -> None:
    """Cancel `hear_alone`. Idempotent."""
    _hearing.clear()


def is_heard_alone() -> bool:
    """Return True if `hear_alone` holds for this process."""
    return any(one.process == os.getpid() for one in _hearing)


def leave_if_forked(process: int, code: int) -> None:
    """End this process with `code` if it was forked from `process`, which owns the loop."""
    if os.getpid() == process:
        return
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):  # the stream may be closed
                stream.flush()
    os._exit(code)


def usual_handler(number: int) -> Any:
    """Return the handler that Python has for this signal by default."""
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL


@functools.cache
def _be_called() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_hold_signals, after_in_parent=_release_signals, after_in_child=_forget_all
        )


def _hold_signals() -> None:
    """Block the signals until the child has no handler of its parent any more."""
    if is_heard_alone():
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _hearing[0].numbers)
        _masks[threading.get_ident()] = cast(set[signal.Signals], mask)


def _release_signals() -> None:
    if (mask := _masks.pop(threading.get_ident(), None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _forget_all() -> None:
    _close_sockets()
    if threading.get_ident() in _masks:
        hearing = _hearing.pop()
        signal.set_wakeup_fd(-1)
        for number in hearing.numbers:
            if hearing.is_ours(signal.getsignal(number)):
                signal.signal(number, usual_handler(number))
        _release_signals()


def _close_sockets() -> None:
    """Replace each by /dev/null: the socket objects close their descriptors some day."""
    ours = [fd for sock in _sockets if (fd := sock.fileno()) >= 0]
    _sockets.clear()
    if not ours:
        return
    os.close(ours[0])  # comes first, since this process may be at its fd limit
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in ours:
        if fd != nowhere:
            os.dup2(nowhere, fd, inheritable=False)
    if nowhere not in ours:
        os.close(nowhere)

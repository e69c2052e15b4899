"""Stops an import that is not needed any more, in the zygote or in a worker.

While a module is imported, no loop runs and no socket is read. So the kernel sends a signal when
the primary has closed its end of a socket, or is dead. The handler raises an exception in the
module's code.
"""

import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class ImportStopped(SystemExit):
    """The error that ends an import which is not needed any more.

    It is a SystemExit, since neither a loop nor code that catches every Exception stops that.
    """


@contextmanager
def stopped_by_hangup(sock: socket.socket, *, term: bool) -> Iterator[None]:
    """Raise ImportStopped inside when the other end of `sock` is closed.

    With `term`, a TERM to this process does the same; otherwise a TERM has no effect.
    """
    import fcntl  # Windows has no such module

    _stop_on(signal.SIGTERM, lambda: term)
    _stop_on(signal.SIGIO, lambda: is_hung_up(sock))
    fcntl.fcntl(sock, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(sock, fcntl.F_GETFL)
    fcntl.fcntl(sock, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        if is_hung_up(sock):  # before O_ASYNC was set
            raise ImportStopped(0)
        yield
    finally:
        fcntl.fcntl(sock, fcntl.F_SETFL, flags)
        signal.signal(signal.SIGIO, signal.SIG_DFL)


def is_hung_up(sock: socket.socket) -> bool:
    """Return True if the other end of this socket is closed."""
    poll = select.poll()
    poll.register(sock, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def die_of(number: int) -> None:
    """End this process by a signal, as if the signal had no handler."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _stop_on(number: int, when: Callable[[], bool]) -> None:
    process = os.getpid()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a process that the module forked has inherited the handler
            die_of(number)
        elif when():
            for once in (signal.SIGTERM, signal.SIGIO):
                signal.signal(once, lambda number, frame: None)
            raise ImportStopped(0)

    signal.signal(number, on_signal)

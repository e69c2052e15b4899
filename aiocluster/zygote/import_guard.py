"""Ends an import that nobody needs any more and that cannot be interrupted.

An import is stopped by a signal (ipc/hangup.py), which code in C, or with the signals blocked or
handled by itself, does not hear. While the primary lives it kills such a zygote; for the time
after it there is a small process beside the import, which sees the primary's end and the zygote's.
"""

import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import psutil


@contextmanager
def ended_with_primary(sock: socket.socket, seconds: float) -> Iterator[None]:
    """Kill this process and its children if it lives `seconds` after the other end has closed.

    At a limit of the kernel's there is nobody to do so, and the import goes on all the same.
    """
    zygote = os.getpid()
    try:
        guard = _start(sock, seconds)
    except OSError:
        guard = 0
    try:
        yield
    finally:
        if guard and os.getpid() == zygote:
            os.kill(guard, signal.SIGKILL)
            with suppress(ChildProcessError):  # the module waits for all children it finds
                os.waitpid(guard, 0)


def _start(sock: socket.socket, seconds: float) -> int:
    # A duplicate: a fork closes the socket in the child.
    hangup = os.dup(sock.fileno())
    try:
        zygote = os.pidfd_open(os.getpid())
        try:
            parent = os.getpid()
            guard = os.fork()
            if guard == 0:
                _guard(hangup, parent, zygote, seconds)
        finally:
            os.close(zygote)
    finally:
        os.close(hangup)
    return guard


def _guard(hangup: int, pid: int, zygote: int, seconds: float) -> NoReturn:
    try:
        # What reaches all processes is for the primary.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        poll = select.poll()
        poll.register(hangup, 0)
        poll.register(zygote, select.POLLIN)
        if zygote not in dict(poll.poll()):
            poll.unregister(hangup)
            if not poll.poll(seconds * 1000):
                _kill(pid, zygote)
    finally:
        os._exit(0)


def _kill(pid: int, zygote: int) -> None:
    """Kill the zygote, then what it has started, but for daemons."""
    with suppress(psutil.Error):
        children = psutil.Process(pid).children(recursive=True)
        signal.pidfd_send_signal(zygote, signal.SIGKILL)
        for child in children:
            with suppress(psutil.Error, ProcessLookupError):
                if child.pid != os.getpid() and os.getsid(child.pid) == os.getsid(0):
                    child.kill()

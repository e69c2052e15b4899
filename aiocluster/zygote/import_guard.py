"""Ends an import that is not needed any more and that cannot be interrupted.

A signal stops an import (ipc/hangup.py), but not C code, nor code that has blocked the signals or
handles them itself. While the primary lives it kills such a zygote. For the time after it, a small
process beside the import watches for the end of the primary and of the zygote.
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

    At a limit of the kernel there is no guard, and the import runs without it.
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
            with suppress(ChildProcessError):  # the module may have reaped all children
                os.waitpid(guard, 0)


def _start(sock: socket.socket, seconds: float) -> int:
    # A duplicate, since a fork closes the socket in the child.
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
        # Signals that reach all processes concern only the primary.
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
    """Kill the zygote, then the processes it has started, except for daemons."""
    with suppress(psutil.Error):
        children = psutil.Process(pid).children(recursive=True)
        signal.pidfd_send_signal(zygote, signal.SIGKILL)
        for child in children:
            with suppress(psutil.Error, ProcessLookupError):
                if child.pid != os.getpid() and os.getsid(child.pid) == os.getsid(0):
                    child.kill()

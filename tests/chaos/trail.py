"""Who has which connection: each worker writes it down, for a test that asks who lost one.

Connections move: who answered last on one need not be who has it now. A line is the time, the
worker's pid, whether it took or gave (back to the primary, for another), and the client's port:

    5824.766913 6113 took 52168

The time is time.perf_counter's in seconds, which all processes of a machine have in common.
"""

import contextlib
import os
import socket
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from aiohttp.web_protocol import RequestHandler

from aiocluster.worker.accept import handoff_receiver as handoff_receiver

# What is written of a client that has closed already.
_GONE = ("", 0)


def follow(write: Callable[[bytes], object]) -> None:
    """Write down from now on what this process takes and gives; `write` is given whole lines."""
    made, give = RequestHandler.connection_made, handoff_receiver.give  # type: ignore[attr-defined]

    def note(what: str, port: int) -> None:
        if port:
            write(f"{time.perf_counter():.6f} {os.getpid()} {what} {port}\n".encode())

    def connection_made(handler: RequestHandler, transport: Any) -> None:
        _, port, *_ = transport.get_extra_info("peername") or _GONE
        note("took", port)
        made(handler, transport)

    def give_noted(sender: socket.socket, fds: Sequence[int], listeners: bytes) -> bool:
        # Before it is done: the next to take it must not be written down first.
        ports = [_port(fd) for fd in fds]
        for port in ports:
            note("gave", port)
        if give(sender, fds, listeners):
            return True
        for port in ports:
            note("took", port)
        return False

    RequestHandler.connection_made = connection_made  # type: ignore[assignment,method-assign]
    handoff_receiver.give = give_noted  # type: ignore[attr-defined]


class Trail:
    """What the workers wrote."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._steps: dict[int, list[tuple[float, int]]] = defaultdict(list)
        for line in lines:
            at, pid, what, port = line.split()
            self._steps[int(port)].append((float(at), int(pid) if what == "took" else 0))
        for steps in self._steps.values():
            steps.sort()

    def holder(self, port: int, at: float, since: float = 0.0) -> int:
        """Return the pid of who had the connection of this port then; 0: nobody, or on its way.

        It was opened at `since`: before that, the port was another connection's. Of port 0, which
        a client has that never got so far, nobody is known.
        """
        steps = self._steps[port] if port else []
        index = bisect_right(steps, at, key=lambda step: step[0])
        when, holder = steps[index - 1] if index else (0.0, 0)
        return holder if when >= since else 0


def _port(fd: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as sock, contextlib.suppress(OSError):
        _, port, *_ = sock.getpeername()
        return int(port)
    return 0

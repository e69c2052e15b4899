"""What the runtime asks of a service."""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Protocol

from aiocluster.ipc.handoff import Client
from aiocluster.worker.accept.capacity import AcceptCapacity

# Gives these descriptors, with the listener each came by and its client if a proxy has told that,
# to the primary, which gets duplicates; False when that is not possible now. One whose client is
# told is given alone.
GiveBack = Callable[[Sequence[int], Sequence[int], Sequence[Client | None]], bool]


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a service can give connections, and who is told of each that ends."""

    room: AcceptCapacity
    give_back: GiveBack = lambda fds, listeners, clients: False


class Service(Protocol):
    """Serves connections with the user's app, or runs the user's job."""

    serves: bool
    """Does it take connections?"""

    async def start(self) -> None:
        """Start the app; what it raises is why the worker cannot boot."""
        ...

    def adopt(
        self,
        fd: int,
        family: int,
        client: Client | None = None,
        peer: Any = None,
        *,
        listener: int = 0,
    ) -> None:
        """Serve this connection, and own it, whatever happens.

        `client` is who it is, where a proxy has told; else who has connected. `peer` is that,
        as accept(2) tells it, if it is known. By `listener` it has come, and would go back.
        """
        ...

    def protocol(self, listener: int) -> asyncio.Protocol:
        """Return what serves a connection that was accepted from this listener; never raise."""
        ...

    def give_back(self, count: int) -> None:
        """Let others have some connections that are idle, or soon will be: `count` at most."""
        ...

    async def drain(self) -> None:
        """Finish what is open and shut the app down; its hooks run once."""
        ...

    def hurry(
        self, timeout: float, *, moving: bool, stopping: bool = False, idle_grace: float = 0.0
    ) -> None:
        """End `drain` within `timeout` seconds from now; may be called again, before it too.

        What is idle moves to another worker if `moving` (each time); if not, it is closed when it
        has not been used for `idle_grace` seconds from now, or less if that is asked again.
        What is unfinished then is cut. If `stopping` (once) nobody goes on with the service.
        """
        ...

    def take_latency(self) -> dict[int, int]:
        """Return the latency histogram's buckets since the last take."""
        ...

    @property
    def over(self) -> "asyncio.Future[None]":
        """Done when it has ended by itself: a job that has returned, or raised this."""
        ...

    @property
    def code(self) -> int:
        """The exit code that its end asks for, but for what was cut, once `drain` is over."""
        ...

    @property
    def context(self) -> Context:
        """What connections are served in: the app's context at the end of its start."""
        ...

    @property
    def cut(self) -> list[str]:
        """What had to be cut, one name each, once `drain` is over."""
        ...

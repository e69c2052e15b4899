"""The interface between the runtime and a service."""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Protocol

from aiocluster.ipc.handoff import Client
from aiocluster.worker.accept.capacity import AcceptCapacity

# Gives connections to the primary, which gets duplicates: their descriptors, listeners, and
# clients if a PROXY header named them. Returns False if that is not possible now. A connection
# with a named client is given alone.
GiveBack = Callable[[Sequence[int], Sequence[int], Sequence[Client | None]], bool]


@dataclass(frozen=True, slots=True)
class Upstream:
    """The way from a service to the primary: connections given back, and notes of their ends."""

    room: AcceptCapacity
    give_back: GiveBack = lambda fds, listeners, clients: False


class Service(Protocol):
    """A service: it serves connections with the user's app, or runs the user's job."""

    serves: bool
    """True if the service takes connections."""

    async def start(self) -> None:
        """Start the app or job; an exception is the reason why the worker cannot boot."""
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
        """Serve this connection, and always own it.

        `client` is the client's address if a PROXY header named it; otherwise the peer is the
        client. `peer` is the address that accept(2) returned, if known. `listener` is the
        connection's listener; if the connection is given back, it has the same one.
        """
        ...

    def protocol(self, listener: int) -> asyncio.Protocol:
        """Return the protocol of a connection accepted from this listener; never raise."""
        ...

    def give_back(self, count: int) -> None:
        """Give other workers up to `count` connections that are idle, or soon will be."""
        ...

    async def drain(self) -> None:
        """Finish the open work and shut the app down; its hooks run once."""
        ...

    def hurry(
        self, timeout: float, *, moving: bool, stopping: bool = False, idle_grace: float = 0.0
    ) -> None:
        """End `drain` within `timeout` seconds from now; unfinished work is cut then.

        This may be called before `drain`, and again. If each call says `moving`, idle connections
        move to other workers. Otherwise a connection is closed after `idle_grace` idle seconds
        from now; the shortest one asked for counts. If any call says `stopping`, the service
        stops in all workers.
        """
        ...

    def take_latency(self) -> dict[int, int]:
        """Return the latency histogram's buckets since the last take."""
        ...

    @property
    def over(self) -> "asyncio.Future[None]":
        """A future that is done when the service ends by itself: its job returned or raised."""
        ...

    @property
    def code(self) -> int:
        """The exit code of the service once `drain` is over, apart from cut work."""
        ...

    @property
    def context(self) -> Context:
        """The context of the connections: the app's context at the end of its start."""
        ...

    @property
    def cut(self) -> list[str]:
        """The names of the work that had to be cut, once `drain` is over."""
        ...

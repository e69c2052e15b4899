"""The inspector finds the affinity key of each accepted connection without reading from it.

The kernel shows the bytes that have arrived (MSG_PEEK) and keeps them for the worker. Often the
head has arrived at once. If not, the connection is held until it has, for at most `timeout`
seconds; after that its client's address is used. Only a PROXY header is read, exactly to its end.

Bytes that were only peeked at stay readable, so a loop that waits for "readable" would spin. So
the held connections are in a separate epoll, edge-triggered, which reports each arrival once.
That and one timer for all make silent connections cheap, and their number is bounded.
"""

import asyncio
import contextlib
import os
import select
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from aiocluster.policies.request_head import MAX_HEAD_BYTES, AffinityKey, Fallback, HeadSearch
from aiocluster.primary.ingress.pending_limit import PendingLimit
from aiocluster.primary.ingress.proxy_protocol import (
    MAX_PROXY_BYTES,
    Endpoint,
    Header,
    Malformed,
    TrustedProxies,
    proxy_header,
)
from aiocluster.primary.sockets.connection import Connection
from aiocluster.primary.sockets.descriptor import host_of, peek, skip

# Connections inspected in one turn of the loop; then other callbacks get theirs.
_BATCH = 256

# Connections that time out within so many seconds of each other are handled together.
_TOGETHER = 0.005

# Why a connection's client address may be used instead, and why a connection may be closed.
FALLBACKS = (*map(str, Fallback), "timeout", "closed", "crowded", "stopped")
REFUSALS = ("untrusted", "malformed", "timeout", "closed", "crowded", "stopped")


class Inspected(NamedTuple):
    """A connection, its affinity key, and its client's address if a proxy has named it."""

    connection: Connection
    affinity: bytes
    client: Endpoint | None = None


class PendingState(NamedTuple):
    """The state of a held connection, for the next program to continue its inspection."""

    connection: Connection
    client: Endpoint | None
    awaits_proxy: bool  # its PROXY header has not been read yet


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectorOptions:
    """The options of an inspector: what it looks for, and for how long."""

    by: AffinityKey
    timeout: float = 1.0  # seconds a connection is held at most
    proxies: TrustedProxies | None = None  # they begin each connection with a PROXY header
    affinity_of_host: Callable[[str], bytes] = str.encode
    were_served: bool = False  # given back by workers: silent ones are closed, as idle ones are


class _Pending:
    """One connection during its inspection."""

    __slots__ = ("awaits_proxy", "client", "connection", "deadline", "has_spoken", "search")

    def __init__(self, connection: Connection, by: AffinityKey) -> None:
        self.connection = connection
        self.search = HeadSearch(by)
        self.awaits_proxy = self.has_spoken = False
        self.client: Endpoint | None = connection.client
        self.deadline = 0.0


class ConnectionInspector:
    """The inspector of connections: it owns them until it passes them on or closes them."""

    def __init__(
        self,
        options: InspectorOptions,
        holding: PendingLimit,
        on_known: Callable[[list[Inspected]], None],
    ) -> None:
        self.fallbacks = dict.fromkeys(FALLBACKS, 0)
        self.refusals = dict.fromkeys(REFUSALS, 0)
        self._options = options
        self._holding = holding
        self._on_known = on_known
        self._loop = asyncio.get_running_loop()
        # By descriptor, the longest held first.
        self._held: OrderedDict[int, _Pending] = OrderedDict()
        self._known: list[Inspected] = []
        self._timer: asyncio.Handle | None = None
        self._epoll = select.epoll()
        holding.join(self)
        self._loop.add_reader(self._epoll.fileno(), self._on_arrivals)

    @property
    def held(self) -> int:
        """The number of connections that have not sent enough yet."""
        return len(self._held)

    @property
    def held_since(self) -> float:
        """See PendingQueue."""
        return self._oldest.deadline - self._options.timeout

    def give_way(self) -> None:
        """See PendingQueue. `on_known` is called a moment later, as another queue may call this."""
        self._give_up(self._oldest, "crowded")
        self._loop.call_soon(self._tell)

    def take(self, connections: Iterable[Connection]) -> None:
        """Own these new connections; pass on at once those that have sent enough."""
        for connection in connections:
            pending = _Pending(connection, self._options.by)
            if self._options.proxies is not None:
                pending.awaits_proxy = True
                if not self._options.proxies.has(host_of(connection.fd)):
                    self._refuse(pending, "untrusted")
                    continue
            if not self._is_judged(pending):
                self._hold(pending)
        self._tell()

    def adopt(self, held: Iterable[PendingState]) -> None:
        """Hold the connections that the previous program held; each gets its full timeout again."""
        for connection, client, awaits_proxy in held:
            pending = _Pending(connection, self._options.by)
            pending.client, pending.awaits_proxy = client, awaits_proxy
            self._hold(pending)
        self._tell()

    def state(self) -> list[PendingState]:
        """Return the state of the held connections; the inspector keeps them."""
        return [
            PendingState(pending.connection, pending.client, pending.awaits_proxy)
            for pending in self._held.values()
        ]

    def close(self) -> list[Inspected]:
        """Return all held connections, by the keys known so far; the caller owns them. Idempotent.

        Connections that still await their PROXY header are closed: no worker could parse the
        rest of the header.
        """
        if self._epoll.closed:
            return []
        for pending in [*self._held.values()]:
            self._give_up(pending, "stopped")
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._holding.part(self)
        if self._timer is not None:
            self._timer.cancel()
        known, self._known = self._known, []
        return known

    # ---- one connection

    def _is_judged(self, pending: _Pending, *, is_over: bool = False) -> bool:
        """Inspect the bytes that have arrived; return True if that settles the connection.

        `is_over`: no more bytes will arrive.
        """
        fd = pending.connection.fd
        data = peek(fd, MAX_HEAD_BYTES + (MAX_PROXY_BYTES if pending.awaits_proxy else 0))
        if data is None:
            data = b""
        elif not data:
            is_over = True
        pending.has_spoken = bool(data)
        if pending.awaits_proxy:
            header = proxy_header(data)
            if isinstance(header, Header) and not skip(fd, header.length):
                header, is_over = None, True
            if not isinstance(header, Header):
                return self._is_refused(pending, header, is_over=is_over)
            pending.awaits_proxy, pending.client = False, header.source
            data = data[header.length :]
        return self._is_found(pending, data, is_over=is_over)

    def _is_refused(self, pending: _Pending, header: Malformed | None, *, is_over: bool) -> bool:
        if header is not None:
            self._refuse(pending, "malformed")
        elif is_over:
            self._refuse(pending, "closed")
        return header is not None or is_over

    def _is_found(self, pending: _Pending, data: bytes, *, is_over: bool) -> bool:
        if self._options.by.is_ip:
            self._go_by_host(pending)
            return True
        found = pending.search.look(data)
        if type(found) is bytes:
            self._release(pending)
            self._known.append(Inspected(pending.connection, found, pending.client))
        elif found is not None:
            self._fall_back(pending, str(found))
        elif is_over:
            self._fall_back(pending, "closed")
        return found is not None or is_over

    def _give_up(self, pending: _Pending, reason: str) -> None:
        """Stop holding a connection, after a last look: the primary itself may be late."""
        if self._is_judged(pending):
            return
        if pending.awaits_proxy:
            self._refuse(pending, reason)
        else:
            self._fall_back(pending, reason)

    def _fall_back(self, pending: _Pending, reason: str) -> None:
        if self._options.were_served and not pending.has_spoken:
            # The address could send the connection to a worker without its session.
            self._close(pending)
            return
        self.fallbacks[reason] += 1
        self._go_by_host(pending)

    def _go_by_host(self, pending: _Pending) -> None:
        connection, client = pending.connection, pending.client
        host = client[0] if client is not None else host_of(connection.fd)
        affinity = self._options.affinity_of_host(host) if host else b""
        self._release(pending)
        self._known.append(Inspected(connection, affinity, client))

    def _refuse(self, pending: _Pending, reason: str) -> None:
        self.refusals[reason] += 1
        self._close(pending)

    def _close(self, pending: _Pending) -> None:
        self._release(pending)
        os.close(pending.connection.fd)

    def _tell(self) -> None:
        if self._known:
            known, self._known = self._known, []
            self._on_known(known)

    # ---- held connections

    @property
    def _oldest(self) -> _Pending:
        return next(iter(self._held.values()))

    def _hold(self, pending: _Pending) -> None:
        if self._epoll.closed:
            self._give_up(pending, "stopped")
            return
        self._holding.shed_idle_connections()
        fd = pending.connection.fd
        pending.deadline = self._loop.time() + self._options.timeout
        self._held[fd] = pending
        try:
            # It also reports, at once, bytes that have arrived before.
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        except OSError:  # the kernel's own limits
            self._give_up(pending, "crowded")
        self._set_timer()

    def _release(self, pending: _Pending) -> None:
        """Stop holding a connection, if it is held. Idempotent."""
        fd = pending.connection.fd
        if self._held.pop(fd, None) is not None:
            # The kernel itself would unregister it only when the worker closes its duplicate.
            with contextlib.suppress(OSError):  # it was never registered
                self._epoll.unregister(fd)

    def _on_arrivals(self) -> None:
        ends = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
        for fd, what in self._epoll.poll(0, _BATCH):
            # None if the connection was passed on after the arrival was reported.
            if (pending := self._held.get(fd)) is not None:
                self._is_judged(pending, is_over=bool(what & ends))
        self._tell()

    def _set_timer(self) -> None:
        if self._timer is None and self._held:
            self._timer = self._loop.call_at(self._oldest.deadline, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        late = self._loop.time() + _TOGETHER
        for _ in range(min(_BATCH, len(self._held))):
            if self._oldest.deadline > late:
                break
            self._give_up(self._oldest, "timeout")
        self._set_timer()
        self._tell()

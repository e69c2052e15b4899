"""One way into a role: some listeners, and the policy by which their connections are given out."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiocluster.config.settings import Settings
from aiocluster.ipc.estate import ConnectionState
from aiocluster.metrics.snapshot import Dispatch
from aiocluster.policies.base import Policy
from aiocluster.policies.client_network import client_network
from aiocluster.policies.request_head import by_from
from aiocluster.primary.choosing import Shared
from aiocluster.primary.descriptor import host_of
from aiocluster.primary.dispatcher import Connection, Dispatcher
from aiocluster.primary.fd_limit import fd_limit
from aiocluster.primary.listener import Listener
from aiocluster.primary.peeking import MAX_HELD, Held, Peeked, Peeker, PeekOptions
from aiocluster.primary.peers import packed_address
from aiocluster.primary.places import Places
from aiocluster.primary.proxy_protocol import TrustedProxies
from aiocluster.primary.refusal import Refusal, service_unavailable

# The share of our descriptors that those may use at one door of whom it is not known yet whose
# they are: silence must not keep us from accepting.
_HELD_SHARE = 4


@dataclass(frozen=True, slots=True)
class DoorSettings:
    """What holds at all doors of a role."""

    max_connections: int | None  # of all workers together; None: any number
    refusal: bytes | None  # what is sent to who finds all full; None: it waits
    is_limited: bool  # is there any number of connections that workers may not exceed?
    peek_timeout: float  # seconds
    proxies: TrustedProxies | None  # who begins each connection with a PROXY header; None: nobody

    @classmethod
    def of(cls, settings: Settings) -> "DoorSettings":
        """Return those of a role."""
        total = settings.max_connections_total
        refusals = {
            "wait": None,
            "close": b"",
            "503": service_unavailable(settings.retry_after),
        }
        return cls(
            None if total == "unlimited" else total,
            refusals[settings.when_full],
            (total, settings.max_connections) != ("unlimited", "unlimited"),
            settings.peek_timeout,
            TrustedProxies(settings.trusted_proxies) if settings.proxy_protocol else None,
        )


class Door:
    """Listeners that share a policy, and its dispatcher."""

    def __init__(
        self,
        policy: Policy,
        settings: DoorSettings,
        places: Places,
        *,
        peeks: bool = True,
    ) -> None:
        """`places` are those of all doors together.

        One that does not peek goes by the client's address where its policy would by what the
        client sends, and expects no PROXY header.
        """
        self.policy = policy
        self.listeners: list[Listener] = []
        self._is_paused, self._is_left_to_workers = True, False
        self.refusal = None if settings.refusal is None else Refusal(settings.refusal)
        self.dispatcher = Dispatcher(
            policy,
            self._pause,
            self._resume,
            None if self.refusal is None else self.refusal.refuse,
            places,
        )
        self._by: str | None = getattr(policy, "by", None)
        self._loop = asyncio.get_running_loop()
        self.peeker = self._new_peeker(settings) if peeks else None

    def _new_peeker(self, settings: DoorSettings) -> Peeker | None:
        """Return what finds out whose a connection is; None where `accept` tells all of it."""
        if self._by in (None, "ip") and settings.proxies is None:
            return None
        options = PeekOptions(
            by=by_from(self._by or "ip"),
            timeout=settings.peek_timeout,
            proxies=settings.proxies,
            max_held=min(MAX_HELD, fd_limit() // _HELD_SHARE),
            affinity_of_host=self._affinity_of_host,
        )
        return Peeker(options, self._on_known)

    def _affinity_of_host(self, host: str) -> bytes:
        return self._affinity_of_peer((host,))

    def _affinity_of_peer(self, peer: Any) -> bytes:
        # A policy that goes by the address makes of it what it likes.
        prefix: int = 128 if self._by == "ip" else getattr(self.policy, "ipv6_prefix", 64)
        return client_network(packed_address(peer), prefix)

    def add(self, listener: Listener) -> None:
        """From here on its connections come by this door."""
        self.listeners.append(listener)
        if self._by is not None and self.peeker is None:
            by_ip = self._by == "ip"
            listener.affinity_of = packed_address if by_ip else self._affinity_of_peer

    def take(self, connections: list[Connection]) -> None:
        """Own what has been accepted."""
        if self.peeker is not None:
            self.peeker.take(connections)
        else:
            self.dispatcher.dispatch(connections, self._loop.time())

    def _on_known(self, known: list[Peeked]) -> None:
        self.dispatcher.dispatch([*map(_as_known, known)], self._loop.time())

    def recognised(self, connection: Connection) -> Connection:
        """Return one that comes back with what is known of it without a word from its client."""
        if connection.affinity or self._by is None:
            return connection
        host = connection.client[0] if connection.client else host_of(connection.fd)
        return connection._replace(affinity=self._affinity_of_host(host))

    def counts(self) -> Dispatch:
        """Return what did not go by the rule here."""
        return Dispatch(
            policy_failures=getattr(self.policy, "failures", 0),
            fallbacks={} if self.peeker is None else _seen(self.peeker.fallbacks),
            refusals={} if self.peeker is None else _seen(self.peeker.refusals),
            turned_away=0 if self.refusal is None else self.refusal.count,
        )

    @property
    def held(self) -> int:
        """Connections of which it is not known yet whose they are."""
        return 0 if self.peeker is None else self.peeker.held

    def state(self) -> Iterator[ConnectionState]:
        """Iterate over the connections that no worker was given yet; they stay here."""
        for connection in self.dispatcher.state():
            yield _state_of(connection, is_held=False)
        for held in () if self.peeker is None else self.peeker.state():
            connection = held.connection._replace(client=held.client)
            yield _state_of(connection, is_held=True, awaits_proxy=held.awaits_proxy)

    def take_back(self, state: ConnectionState) -> None:
        """Own a connection that another program had."""
        connection = Connection(state.fd, state.listener, state.affinity, state.slot, state.client)
        if state.is_held and self.peeker is not None:
            self.peeker.adopt([Held(connection, state.client, state.awaits_proxy)])
        else:
            self.dispatcher.dispatch([connection], self._loop.time())

    def end_peeking(self) -> None:
        """Give out what is held, as far as it is known, and hold nothing more. Idempotent."""
        if self.peeker is not None and (known := self.peeker.close()):
            self._on_known(known)

    def close(self) -> None:
        """Let go of whom it has turned away. Idempotent."""
        self.end_peeking()
        if self.refusal is not None:
            self.refusal.close()

    @property
    def is_shared(self) -> bool:
        """Do workers accept from its listeners by themselves?"""
        return isinstance(self.policy, Shared)

    def leave_to_workers(self, on: bool) -> None:
        """Accept nothing while they do. Idempotent."""
        self._is_left_to_workers = on
        self._accept_or_not()

    def _pause(self) -> None:
        self._is_paused = True
        self._accept_or_not()

    def _resume(self) -> None:
        self._is_paused = False
        self._accept_or_not()

    def _accept_or_not(self) -> None:
        idle = self._is_paused or self._is_left_to_workers
        for listener in self.listeners:
            listener.pause() if idle else listener.resume()


def _seen(counts: Mapping[str, int]) -> dict[str, int]:
    return {reason: count for reason, count in counts.items() if count}


def _state_of(
    connection: Connection, *, is_held: bool, awaits_proxy: bool = False
) -> ConnectionState:
    fd, listener, affinity, slot, client = connection
    return ConnectionState(
        fd=fd,
        listener=listener,
        affinity=affinity,
        slot=slot,
        client=client,
        is_held=is_held,
        awaits_proxy=awaits_proxy,
    )


def _as_known(peeked: Peeked) -> Connection:
    return peeked.connection._replace(affinity=peeked.affinity, client=peeked.client)

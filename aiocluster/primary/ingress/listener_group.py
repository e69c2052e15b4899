"""Listeners that share a policy, with the inspector, dispatcher and load shedder behind them."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiocluster.config.settings import Settings
from aiocluster.ipc.handover import ConnectionState
from aiocluster.metrics.snapshot import Dispatch
from aiocluster.policies.base import Policy
from aiocluster.policies.client_network import client_network
from aiocluster.policies.request_head import by_from
from aiocluster.primary.dispatch.admission import AdmissionControl
from aiocluster.primary.dispatch.dispatcher import Dispatcher
from aiocluster.primary.dispatch.policies import SharedPolicy
from aiocluster.primary.ingress.inspector import (
    ConnectionInspector,
    Inspected,
    InspectorOptions,
    PendingState,
)
from aiocluster.primary.ingress.load_shedder import LoadShedder, service_unavailable
from aiocluster.primary.ingress.pending_limit import PendingLimit
from aiocluster.primary.ingress.proxy_protocol import TrustedProxies
from aiocluster.primary.sockets.connection import Connection
from aiocluster.primary.sockets.descriptor import host_of, packed_address
from aiocluster.primary.sockets.listener import Listener


@dataclass(frozen=True, slots=True)
class IngressSettings:
    """The settings that hold for all listener groups of a role."""

    max_connections: int | None  # of all workers together; None: any number
    refusal: bytes | None  # the answer to a client if all workers are full; None: the client waits
    is_limited: bool  # True if a setting limits the number of connections
    peek_timeout: float  # seconds
    keepalive_timeout: float  # seconds
    proxies: TrustedProxies | None  # they begin each connection with a PROXY header; None: no proxy
    holding: PendingLimit  # how many connections may be held for inspection

    @classmethod
    def of(cls, settings: Settings, holding: PendingLimit | None = None) -> "IngressSettings":
        """Return the settings of a role; roles share `holding`, if there are several."""
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
            settings.keepalive_timeout,
            TrustedProxies(settings.trusted_proxies) if settings.proxy_protocol else None,
            holding or PendingLimit(),
        )


class ListenerGroup:
    """A group of listeners that share a policy and its dispatcher."""

    def __init__(
        self,
        policy: Policy,
        settings: IngressSettings,
        places: AdmissionControl,
        *,
        peeks: bool = True,
    ) -> None:
        """`places` is the admission control of the role.

        A group that does not peek knows nothing of the protocol. If its policy needs a key from
        the request, it uses the client's address; it expects no PROXY header; and it closes
        connections that it turns away without an answer.
        """
        self.policy = policy
        self.listeners: list[Listener] = []
        self._is_paused, self._is_left_to_workers = True, False
        refusal = settings.refusal
        self.refusal = None if refusal is None else LoadShedder(refusal if peeks else b"")
        self.dispatcher = Dispatcher(
            policy,
            self._pause,
            self._resume,
            None if self.refusal is None else self.refusal.refuse,
            places,
        )
        self._by: str | None = getattr(policy, "affinity_by", None)
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        # None if the address that `accept` returns is enough for the policy.
        self.inspector: ConnectionInspector | None = None
        # For connections given back by a worker that is gone; None until there are any.
        self.second_inspector: ConnectionInspector | None = None
        self._has_ended_inspection = False
        if peeks and (self._by not in (None, "ip") or settings.proxies is not None):
            self.inspector = self._new_inspector(settings.peek_timeout, settings.proxies)

    def _new_inspector(
        self, timeout: float, proxies: TrustedProxies | None, *, were_served: bool = False
    ) -> ConnectionInspector:
        options = InspectorOptions(
            by=by_from(self._by or "ip"),
            timeout=timeout,
            proxies=proxies,
            affinity_of_host=self._affinity_of_host,
            were_served=were_served,
        )
        return ConnectionInspector(options, self._settings.holding, self._on_known)

    def _affinity_of_host(self, host: str) -> bytes:
        return self._affinity_of_peer((host,))

    def _affinity_of_peer(self, peer: Any) -> bytes:
        # A policy with the key "ip" gets the full address, and may shorten it itself.
        prefix: int = 128 if self._by == "ip" else getattr(self.policy, "ipv6_prefix", 64)
        return client_network(packed_address(peer), prefix)

    def add(self, listener: Listener) -> None:
        """Add a listener, which passes its connections to this group."""
        self.listeners.append(listener)
        if self._by is not None and self.inspector is None:
            by_ip = self._by == "ip"
            listener.affinity_of = packed_address if by_ip else self._affinity_of_peer

    def take(self, connections: list[Connection]) -> None:
        """Own connections that were just accepted."""
        if self.inspector is not None:
            self.inspector.take(connections)
        else:
            self.dispatcher.dispatch(connections, self._loop.time())

    def _on_known(self, known: list[Inspected]) -> None:
        self.dispatcher.dispatch([*map(_as_known, known)], self._loop.time())

    def take_again(self, connections: Iterable[Connection], now: float) -> None:
        """Own connections that a worker gave back, or had not taken."""
        slots = self.dispatcher.slots_with_room()
        known: list[Connection] = []
        lost: list[Connection] = []
        for one in connections:
            is_lost = one.slot not in slots and self._shows_whose_it_is(one)
            (lost if is_lost else known).append(one)
        if lost:
            self._inspector_of_lost().take(lost)
        if known:
            self.dispatcher.dispatch([*map(self.recognised, known)], now)

    def _shows_whose_it_is(self, connection: Connection) -> bool:
        """Return True if only the next request can show to which worker a connection belongs.

        The client's new connections are dispatched by their requests; so must this one be.
        """
        by_request = self.inspector is not None and self._by not in (None, "ip")
        comes_back = connection.slot >= 0 and not connection.affinity
        return by_request and comes_back and not self.dispatcher.may_rebalance

    def _inspector_of_lost(self) -> ConnectionInspector:
        if self.second_inspector is None:
            timeout = self._settings.keepalive_timeout
            self.second_inspector = self._new_inspector(timeout, None, were_served=True)
            if self._has_ended_inspection:
                self.second_inspector.close()
        return self.second_inspector

    @property
    def _inspectors(self) -> list[ConnectionInspector]:
        return [one for one in (self.inspector, self.second_inspector) if one is not None]

    def recognised(self, connection: Connection) -> Connection:
        """Return a connection that comes back, with its client's address as key if it has none."""
        if connection.affinity or self._by is None:
            return connection
        host = connection.client[0] if connection.client else host_of(connection.fd)
        return connection._replace(affinity=self._affinity_of_host(host))

    def counts(self) -> Dispatch:
        """Return the counts of exceptions to the policy in this group."""
        return Dispatch(
            policy_failures=getattr(self.policy, "failures", 0),
            fallbacks=_seen(one.fallbacks for one in self._inspectors),
            refusals=_seen(one.refusals for one in self._inspectors),
            shed=0 if self.refusal is None else self.refusal.count,
        )

    @property
    def held(self) -> int:
        """The number of new connections that are still being inspected."""
        return 0 if self.inspector is None else self.inspector.held

    def state(self) -> Iterator[ConnectionState]:
        """Iterate over the connections that no worker was given yet; the group keeps them."""
        for connection in self.dispatcher.state():
            yield _state_of(connection, is_held=False)
        for held in (held for inspector in self._inspectors for held in inspector.state()):
            connection = held.connection._replace(client=held.client)
            yield _state_of(connection, is_held=True, awaits_proxy=held.awaits_proxy)

    def take_back(self, state: ConnectionState) -> None:
        """Own a connection that the previous program had."""
        connection = Connection(state.fd, state.listener, state.affinity, state.slot, state.client)
        if state.is_held and self.inspector is not None:
            inspector = self.inspector if state.slot < 0 else self._inspector_of_lost()
            inspector.adopt([PendingState(connection, state.client, state.awaits_proxy)])
        else:
            self.dispatcher.dispatch([connection], self._loop.time())

    def end_inspection(self) -> None:
        """Dispatch held connections by the keys known so far; hold no more. Idempotent."""
        self._has_ended_inspection = True
        for inspector in self._inspectors:
            if known := inspector.close():
                self._on_known(known)

    def close(self) -> None:
        """End inspections, and close connections that were turned away. Idempotent."""
        self.end_inspection()
        if self.refusal is not None:
            self.refusal.close()

    @property
    def is_shared(self) -> bool:
        """True if workers accept from these listeners by themselves."""
        return isinstance(self.policy, SharedPolicy)

    def leave_to_workers(self, on: bool) -> None:
        """Accept nothing while `on`: the workers accept by themselves. Idempotent."""
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


def _seen(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up the counts; leave out those that are 0."""
    return dict(sum(map(Counter, counts), Counter[str]()))


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


def _as_known(peeked: Inspected) -> Connection:
    return peeked.connection._replace(affinity=peeked.affinity, client=peeked.client)

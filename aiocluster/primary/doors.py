"""All ways into a role: its listening sockets, and who is given what comes by each.

A door is some listeners and the policy by which their connections are given out. All doors of
a role lead to the same workers; where nobody has room, each pauses its own listeners.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from aiocluster.config.addresses import Address
from aiocluster.config.settings import Settings
from aiocluster.errors import ConfigError
from aiocluster.ipc.estate import ConnectionState, ListenerState
from aiocluster.ipc.packets import MAX_SHARED_SOCKETS
from aiocluster.metrics.snapshot import Dispatch, together
from aiocluster.policies.base import Policy
from aiocluster.policies.client_network import client_network
from aiocluster.policies.request_head import by_from
from aiocluster.primary.choosing import Shared
from aiocluster.primary.descriptor import host_of
from aiocluster.primary.dispatcher import Connection, Dispatcher, Recipient
from aiocluster.primary.fd_limit import fd_limit
from aiocluster.primary.listener import Listener
from aiocluster.primary.listeners import Listeners
from aiocluster.primary.peeking import MAX_HELD, Held, Peeked, Peeker, PeekOptions
from aiocluster.primary.peers import packed_address
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
            settings.peek_timeout,
            TrustedProxies(settings.trusted_proxies) if settings.proxy_protocol else None,
        )


class Door:
    """Listeners that share a policy, and its dispatcher."""

    def __init__(self, policy: Policy, settings: DoorSettings) -> None:
        self.policy = policy
        self.listeners: list[Listener] = []
        self._is_paused, self._is_left_to_workers = True, False
        self.refusal = None if settings.refusal is None else Refusal(settings.refusal)
        self.dispatcher = Dispatcher(
            policy,
            self._pause,
            self._resume,
            settings.max_connections,
            None if self.refusal is None else self.refusal.refuse,
        )
        self._by: str | None = getattr(policy, "by", None)
        self._loop = asyncio.get_running_loop()
        self.peeker = self._new_peeker(settings)

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
        packed = packed_address((host,))
        # A policy that goes by the address makes of it what it likes.
        prefix: int = 128 if self._by == "ip" else getattr(self.policy, "ipv6_prefix", 64)
        return client_network(packed, prefix)

    def add(self, listener: Listener) -> None:
        """From here on its connections come by this door."""
        self.listeners.append(listener)
        if self._by == "ip" and self.peeker is None:
            listener.affinity_of = packed_address

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


class Doors:
    """Those of one role. To the rest of the primary they are one dispatcher."""

    def __init__(self, policy_for: Callable[[str], Policy], settings: DoorSettings) -> None:
        """`policy_for(address)` returns one object for all addresses that share a policy.

        Of a socket that was handed down the address is "".
        """
        self.listeners = Listeners(self._on_connections)
        self._policy_for = policy_for
        self._settings = settings
        self.counted_before = Dispatch()  # by another program
        self._doors: list[Door] = []
        self._by_listener: list[Door] = []

    # ---- listeners

    def bind(self, addresses: Sequence[Address], *, tcp_keepalive: bool) -> None:
        """Bind each; ConfigError, naming the address, when one cannot be."""
        self.listeners.bind(addresses, tcp_keepalive=tcp_keepalive)
        self._sort()

    def inherit(self, sockets: Sequence[socket.socket], *, tcp_keepalive: bool) -> None:
        """Own these, which listen already and are shared with who has handed them down."""
        self.listeners.inherit(sockets, tcp_keepalive=tcp_keepalive)
        self._sort()

    def adopt(self, states: Sequence[ListenerState], *, tcp_keepalive: bool) -> None:
        """Go on with the sockets of another program."""
        self.listeners.adopt(states, tcp_keepalive=tcp_keepalive)
        self._sort()

    def drop(self) -> None:
        """Nobody serves what would come: be as if nothing had been bound. Before `listen`."""
        self.listeners.drop()
        self._by_listener.clear()
        self._doors.clear()

    @property
    def shared(self) -> dict[int, int]:
        """The descriptors of the listeners from which workers accept, by index."""
        listeners = [one for door in self._doors if door.is_shared for one in door.listeners]
        fds = {listener.index: listener.sock.fileno() for listener in listeners}
        return {index: fd for index, fd in fds.items() if fd >= 0}

    def leave_to_workers(self, on: bool) -> None:
        """Accept from shared listeners only while not `on`: all who serve can. Idempotent."""
        for door in self._doors:
            if door.is_shared:
                door.leave_to_workers(on)

    def _sort(self) -> None:
        """Put each new listener to its door."""
        for listener in self.listeners.all[len(self._by_listener) :]:
            door = self._door(self._policy_for(listener.asked))
            door.add(listener)
            self._by_listener.append(door)
        if (count := len(self.shared)) > MAX_SHARED_SOCKETS:
            raise ConfigError(
                f"bind: {count} sockets; at most {MAX_SHARED_SOCKETS} with the policy 'shared'"
            )

    def _door(self, policy: Policy) -> Door:
        for door in self._doors:
            if door.policy is policy:
                return door
        self._doors.append(door := Door(policy, self._settings))
        return door

    def _on_connections(self, connections: list[Connection]) -> None:
        # A listener accepts only its own.
        self._by_listener[connections[0].listener].take(connections)

    # ---- connections

    @property
    def waiting(self) -> int:
        """Connections accepted that no worker has been given yet."""
        return sum(door.dispatcher.waiting + door.held for door in self._doors)

    @property
    def is_binding(self) -> bool:
        """Does, at any door, a client belong to a worker?"""
        return any(door.dispatcher.is_binding for door in self._doors)

    def add(self, recipient: Recipient) -> None:
        """This worker may be given connections from now on. Idempotent."""
        for door in self._doors:
            door.dispatcher.add(recipient)

    def remove(self, recipient: Recipient) -> None:
        """This worker may not be given connections any more. Idempotent."""
        for door in self._doors:
            door.dispatcher.remove(recipient)

    def update(self, now: float) -> None:
        """A worker came, left, filled up or has room again."""
        for door in self._doors:
            door.dispatcher.update(now)

    def dispatch(self, connections: Sequence[Connection], now: float) -> None:
        """Hand each connection over, now or as soon as somebody has room."""
        for door in self._doors:
            mine = [one for one in connections if self._by_listener[one.listener] is door]
            if mine:
                door.dispatcher.dispatch([*map(door.recognised, mine)], now)

    def end_peeking(self) -> None:
        """Wait for nobody to show whose it is, now and from now on. Idempotent."""
        for door in self._doors:
            door.end_peeking()

    def close(self) -> None:
        """Wait for nobody who was turned away. Idempotent."""
        for door in self._doors:
            door.close()

    def has_punctual(self, now: float) -> bool:
        """Is there a worker that would take a connection at once?"""
        return any(door.dispatcher.has_punctual(now) for door in self._doors)

    def dispatch_counts(self) -> Dispatch:
        """Return what did not go by the rule, at all doors, so far."""
        return together([self.counted_before, *(door.counts() for door in self._doors)])

    def state(self) -> list[ConnectionState]:
        """Return the connections that no worker was given yet; they stay where they are."""
        return [one for door in self._doors for one in door.state()]

    def take_back(self, states: Sequence[ConnectionState]) -> None:
        """Own the connections that another program had."""
        for state in states:
            self._by_listener[state.listener].take_back(state)

    def take_waiting(self) -> list[Connection]:
        """Give up the connections that nobody had room for; the caller owns them."""
        return [one for door in self._doors for one in door.dispatcher.take_waiting()]

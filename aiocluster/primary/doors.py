"""All ways into a role: its listening sockets, and who is given what comes by each.

A door is some listeners and the policy by which their connections are given out. All doors of
a role lead to the same workers; where nobody has room, each pauses its own listeners.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiocluster.config.addresses import Address
from aiocluster.config.settings import Settings
from aiocluster.ipc.estate import ListenerState
from aiocluster.policies.base import Policy
from aiocluster.primary.dispatcher import Connection, Dispatcher, Recipient
from aiocluster.primary.listener import Listener
from aiocluster.primary.listeners import Listeners
from aiocluster.primary.peers import address_of, packed_address
from aiocluster.primary.refusal import Refusal, service_unavailable


@dataclass(frozen=True, slots=True)
class DoorSettings:
    """What holds at all doors of a role."""

    max_connections: int | None  # of all workers together; None: any number
    refusal: bytes | None  # what is sent to who finds all full; None: it waits

    @classmethod
    def of(cls, settings: Settings) -> "DoorSettings":
        """Return those of a role."""
        total = settings.max_connections_total
        refusals = {
            "wait": None,
            "close": b"",
            "503": service_unavailable(settings.retry_after),
        }
        return cls(None if total == "unlimited" else total, refusals[settings.when_full])


class Door:
    """Listeners that share a policy, and its dispatcher."""

    def __init__(self, policy: Policy, settings: DoorSettings) -> None:
        self.policy = policy
        self.listeners: list[Listener] = []
        self.refusal = None if settings.refusal is None else Refusal(settings.refusal)
        self.dispatcher = Dispatcher(
            policy,
            self._pause,
            self._resume,
            settings.max_connections,
            None if self.refusal is None else self.refusal.refuse,
        )

    @property
    def goes_by_address(self) -> bool:
        """Does the policy want to know from where a client comes?"""
        return getattr(self.policy, "by", None) is not None

    def add(self, listener: Listener) -> None:
        """From here on its connections come by this door."""
        self.listeners.append(listener)
        if self.goes_by_address:
            listener.affinity_of = packed_address

    def recognised(self, connection: Connection) -> Connection:
        """Return one that comes back with what is known of it without a word from its client."""
        if connection.affinity or not self.goes_by_address:
            return connection
        return connection._replace(affinity=address_of(connection.fd))

    def close(self) -> None:
        """Let go of whom it has turned away. Idempotent."""
        if self.refusal is not None:
            self.refusal.close()

    def _pause(self) -> None:
        for listener in self.listeners:
            listener.pause()

    def _resume(self) -> None:
        for listener in self.listeners:
            listener.resume()


class Doors:
    """Those of one role. To the rest of the primary they are one dispatcher."""

    def __init__(self, policy_for: Callable[[str], Policy], settings: DoorSettings) -> None:
        """`policy_for(address)` returns one object for all addresses that share a policy.

        Of a socket that was handed down the address is "".
        """
        self.listeners = Listeners(self._on_connections)
        self._policy_for = policy_for
        self._settings = settings
        self._loop = asyncio.get_running_loop()
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

    def _sort(self) -> None:
        """Put each new listener to its door."""
        for listener in self.listeners.all[len(self._by_listener) :]:
            door = self._door(self._policy_for(listener.asked))
            door.add(listener)
            self._by_listener.append(door)

    def _door(self, policy: Policy) -> Door:
        for door in self._doors:
            if door.policy is policy:
                return door
        self._doors.append(door := Door(policy, self._settings))
        return door

    def _on_connections(self, connections: list[Connection]) -> None:
        # A listener accepts only its own.
        door = self._by_listener[connections[0].listener]
        door.dispatcher.dispatch(connections, self._loop.time())

    # ---- connections

    @property
    def waiting(self) -> int:
        """Connections accepted that nobody has room for."""
        return sum(door.dispatcher.waiting for door in self._doors)

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

    def close(self) -> None:
        """Wait for nobody who was turned away. Idempotent."""
        for door in self._doors:
            door.close()

    def has_punctual(self, now: float) -> bool:
        """Is there a worker that would take a connection at once?"""
        return any(door.dispatcher.has_punctual(now) for door in self._doors)

    def state(self) -> list[Connection]:
        """Return the connections that nobody had room for; they stay where they are."""
        return [one for door in self._doors for one in door.dispatcher.state()]

    def take_waiting(self) -> list[Connection]:
        """Give up the connections that nobody had room for; the caller owns them."""
        return [one for door in self._doors for one in door.dispatcher.take_waiting()]

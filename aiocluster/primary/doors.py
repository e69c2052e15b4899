"""All ways into a role: its listening sockets, and who is given what comes by each.

A door is some listeners and the policy by which their connections are given out. All doors of
a role lead to the same workers; where nobody has room, each pauses its own listeners.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence

from aiocluster.config.addresses import Address
from aiocluster.ipc.estate import ListenerState
from aiocluster.policies.base import Policy
from aiocluster.primary.dispatcher import Connection, Dispatcher, Recipient
from aiocluster.primary.listener import Listener
from aiocluster.primary.listeners import Listeners


class Door:
    """Listeners that share a policy, and its dispatcher."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.listeners: list[Listener] = []
        self.dispatcher = Dispatcher(policy, self._pause, self._resume)

    def _pause(self) -> None:
        for listener in self.listeners:
            listener.pause()

    def _resume(self) -> None:
        for listener in self.listeners:
            listener.resume()


class Doors:
    """Those of one role. To the rest of the primary they are one dispatcher."""

    def __init__(self, policy_for: Callable[[str], Policy]) -> None:
        """`policy_for(address)` returns one object for all addresses that share a policy.

        Of a socket that was handed down the address is "".
        """
        self.listeners = Listeners(self._on_connections)
        self._policy_for = policy_for
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

    def _sort(self) -> None:
        """Put each new listener to its door."""
        for listener in self.listeners.all[len(self._by_listener) :]:
            door = self._door(self._policy_for(listener.asked))
            door.listeners.append(listener)
            self._by_listener.append(door)

    def _door(self, policy: Policy) -> Door:
        for door in self._doors:
            if door.policy is policy:
                return door
        self._doors.append(door := Door(policy))
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
                door.dispatcher.dispatch(mine, now)

    def has_punctual(self, now: float) -> bool:
        """Is there a worker that would take a connection at once?"""
        return any(door.dispatcher.has_punctual(now) for door in self._doors)

    def state(self) -> list[Connection]:
        """Return the connections that nobody had room for; they stay where they are."""
        return [one for door in self._doors for one in door.dispatcher.state()]

    def take_waiting(self) -> list[Connection]:
        """Give up the connections that nobody had room for; the caller owns them."""
        return [one for door in self._doors for one in door.dispatcher.take_waiting()]

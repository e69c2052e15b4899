"""All ways into a role: its listening sockets, and who is given what comes by each.

All doors of a role lead to the same workers; where nobody has room, each pauses its own
listeners. A server of the workers' own has a door too, which leads to those that serve it.
"""

import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence

from aiocluster.config.addresses import Address
from aiocluster.errors import ConfigError
from aiocluster.ipc.handover import ConnectionState, ListenerState
from aiocluster.ipc.packets import MAX_SHARED_SOCKETS
from aiocluster.metrics.snapshot import Dispatch, together
from aiocluster.policies.base import Policy
from aiocluster.primary.dispatch.admission import Places
from aiocluster.primary.dispatch.dispatcher import Recipient
from aiocluster.primary.ingress.listener_group import Door, DoorSettings
from aiocluster.primary.sockets.connection import Connection
from aiocluster.primary.sockets.listener import Listener
from aiocluster.primary.sockets.listeners import Listeners


class Doors:
    """Those of one role. To the rest of the primary they are one dispatcher."""

    def __init__(self, policy_for: Callable[[str], Policy], settings: DoorSettings) -> None:
        """`policy_for(address)` returns one object for all addresses that share a policy."""
        self.listeners = Listeners(self._on_connections)
        self._policy_for = policy_for
        self._settings = settings
        self.counted_before = Dispatch()  # by another program, and at doors that are shut
        self._doors: list[Door] = []
        self._own: list[Door] = []  # of servers of the workers' own
        self._by_listener: dict[int, Door] = {}
        self._recipients: list[Recipient] = []
        self._places = Places(
            lambda: self._recipients, settings.max_connections, keeps_room=settings.is_limited
        )

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
        for listener in self.listeners.all:
            del self._by_listener[listener.index]
        self.listeners.drop()
        for door in self._doors:
            door.close()
        self._doors.clear()

    @property
    def shared(self) -> dict[int, int]:
        """The descriptors of the listeners from which workers accept, by index."""
        listeners = [one for door in self._doors if door.is_shared for one in door.listeners]
        fds = {listener.index: listener.sock.fileno() for listener in listeners}
        return {index: fd for index, fd in fds.items() if fd >= 0}

    @property
    def are_listening(self) -> bool:
        """May clients connect?"""
        return self.listeners.are_listening

    def leave_to_workers(self, on: bool) -> None:
        """Accept from shared listeners only while not `on`: all who serve can. Idempotent."""
        for door in self._doors:
            if door.is_shared:
                door.leave_to_workers(on)

    def _sort(self) -> None:
        """Put each new listener to its door."""
        for listener in self.listeners.all:
            if listener.index not in self._by_listener:
                door = self._door(self._policy_for(listener.asked))
                door.add(listener)
                self._by_listener[listener.index] = door
        if (count := len(self.shared)) > MAX_SHARED_SOCKETS:
            raise ConfigError(
                f"bind: {count} sockets; at most {MAX_SHARED_SOCKETS} with the policy 'shared'"
            )

    def _door(self, policy: Policy) -> Door:
        for door in self._doors:
            if door.policy is policy:
                return door
        self._doors.append(door := Door(policy, self._settings, self._places))
        return door

    @property
    def _all(self) -> list[Door]:
        return [*self._doors, *self._own]

    # ---- servers of the workers' own

    def open(self, socks: Mapping[int, socket.socket], policy: Policy) -> Door:
        """Open one more, whose recipients are the caller's to add.

        `socks`, by listener, listen already.
        """
        door = Door(policy, self._settings, self._places, peeks=False)
        for index, sock in socks.items():
            listener = Listener(sock, index, self._on_connections)
            listener.listen()
            door.add(listener)
            self._by_listener[index] = door
            self.listeners.guests.append(listener)
        self._own.append(door)
        return door

    def shut(self, door: Door) -> None:
        """Close one of those, with all that nobody was given."""
        self._own.remove(door)
        for listener in door.listeners:
            listener.close()
            del self._by_listener[listener.index]
            self.listeners.guests.remove(listener)
        door.close()
        self.counted_before = together([self.counted_before, door.counts()])
        close_unserved(door.dispatcher.take_waiting())

    def _on_connections(self, connections: list[Connection]) -> None:
        # A listener accepts only its own.
        self._by_listener[connections[0].listener].take(connections)

    # ---- connections

    @property
    def waiting(self) -> int:
        """Connections accepted that no worker has been given yet."""
        return sum(door.dispatcher.waiting + door.held for door in self._all)

    @property
    def evens_out(self) -> bool:
        """May connections of all doors be moved to even out their numbers?"""
        return all(door.dispatcher.evens_out for door in self._doors)

    def add(self, recipient: Recipient) -> None:
        """This worker may be given connections from now on. Idempotent."""
        self.count(recipient)
        for door in self._doors:
            door.dispatcher.add(recipient)

    def count(self, recipient: Recipient) -> None:
        """Its connections count from now on, by whatever door they came. Idempotent."""
        if recipient not in self._recipients:
            self._recipients.append(recipient)

    def leave(self, recipient: Recipient, now: float) -> None:
        """This worker finishes, or gives back, what it has. Idempotent."""
        self._forget(recipient)
        for door in self._all:
            door.dispatcher.leave(recipient, now)

    def remove(self, recipient: Recipient) -> None:
        """This worker is no more. Idempotent."""
        self._forget(recipient)
        for door in self._all:
            door.dispatcher.remove(recipient)

    def _forget(self, recipient: Recipient) -> None:
        self._recipients = [other for other in self._recipients if other is not recipient]

    def update(self, now: float) -> None:
        """A worker came, left, filled up or has room again."""
        for door in self._all:
            door.dispatcher.update(now)

    def dispatch(self, connections: Sequence[Connection], now: float) -> None:
        """Hand each connection over, now or as soon as somebody has room."""
        for door in self._all:
            mine = [one for one in connections if self._by_listener.get(one.listener) is door]
            if mine:
                door.take_again(mine, now)
        # They come back from a worker, and nobody has that server any more.
        close_unserved([one for one in connections if one.listener not in self._by_listener])

    def end_peeking(self) -> None:
        """Wait for nobody to show whose it is, now and from now on. Idempotent."""
        for door in self._doors:
            door.end_peeking()

    @property
    def are_answering(self) -> bool:
        """Does somebody who was turned away still read why?"""
        refusals = [door.refusal for door in self._all]
        return any(refusal is not None and refusal.is_lingering for refusal in refusals)

    def close(self) -> None:
        """Wait for nobody who was turned away. Idempotent."""
        for door in self._all:
            door.close()

    def has_punctual(self, now: float) -> bool:
        """Is there a worker that would take a connection at once?"""
        return any(door.dispatcher.has_punctual(now) for door in self._all)

    def dispatch_counts(self) -> Dispatch:
        """Return what did not go by the rule, at all doors, so far."""
        return together([self.counted_before, *(door.counts() for door in self._all)])

    def state(self) -> list[ConnectionState]:
        """Return the connections that no worker was given yet; they stay where they are."""
        return [one for door in self._all for one in door.state()]

    def take_back(self, states: Sequence[ConnectionState]) -> None:
        """Own the connections that another program had."""
        for state in states:
            self._by_listener[state.listener].take_back(state)

    def take_waiting(self) -> list[Connection]:
        """Give up the connections that nobody had room for; the caller owns them."""
        return [one for door in self._all for one in door.dispatcher.take_waiting()]


def close_unserved(connections: Iterable[Connection]) -> None:
    """Nobody is there for them, nor will be."""
    for connection in connections:
        os.close(connection.fd)

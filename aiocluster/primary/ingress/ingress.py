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
from aiocluster.primary.dispatch.admission import AdmissionControl
from aiocluster.primary.dispatch.dispatcher import DispatchTarget
from aiocluster.primary.ingress.listener_group import IngressSettings, ListenerGroup
from aiocluster.primary.sockets.connection import Connection
from aiocluster.primary.sockets.listener import Listener
from aiocluster.primary.sockets.listeners import Listeners


class Ingress:
    """Those of one role. To the rest of the primary they are one dispatcher."""

    def __init__(self, policy_for: Callable[[str], Policy], settings: IngressSettings) -> None:
        """`policy_for(address)` returns one object for all addresses that share a policy."""
        self.listeners = Listeners(self._on_connections)
        self._policy_for = policy_for
        self._settings = settings
        self.counted_before = Dispatch()  # by another program, and at doors that are shut
        self._ingress: list[ListenerGroup] = []
        self._own: list[ListenerGroup] = []  # of servers of the workers' own
        self._by_listener: dict[int, ListenerGroup] = {}
        self._recipients: list[DispatchTarget] = []
        self._places = AdmissionControl(
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
        for group in self._ingress:
            group.close()
        self._ingress.clear()

    @property
    def shared(self) -> dict[int, int]:
        """The descriptors of the listeners from which workers accept, by index."""
        listeners = [one for group in self._ingress if group.is_shared for one in group.listeners]
        fds = {listener.index: listener.sock.fileno() for listener in listeners}
        return {index: fd for index, fd in fds.items() if fd >= 0}

    @property
    def are_listening(self) -> bool:
        """May clients connect?"""
        return self.listeners.are_listening

    def leave_to_workers(self, on: bool) -> None:
        """Accept from shared listeners only while not `on`: all who serve can. Idempotent."""
        for group in self._ingress:
            if group.is_shared:
                group.leave_to_workers(on)

    def _sort(self) -> None:
        """Put each new listener to its door."""
        for listener in self.listeners.all:
            if listener.index not in self._by_listener:
                group = self._group(self._policy_for(listener.asked))
                group.add(listener)
                self._by_listener[listener.index] = group
        if (count := len(self.shared)) > MAX_SHARED_SOCKETS:
            raise ConfigError(
                f"bind: {count} sockets; at most {MAX_SHARED_SOCKETS} with the policy 'shared'"
            )

    def _group(self, policy: Policy) -> ListenerGroup:
        for group in self._ingress:
            if group.policy is policy:
                return group
        self._ingress.append(group := ListenerGroup(policy, self._settings, self._places))
        return group

    @property
    def _all(self) -> list[ListenerGroup]:
        return [*self._ingress, *self._own]

    # ---- servers of the workers' own

    def open(self, socks: Mapping[int, socket.socket], policy: Policy) -> ListenerGroup:
        """Open one more, whose recipients are the caller's to add.

        `socks`, by listener, listen already.
        """
        group = ListenerGroup(policy, self._settings, self._places, peeks=False)
        for index, sock in socks.items():
            listener = Listener(sock, index, self._on_connections)
            listener.listen()
            group.add(listener)
            self._by_listener[index] = group
            self.listeners.guests.append(listener)
        self._own.append(group)
        return group

    def shut(self, group: ListenerGroup) -> None:
        """Close one of those, with all that nobody was given."""
        self._own.remove(group)
        for listener in group.listeners:
            listener.close()
            del self._by_listener[listener.index]
            self.listeners.guests.remove(listener)
        group.close()
        self.counted_before = together([self.counted_before, group.counts()])
        close_unserved(group.dispatcher.take_waiting())

    def _on_connections(self, connections: list[Connection]) -> None:
        # A listener accepts only its own.
        self._by_listener[connections[0].listener].take(connections)

    # ---- connections

    @property
    def waiting(self) -> int:
        """Connections accepted that no worker has been given yet."""
        return sum(group.dispatcher.waiting + group.held for group in self._all)

    @property
    def may_rebalance(self) -> bool:
        """May connections of all doors be moved to even out their numbers?"""
        return all(group.dispatcher.may_rebalance for group in self._ingress)

    def add(self, recipient: DispatchTarget) -> None:
        """This worker may be given connections from now on. Idempotent."""
        self.count(recipient)
        for group in self._ingress:
            group.dispatcher.add(recipient)

    def count(self, recipient: DispatchTarget) -> None:
        """Its connections count from now on, by whatever door they came. Idempotent."""
        if recipient not in self._recipients:
            self._recipients.append(recipient)

    def leave(self, recipient: DispatchTarget, now: float) -> None:
        """This worker finishes, or gives back, what it has. Idempotent."""
        self._forget(recipient)
        for group in self._all:
            group.dispatcher.leave(recipient, now)

    def remove(self, recipient: DispatchTarget) -> None:
        """This worker is no more. Idempotent."""
        self._forget(recipient)
        for group in self._all:
            group.dispatcher.remove(recipient)

    def _forget(self, recipient: DispatchTarget) -> None:
        self._recipients = [other for other in self._recipients if other is not recipient]

    def update(self, now: float) -> None:
        """A worker came, left, filled up or has room again."""
        for group in self._all:
            group.dispatcher.update(now)

    def dispatch(self, connections: Sequence[Connection], now: float) -> None:
        """Hand each connection over, now or as soon as somebody has room."""
        for group in self._all:
            mine = [one for one in connections if self._by_listener.get(one.listener) is group]
            if mine:
                group.take_again(mine, now)
        # They come back from a worker, and nobody has that server any more.
        close_unserved([one for one in connections if one.listener not in self._by_listener])

    def end_peeking(self) -> None:
        """Wait for nobody to show whose it is, now and from now on. Idempotent."""
        for group in self._ingress:
            group.end_peeking()

    @property
    def are_answering(self) -> bool:
        """Does somebody who was turned away still read why?"""
        refusals = [group.refusal for group in self._all]
        return any(refusal is not None and refusal.is_lingering for refusal in refusals)

    def close(self) -> None:
        """Wait for nobody who was turned away. Idempotent."""
        for group in self._all:
            group.close()

    def has_responsive(self, now: float) -> bool:
        """Is there a worker that would take a connection at once?"""
        return any(group.dispatcher.has_responsive(now) for group in self._all)

    def dispatch_counts(self) -> Dispatch:
        """Return what did not go by the rule, at all doors, so far."""
        return together([self.counted_before, *(group.counts() for group in self._all)])

    def state(self) -> list[ConnectionState]:
        """Return the connections that no worker was given yet; they stay where they are."""
        return [one for group in self._all for one in group.state()]

    def take_back(self, states: Sequence[ConnectionState]) -> None:
        """Own the connections that another program had."""
        for state in states:
            self._by_listener[state.listener].take_back(state)

    def take_waiting(self) -> list[Connection]:
        """Give up the connections that nobody had room for; the caller owns them."""
        return [one for group in self._all for one in group.dispatcher.take_waiting()]


def close_unserved(connections: Iterable[Connection]) -> None:
    """Nobody is there for them, nor will be."""
    for connection in connections:
        os.close(connection.fd)

"""All ways into a role: its listeners, in groups that share a policy and a dispatcher.

All listener groups of a role give to the same workers; if all workers are full, each group pauses
its own listeners. A server that workers opened has a group too, which gives to its own workers.
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
    """The listener groups of one role. The rest of the primary sees them as one dispatcher."""

    def __init__(self, policy_for: Callable[[str], Policy], settings: IngressSettings) -> None:
        """`policy_for(address)` returns one object for all addresses that share a policy."""
        self.listeners = Listeners(self._on_connections)
        self._policy_for = policy_for
        self._settings = settings
        self.counted_before = Dispatch()  # by the previous program, and at groups now shut
        self._ingress: list[ListenerGroup] = []
        self._own: list[ListenerGroup] = []  # of servers that workers opened
        self._by_listener: dict[int, ListenerGroup] = {}
        self._recipients: list[DispatchTarget] = []
        self._places = AdmissionControl(
            lambda: self._recipients, settings.max_connections, keeps_room=settings.is_limited
        )

    # ---- listeners

    def bind(self, addresses: Sequence[Address], *, tcp_keepalive: bool) -> None:
        """Bind each address; ConfigError, naming the address, if one cannot be bound."""
        self.listeners.bind(addresses, tcp_keepalive=tcp_keepalive)
        self._sort()

    def inherit(self, sockets: Sequence[socket.socket], *, tcp_keepalive: bool) -> None:
        """Own these sockets, which listen already and which their supervisor keeps open."""
        self.listeners.inherit(sockets, tcp_keepalive=tcp_keepalive)
        self._sort()

    def adopt(self, states: Sequence[ListenerState], *, tcp_keepalive: bool) -> None:
        """Take over the sockets of the previous program."""
        self.listeners.adopt(states, tcp_keepalive=tcp_keepalive)
        self._sort()

    def drop(self) -> None:
        """Close the bound sockets, as no worker will serve them. Call it before `listen`."""
        for listener in self.listeners.all:
            del self._by_listener[listener.index]
        self.listeners.drop()
        for group in self._ingress:
            group.close()
        self._ingress.clear()

    @property
    def shared(self) -> dict[int, int]:
        """The descriptors, by index, of the listeners from which workers accept."""
        listeners = [one for group in self._ingress if group.is_shared for one in group.listeners]
        fds = {listener.index: listener.sock.fileno() for listener in listeners}
        return {index: fd for index, fd in fds.items() if fd >= 0}

    @property
    def are_listening(self) -> bool:
        """True if clients can connect."""
        return self.listeners.are_listening

    def leave_to_workers(self, on: bool) -> None:
        """Leave shared listeners to the workers if `on`; else accept from them too. Idempotent."""
        for group in self._ingress:
            if group.is_shared:
                group.leave_to_workers(on)

    def _sort(self) -> None:
        """Put each new listener into its group."""
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

    # ---- servers that workers opened

    def open(self, socks: Mapping[int, socket.socket], policy: Policy) -> ListenerGroup:
        """Open one more group; the caller adds its backends.

        The sockets `socks`, by listener index, listen already.
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
        """Close such a group, with all of its connections that no worker was given."""
        self._own.remove(group)
        for listener in group.listeners:
            listener.close()
            del self._by_listener[listener.index]
            self.listeners.guests.remove(listener)
        group.close()
        self.counted_before = together([self.counted_before, group.counts()])
        close_unserved(group.dispatcher.take_waiting())

    def _on_connections(self, connections: list[Connection]) -> None:
        # One batch comes from one listener.
        self._by_listener[connections[0].listener].take(connections)

    # ---- connections

    @property
    def waiting(self) -> int:
        """Connections accepted that no worker has been given yet."""
        return sum(group.dispatcher.waiting + group.held for group in self._all)

    @property
    def may_rebalance(self) -> bool:
        """True if connections of all groups may be moved to even out their numbers."""
        return all(group.dispatcher.may_rebalance for group in self._ingress)

    def add(self, recipient: DispatchTarget) -> None:
        """Let this worker get connections from now on. Idempotent."""
        self.count(recipient)
        for group in self._ingress:
            group.dispatcher.add(recipient)

    def count(self, recipient: DispatchTarget) -> None:
        """Count this worker's connections from now on, of whatever group. Idempotent."""
        if recipient not in self._recipients:
            self._recipients.append(recipient)

    def leave(self, recipient: DispatchTarget, now: float) -> None:
        """Give this worker nothing more; its open connections still count. Idempotent."""
        self._forget(recipient)
        for group in self._all:
            group.dispatcher.leave(recipient, now)

    def remove(self, recipient: DispatchTarget) -> None:
        """Forget this worker: it is gone. Idempotent."""
        self._forget(recipient)
        for group in self._all:
            group.dispatcher.remove(recipient)

    def _forget(self, recipient: DispatchTarget) -> None:
        self._recipients = [other for other in self._recipients if other is not recipient]

    def update(self, now: float) -> None:
        """Look at all workers again: one came, left, is full or has capacity again."""
        for group in self._all:
            group.dispatcher.update(now)

    def dispatch(self, connections: Sequence[Connection], now: float) -> None:
        """Hand each connection over, now or as soon as a worker has capacity."""
        for group in self._all:
            mine = [one for one in connections if self._by_listener.get(one.listener) is group]
            if mine:
                group.take_again(mine, now)
        # The rest comes back from a worker, but its server has been closed.
        close_unserved([one for one in connections if one.listener not in self._by_listener])

    def end_inspection(self) -> None:
        """End all inspections now, and begin none from now on. Idempotent."""
        for group in self._ingress:
            group.end_inspection()

    @property
    def are_answering(self) -> bool:
        """True while a client that was turned away still reads the answer."""
        refusals = [group.refusal for group in self._all]
        return any(refusal is not None and refusal.is_lingering for refusal in refusals)

    def close(self) -> None:
        """End all inspections, and close connections that were turned away. Idempotent."""
        for group in self._all:
            group.close()

    def has_responsive(self, now: float) -> bool:
        """Return True if a worker would take a connection at once."""
        return any(group.dispatcher.has_responsive(now) for group in self._all)

    def dispatch_counts(self) -> Dispatch:
        """Return the counts of exceptions to the policy, at all groups, so far."""
        return together([self.counted_before, *(group.counts() for group in self._all)])

    def state(self) -> list[ConnectionState]:
        """Return the connections that no worker was given yet; the groups keep them."""
        return [one for group in self._all for one in group.state()]

    def take_back(self, states: Sequence[ConnectionState]) -> None:
        """Own the connections that the previous program had."""
        for state in states:
            self._by_listener[state.listener].take_back(state)

    def take_waiting(self) -> list[Connection]:
        """Give up the connections that wait for capacity; the caller owns them."""
        return [one for group in self._all for one in group.dispatcher.take_waiting()]


def close_unserved(connections: Iterable[Connection]) -> None:
    """Close connections that no worker will ever serve."""
    for connection in connections:
        os.close(connection.fd)

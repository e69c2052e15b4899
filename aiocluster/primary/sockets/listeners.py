"""All listeners of a role, as one object."""

import socket
from collections.abc import Callable, Sequence

from aiocluster.config.settings import Address
from aiocluster.ipc.handover import ListenerState
from aiocluster.primary.sockets.backlog import has_half_open
from aiocluster.primary.sockets.bind import bind, check_count, check_overlap
from aiocluster.primary.sockets.connection import Connection
from aiocluster.primary.sockets.listener import Listener


class Listeners:
    """The listeners of one role.

    They are bound first, so that a port in use is reported at once, and listen and accept later.
    """

    def __init__(self, on_connections: Callable[[list[Connection]], None]) -> None:
        self._on_connections = on_connections
        self._listeners: list[Listener] = []
        # The listeners of servers that workers opened; they come and go while the role runs.
        self.guests: list[Listener] = []

    @property
    def all(self) -> Sequence[Listener]:
        """The listeners of `bind`, by index."""
        return self._listeners

    def bind(self, addresses: Sequence[Address], *, tcp_keepalive: bool) -> None:
        """Bind each address; ConfigError, naming the address, if one cannot be bound."""
        for address in addresses:
            for sock in bind(address, tcp_keepalive=tcp_keepalive):
                index = len(self._listeners)
                self._listeners.append(
                    Listener(sock, index, self._on_connections, asked=str(address))
                )
        check_overlap([listener.sock for listener in self._listeners])

    def inherit(self, sockets: Sequence[socket.socket], *, tcp_keepalive: bool) -> None:
        """Own these sockets, which listen already and which their supervisor keeps open."""
        check_count(sockets)
        for index, sock in enumerate(sockets):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, tcp_keepalive)
            asked = str(Address(*sock.getsockname()[:2]))
            self._listeners.append(
                Listener(sock, index, self._on_connections, shared=True, asked=asked)
            )

    def state(self) -> list[ListenerState]:
        """Return what the next program needs of each listener, by index."""
        return [
            ListenerState(
                fd=listener.sock.fileno(), is_shared=listener.is_shared, asked=listener.asked
            )
            for listener in self._listeners
        ]

    def adopt(self, states: Sequence[ListenerState], *, tcp_keepalive: bool) -> None:
        """Take over the sockets of the previous program."""
        for index, state in enumerate(states):
            sock = socket.socket(fileno=state.fd)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, tcp_keepalive)
            self._listeners.append(
                Listener(
                    sock, index, self._on_connections, shared=state.is_shared, asked=state.asked
                )
            )

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """The real (host, port) of each listener, by index."""
        return tuple(listener.address for listener in self._listeners)

    @property
    def families(self) -> list[int]:
        """The address family of each listener, by index."""
        return [listener.sock.family for listener in self._listeners]

    @property
    def are_listening(self) -> bool:
        """True if clients can connect."""
        return any(listener.is_listening for listener in self._listeners)

    def listen(self, backlog: int) -> None:
        """Let clients connect; ConfigError if another process has taken a port since `bind`."""
        for listener in self._listeners:
            listener.listen(backlog)

    def drop_new_syns(self) -> None:
        """Let no new connection begin. Idempotent."""
        for listener in self._everyone:
            listener.drop_new_syns()

    def accept_rest(self) -> None:
        """Accept the connections that are in the backlogs now."""
        for listener in self._everyone:
            listener.accept_rest()

    @property
    def are_awaited(self) -> bool:
        """True if a backlog has connections, or a half-open connection may enter one."""
        ports = {listener.address[1] for listener in self._everyone if listener.ends_with_us}
        rest = any(listener.has_rest for listener in self._everyone)
        return rest or (bool(ports) and has_half_open(ports))

    def drop(self) -> None:
        """Close the bound sockets, as no worker will serve them. Call it before `listen`."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def close(self) -> None:
        """Accept the connections in the backlogs, then close all listeners. Idempotent."""
        for listener in self._everyone:
            listener.accept_rest()
            listener.close()

    @property
    def _everyone(self) -> list[Listener]:
        return [*self._listeners, *self.guests]

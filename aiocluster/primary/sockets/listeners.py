"""All listening sockets of a role, as one."""

import socket
from collections.abc import Callable, Sequence

from aiocluster.config.settings import Address
from aiocluster.ipc.handover import ListenerState
from aiocluster.primary.sockets.backlog import has_half_open
from aiocluster.primary.sockets.bind import bind, check_count, check_overlap
from aiocluster.primary.sockets.connection import Connection
from aiocluster.primary.sockets.listener import Listener


class Listeners:
    """Bound first, so that a port that is taken is told at once; deaf and paused until told."""

    def __init__(self, on_connections: Callable[[list[Connection]], None]) -> None:
        self._on_connections = on_connections
        self._listeners: list[Listener] = []
        # Those of servers of the workers' own: they come and go while all is running.
        self.guests: list[Listener] = []

    @property
    def all(self) -> Sequence[Listener]:
        """Each, by its index."""
        return self._listeners

    def bind(self, addresses: Sequence[Address], *, tcp_keepalive: bool) -> None:
        """Bind each; ConfigError, naming the address, when one cannot be."""
        for address in addresses:
            for sock in bind(address, tcp_keepalive=tcp_keepalive):
                index = len(self._listeners)
                self._listeners.append(
                    Listener(sock, index, self._on_connections, asked=str(address))
                )
        check_overlap([listener.sock for listener in self._listeners])

    def inherit(self, sockets: Sequence[socket.socket], *, tcp_keepalive: bool) -> None:
        """Own these, which listen already and are shared with who has handed them down."""
        check_count(sockets)
        for index, sock in enumerate(sockets):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, tcp_keepalive)
            asked = str(Address(*sock.getsockname()[:2]))
            self._listeners.append(
                Listener(sock, index, self._on_connections, shared=True, asked=asked)
            )

    def state(self) -> list[ListenerState]:
        """Return what the next program needs of each, by its index."""
        return [
            ListenerState(
                fd=listener.sock.fileno(), is_shared=listener.is_shared, asked=listener.asked
            )
            for listener in self._listeners
        ]

    def adopt(self, states: Sequence[ListenerState], *, tcp_keepalive: bool) -> None:
        """Go on with the sockets of another program."""
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
        """The real (host, port) of each, by its index."""
        return tuple(listener.address for listener in self._listeners)

    @property
    def families(self) -> list[int]:
        """The address family of each, by its index."""
        return [listener.sock.family for listener in self._listeners]

    @property
    def are_listening(self) -> bool:
        """May clients connect?"""
        return any(listener.is_listening for listener in self._listeners)

    def listen(self, backlog: int) -> None:
        """Let clients in; ConfigError when somebody else has taken a port since."""
        for listener in self._listeners:
            listener.listen(backlog)

    def drop_new_syns(self) -> None:
        """Let no new connection begin. Idempotent."""
        for listener in self._everyone:
            listener.drop_new_syns()

    def accept_rest(self) -> None:
        """Accept who has already connected."""
        for listener in self._everyone:
            listener.accept_rest()

    @property
    def are_awaited(self) -> bool:
        """Is anybody still to be accepted, or about to be?"""
        ports = {listener.address[1] for listener in self._everyone if listener.ends_with_us}
        rest = any(listener.has_rest for listener in self._everyone)
        return rest or (bool(ports) and has_half_open(ports))

    def drop(self) -> None:
        """Nobody serves what would come: be as if nothing had been bound. Before `listen`."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def close(self) -> None:
        """Accept who has already connected; then nobody can any more. Idempotent."""
        for listener in self._everyone:
            listener.accept_rest()
            listener.close()

    @property
    def _everyone(self) -> list[Listener]:
        return [*self._listeners, *self.guests]

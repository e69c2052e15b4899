"""One listening socket: it accepts connections in batches, pauses and resumes.

The primary owns the listening sockets, and no other process closes one. So a worker drains by
getting no new connections, and no connection is lost because its listener was closed.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

from aiocluster.config.settings import Address
from aiocluster.errors import ConfigError
from aiocluster.ipc.accept_backoff import AcceptBackoff
from aiocluster.ipc.accept_queue import waiting_in
from aiocluster.ipc.forks import keep_from_children
from aiocluster.primary.sockets.backlog import drop_new_syns
from aiocluster.primary.sockets.connection import Connection
from aiocluster.private_apis import accept_of

log = logging.getLogger("aiocluster.listener")

# Connections accepted in one wake-up; then other listeners and signals get their turn.
_ACCEPT_BATCH = 64


class Listener:
    """A listening socket in the primary's loop. It starts paused, and not listening.

    A `shared` socket listens already, and still does after it is closed here: its backlog stays.
    """

    def __init__(
        self,
        sock: socket.socket,
        index: int,
        on_connections: Callable[[list[Connection]], None],
        *,
        shared: bool = False,
        asked: str = "",
    ) -> None:
        self.sock = sock
        keep_from_children(sock)
        self.index = index
        self.asked = asked  # the address as configured, or as handed down
        self.is_shared = shared
        # Returns the affinity key for a peer address; None: the policy needs no key from it.
        self.affinity_of: Callable[[Any], bytes] | None = None
        self._on_connections = on_connections
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._listening = False
        self._paused = True
        self._trouble = AcceptBackoff(sock, log, self._watch)

    @property
    def address(self) -> tuple[str, int]:
        """The real (host, port)."""
        host, port = self.sock.getsockname()[:2]
        return host, port

    def listen(self, backlog: int | None = None) -> None:
        """Let clients connect: from now on they wait in the backlog, at most `backlog` of them.

        None: the socket listens already. If another process has started to listen at the address
        since it was bound, raise ConfigError.
        """
        try:
            if backlog is not None and not self.is_shared:
                self.sock.listen(backlog)
        except OSError as error:
            where = Address(*self.address)
            raise ConfigError(f"cannot listen on {where}: {error.strerror}") from error
        self._listening = True
        self._watch()

    def pause(self) -> None:
        """Leave connections in the backlog. Idempotent."""
        self._paused = True
        self._watch()

    def resume(self) -> None:
        """Accept again. Idempotent."""
        self._paused = False
        self._watch()

    def drop_new_syns(self) -> None:
        """Let no new connection begin; half-open connections are still completed."""
        if self.ends_with_us:
            drop_new_syns(self.sock)

    @property
    def is_listening(self) -> bool:
        """True if clients can connect."""
        return self._listening

    @property
    def ends_with_us(self) -> bool:
        """True if clients can connect now, and cannot once this listener is closed."""
        return self._listening and not self.is_shared

    @property
    def has_rest(self) -> bool:
        """True if the backlog has connections that a close would reset."""
        return self.ends_with_us and waiting_in(self.sock) > 0

    def accept_rest(self) -> None:
        """Accept the connections that are in the backlog now, before a close."""
        # Only as many as there are now: clients may keep connecting.
        left = waiting_in(self.sock) if self._listening else 0
        while left > 0 and not self._trouble.is_waiting and (accepted := self._accept_batch()):
            left -= accepted

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self._listening = False
        self._watch()
        self._trouble.forget()
        self.sock.close()

    def _watch(self) -> None:
        wanted = self._listening and not self._paused and not self._trouble.is_waiting
        if wanted and not self._reading:
            self._loop.add_reader(self.sock.fileno(), self._accept_batch)
        elif self._reading and not wanted:
            self._loop.remove_reader(self.sock.fileno())
        self._reading = wanted

    def _accept_batch(self) -> int:
        """Accept the connections in the backlog, at most a batch; return how many."""
        # sock.accept() builds a socket object for each connection, which costs 3 to 4 µs more
        # than the descriptor alone.
        accept, index = accept_of(self.sock), self.index
        affinity_of, batch = self.affinity_of, list[Connection]()
        try:
            # At least one: TCP_INFO may say nothing about the backlog.
            for _ in range(min(max(waiting_in(self.sock), 1), _ACCEPT_BATCH)):
                # One by one: an error does not lose the connections accepted before it.
                fd, peer = accept()
                batch.append(
                    Connection(fd, index)
                    if affinity_of is None
                    else Connection(fd, index, affinity_of(peer))
                )
        except BlockingIOError:
            pass
        except OSError as error:
            self._trouble.met(error)
        if batch:
            if self._trouble.is_told:
                self._trouble.passed()
            self._on_connections(batch)
        return len(batch)

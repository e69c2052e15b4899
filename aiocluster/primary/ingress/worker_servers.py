"""Servers that workers open: which workers have and serve each, and when it is closed.

When the first worker asks for an address, the primary binds it; other workers that ask for the
same address share it. A worker in service gets a server's connections once it has sent Serving for
all of its listeners. If the last worker that has a server closes it, the primary closes it too. If
that worker drains or dies, the server stays open for a while, with its clients in the backlog: the
next worker in the slot will ask for the same address.
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from aiocluster.config.addresses import Address
from aiocluster.ipc.handover import ServerState
from aiocluster.ipc.messages import (
    Bound,
    Endpoint,
    Listen,
    ListenFailed,
    Listening,
    Message,
    Serving,
    Unlisten,
)
from aiocluster.policies.base import Policy
from aiocluster.primary.dispatch.dispatcher import DispatchTarget
from aiocluster.primary.ingress.ingress import Ingress
from aiocluster.primary.ingress.listener_group import ListenerGroup
from aiocluster.primary.ingress.listener_ids import ListenerIds
from aiocluster.primary.sockets.bind import listen_at

log = logging.getLogger("aiocluster.listener")


class Asker(Protocol):
    """The part of a WorkerHandle that WorkerServers needs."""

    @property
    def id(self) -> int: ...
    @property
    def backend(self) -> DispatchTarget: ...
    @property
    def channel(self) -> "AskerChannel": ...


class AskerChannel(Protocol):
    """The channel on which a worker gets its answers."""

    def post(self, message: Message) -> None: ...


class _Server:
    """A server: its sockets, the listener group behind them, and the workers that have it."""

    def __init__(self, ask: Listen, bound: Sequence[Bound], group: ListenerGroup) -> None:
        self.key = _key(ask)
        self.backlog = ask.backlog
        self.bound = [*bound]
        self.group = group
        self.workers: dict[int, set[int]] = {}  # by id: the listeners each has sent Serving for
        self.end: asyncio.TimerHandle | None = None  # closes a server that no worker has

    def __str__(self) -> str:
        return ", ".join(str(Address(one.endpoint.host, one.endpoint.port)) for one in self.bound)

    def is_served_by(self, worker_id: int) -> bool:
        return len(self.workers.get(worker_id, ())) == len(self.bound)


Key = tuple[tuple[Endpoint, ...], int]


def _key(ask: Listen | ServerState) -> Key:
    return tuple(ask.endpoints), ask.nth


class WorkerServers:
    """The servers that the workers of one role opened."""

    def __init__(
        self,
        ingress: Ingress,
        new_policy: Callable[[], Policy],
        taken: Callable[[], Iterable[socket.socket]],
        *,
        patience: float,
        tcp_keepalive: bool,
    ) -> None:
        """`taken` returns sockets that are bound and may not listen yet.

        A server that no worker has stays open for `patience` seconds.
        """
        self.numbers = ListenerIds()
        self._ingress = ingress
        self._new_policy = new_policy
        self._taken = taken
        self._patience = patience
        self._tcp_keepalive = tcp_keepalive
        self._by_key: dict[Key, _Server] = {}
        self._by_listener: dict[int, _Server] = {}
        self._in_service: dict[int, DispatchTarget] = {}  # by id
        self._is_closed = False
        self._loop = asyncio.get_running_loop()

    # ---- what workers ask for, and when they come and go

    def hear(self, worker: Asker, message: Listen | Serving | Unlisten) -> None:
        """Handle a message of a worker that is not draining."""
        match message:
            case Listen():
                # During a stop the worker needs no answer: it will get a Drain.
                if not self._is_closed:
                    self._listen(worker, message)
            case Serving(listener=listener):
                self._serve(worker.id, listener)
            case Unlisten(listener=listener):
                server = self._by_listener.get(listener)
                if server is not None and worker.id in server.workers:
                    self._part(server, worker.id)
                    if not server.workers:
                        self._close(server)

    def enter(self, worker: Asker) -> None:
        """Let a worker get connections of the servers that it serves. Idempotent."""
        self._in_service[worker.id] = worker.backend
        self._ingress.count(worker.backend)
        for server in self._all:
            self._let_in(server, worker.id)

    def leave(self, worker_id: int) -> None:
        """Take all servers from a worker that drains or is dead. Idempotent."""
        for server in self._all:
            if worker_id in server.workers:
                self._part(server, worker_id)
                if not server.workers:
                    self._wait_for_another(server)
        self._in_service.pop(worker_id, None)

    def expect(self) -> None:
        """Wait anew for a worker to ask for servers that none has: one was just forked."""
        for server in self._all:
            if not server.workers:
                self._wait_for_another(server)

    # ---- the stop

    def begin_stop(self) -> None:
        """Open no more servers; close those that no worker serves. Idempotent."""
        self._is_closed = True
        for server in self._all:
            if server.end is not None:
                server.end.cancel()
            if not any(map(server.is_served_by, server.workers)):
                self._close(server)

    # ---- from one program to the next

    def state(self) -> list[ServerState]:
        """Return the state of each server, for the next program."""
        return [
            ServerState(
                endpoints=[*server.key[0]],
                nth=server.key[1],
                backlog=server.backlog,
                bound=server.bound,
                fds=[listener.sock.fileno() for listener in server.group.listeners],
                workers={one: sorted(served) for one, served in server.workers.items()},
            )
            for server in self._all
        ]

    def adopt(self, states: Sequence[ServerState], free_numbers: Sequence[int]) -> None:
        """Take over the servers of the previous program, before any message of its workers."""
        self.numbers.adopt(free_numbers)
        for state in states:
            socks = {
                one.listener: socket.socket(fileno=fd)
                for one, fd in zip(state.bound, state.fds, strict=True)
            }
            for sock in socks.values():
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, self._tcp_keepalive)
            ask = Listen(0, state.endpoints, state.nth, state.backlog)
            server = self._open(ask, state.bound, socks)
            server.workers = {one: set(served) for one, served in state.workers.items()}
            if not server.workers:
                self._wait_for_another(server)

    # ---- inside

    @property
    def _all(self) -> list[_Server]:
        return [*self._by_key.values()]

    def _listen(self, worker: Asker, ask: Listen) -> None:
        try:
            server = self._shared(worker.id, ask)
        except OSError as error:
            number = error.errno or errno.EINVAL
            text = error.strerror or str(error)
            worker.channel.post(ListenFailed(ask.request_id, number, text))
            return
        server.workers[worker.id] = set()
        if server.end is not None:
            server.end.cancel()
            server.end = None
        worker.channel.post(Listening(ask.request_id, server.bound))

    def _shared(self, worker_id: int, ask: Listen) -> _Server:
        server = self._by_key.get(_key(ask))
        if server is None:
            return self._bind(ask)
        if worker_id in server.workers:
            text = f"{os.strerror(errno.EADDRINUSE)}: this worker serves it already"
            raise OSError(errno.EADDRINUSE, text)
        return server

    def _bind(self, ask: Listen) -> _Server:
        found = listen_at(
            ask.endpoints, ask.backlog, tcp_keepalive=self._tcp_keepalive, taken=self._taken()
        )
        try:
            numbers = self.numbers.take(len(found))
        except OSError:
            for one in found:
                one.sock.close()
            raise
        bound = [Bound(number, one.endpoint) for number, one in zip(numbers, found, strict=True)]
        socks = dict(zip(numbers, (one.sock for one in found), strict=True))
        server = self._open(ask, bound, socks)
        log.info("listening on %s (opened by a worker)", server)
        return server

    def _open(
        self, ask: Listen, bound: Sequence[Bound], socks: Mapping[int, socket.socket]
    ) -> _Server:
        group = self._ingress.open(socks, self._new_policy())
        server = _Server(ask, bound, group)
        self._by_key[server.key] = server
        self._by_listener.update(dict.fromkeys(socks, server))
        return server

    def _serve(self, worker_id: int, listener: int) -> None:
        server = self._by_listener.get(listener)
        if server is not None and worker_id in server.workers:
            server.workers[worker_id].add(listener)
            self._let_in(server, worker_id)

    def _let_in(self, server: _Server, worker_id: int) -> None:
        """Give a worker connections of a server, if it serves the server and is in service."""
        backend = self._in_service.get(worker_id)
        if backend is not None and server.is_served_by(worker_id):
            server.group.dispatcher.add(backend)
            server.group.dispatcher.update(self._loop.time())

    def _part(self, server: _Server, worker_id: int) -> None:
        del server.workers[worker_id]
        if (backend := self._in_service.get(worker_id)) is not None:
            server.group.dispatcher.part(backend)
            server.group.dispatcher.update(self._loop.time())

    def _wait_for_another(self, server: _Server) -> None:
        if server.end is not None:
            server.end.cancel()
        if not self._is_closed:  # else the stop ends it
            server.end = self._loop.call_later(self._patience, self._give_up, server)

    def _give_up(self, server: _Server) -> None:
        log.info("closed %s: no worker has asked for it again", server)
        self._close(server)

    def _close(self, server: _Server) -> None:
        if server.end is not None:
            server.end.cancel()
        del self._by_key[server.key]
        for one in server.bound:
            del self._by_listener[one.listener]
        self._ingress.shut(server.group)
        self.numbers.give_back(one.listener for one in server.bound)

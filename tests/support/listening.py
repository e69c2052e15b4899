"""A primary, as far as the servers of one worker need it: it binds, accepts and hands over.

Real sockets. It does what the messages promise and no more: a worker is given connections of a
listener from its Serving to its Unlisten.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

from aiocluster.ipc.handoff import Taken, give, take_all
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
from tests.support.connections import none_lost


class BindingPrimary:
    """Answers by `answer`, gives by `sender`, the primary's end of a handoff."""

    def __init__(self, sender: socket.socket, first_listener: int = 1) -> None:
        self.answer: Callable[[Message], None] = lambda message: None
        self.heard: list[Message] = []
        self.is_silent = False  # it answers nothing
        self.listeners: dict[int, socket.socket] = {}
        self.serving: set[int] = set()
        self._sender = sender
        self._next = first_listener
        self._loop = asyncio.get_running_loop()

    def hear(self, message: Message) -> None:
        """The worker says something."""
        self.heard.append(message)
        match message:
            case Listen():
                if not self.is_silent:
                    self._listen(message)
            case Serving(listener=listener):
                self.listeners[listener].listen(16)
                self.serving.add(listener)
                self._loop.add_reader(self.listeners[listener], self._accept, listener)
            case Unlisten(listener=listener):
                self._close(listener)

    def hand_over(self, listener: int) -> socket.socket:
        """Give a connection that nobody asked to be accepted; return the client's end."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            accepted, _ = server.accept()
        with accepted:
            assert give(self._sender, [accepted.fileno()], bytes([listener]))
        client.setblocking(False)
        return client

    def returned(self) -> list[Taken]:
        """Take what came back."""
        return take_all(self._sender, none_lost)

    def close(self) -> None:
        """Let go of all."""
        for listener in [*self.listeners]:
            self._close(listener)

    def _listen(self, listen: Listen) -> None:
        with contextlib.ExitStack() as unused:
            try:
                bound = [self._bind(endpoint, unused) for endpoint in listen.endpoints]
            except OSError as error:
                number, text = error.errno or 0, error.strerror or ""
                self.answer(ListenFailed(listen.request_id, number, text))
                return
            unused.pop_all()
        self.answer(Listening(listen.request_id, bound))

    def _bind(self, endpoint: Endpoint, unused: contextlib.ExitStack) -> Bound:
        sock = unused.enter_context(socket.socket(endpoint.family, socket.SOCK_STREAM))
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if endpoint.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((endpoint.host, endpoint.port))
        listener, self._next = self._next, self._next + 1
        self.listeners[listener] = sock
        unused.callback(self.listeners.pop, listener)
        port = sock.getsockname()[1]
        return Bound(listener, Endpoint(endpoint.family, endpoint.host, port, endpoint.scope))

    def _accept(self, listener: int) -> None:
        accepted, _ = self.listeners[listener].accept()
        with accepted:
            assert give(self._sender, [accepted.fileno()], bytes([listener]))

    def _close(self, listener: int) -> None:
        if (sock := self.listeners.pop(listener, None)) is not None:
            self._loop.remove_reader(sock)
            self.serving.discard(listener)
            sock.close()


def close_returned(returned: list[Taken]) -> list[int]:
    """Close what came back; return of which listener each was."""
    for fd, *_ in returned:
        os.close(fd)
    return [listener for _, listener, _ in returned]

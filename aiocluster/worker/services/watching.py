"""Hears when a connection is over, whatever the user's protocol is.

asyncio tells its protocol alone, so that is made to tell us too. That costs nothing while the
connection lives. One protocol may have many connections, also some that are none of ours, and is
not told which of them is lost: the transport of that one has let go of it a turn later.
"""

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any, cast


class _Connections:
    """Those here that one protocol has: mostly one."""

    __slots__ = ("_is_due", "_loop", "all", "restore")

    def __init__(self, restore: Callable[[], None]) -> None:
        """`restore()` leaves the protocol as it was found."""
        self.restore = restore
        self.all: list[Watched] = []
        self._loop = asyncio.get_running_loop()
        self._is_due = False

    def look_soon(self) -> None:
        """One of them may be lost. Many that are lost at a time are one look."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._is_due = False
        for connection in [*self.all]:
            connection.look()


# Of each protocol that is watched, by its id.
_watched: dict[int, _Connections] = {}


def _watch(protocol: asyncio.BaseProtocol, connection: "Watched") -> None:
    """Have the connection looked at whenever the protocol is told that one is lost."""
    if id(protocol) not in _watched:
        _watched[id(protocol)] = _Connections(_make_tell(protocol))
    _watched[id(protocol)].all.append(connection)


def _unwatch(protocol: asyncio.BaseProtocol, connection: "Watched") -> None:
    connections = _watched[id(protocol)]
    connections.all.remove(connection)
    if not connections.all:
        del _watched[id(protocol)]
        connections.restore()


def _on_told(protocol: asyncio.BaseProtocol) -> None:
    if (connections := _watched.get(id(protocol))) is not None:
        connections.look_soon()


def _make_tell(protocol: asyncio.BaseProtocol) -> Callable[[], None]:
    """Let it tell us, too; return what undoes that."""
    before = getattr(protocol, "__dict__", {}).get("connection_lost")
    tell: Any = protocol.connection_lost

    def connection_lost(error: Exception | None) -> None:
        try:
            tell(error)
        finally:
            _on_told(protocol)

    try:
        setattr(protocol, "connection_lost", connection_lost)  # noqa: B010 (on the object itself)
    except AttributeError:  # its class has slots; it keeps the one that tells
        if type(protocol) not in _telling_classes:
            protocol.__class__ = _telling_class(cast(Any, type(protocol)))
        return lambda: None

    def restore() -> None:
        # Else it would keep its protocol alive until the collector comes. Who has put something
        # else in its place meanwhile, keeps that: it tells us nothing that we do not know.
        attributes = protocol.__dict__
        if attributes.get("connection_lost") is connection_lost:
            del attributes["connection_lost"]
            if before is not None:
                attributes["connection_lost"] = before

    return restore


_telling_classes: set[type] = set()


@cache
def _telling_class(kind: Any) -> type:
    """The same class, but that it tells."""

    def connection_lost(self: asyncio.BaseProtocol, error: Exception | None) -> None:
        try:
            kind.connection_lost(self, error)
        finally:
            _on_told(self)

    made = type(kind.__name__, (kind,), {"__slots__": (), "connection_lost": connection_lost})
    _telling_classes.add(made)
    return made


class Watched:
    """An open connection. `over(it)` is called once, when it is lost or could not be made."""

    __slots__ = ("_over", "_protocol", "_telling", "transport")

    def __init__(self, over: "Callable[[Watched], None]") -> None:
        self.transport: asyncio.Transport | None = None
        self._protocol: asyncio.BaseProtocol | None = None
        self._telling: asyncio.BaseProtocol | None = None  # mostly the same
        self._over: Callable[[Watched], None] | None = over

    def follow(self, protocol: asyncio.BaseProtocol) -> None:
        """This protocol will be told when it is lost."""
        self._protocol = protocol
        _watch(protocol, self)
        before, self._telling = self._telling, protocol
        if before is not None:
            _unwatch(before, self)

    def made(self, transport: asyncio.Transport | None) -> None:
        """It has this transport; and may be lost already."""
        if self._over is not None:
            self.transport = transport
            self.look()

    def end(self) -> None:
        """It is over. Idempotent."""
        over, self._over = self._over, None
        telling, self._telling = self._telling, None
        self.transport = self._protocol = None
        if telling is not None:
            _unwatch(telling, self)
        if over is not None:
            over(self)

    def look(self) -> None:
        """See whether it is lost; follow the transport, if it was given to another protocol."""
        transport = self.transport
        if transport is None or (current := transport.get_protocol()) is self._protocol:
            return
        if transport.is_closing():
            self.end()
        else:
            self._follow_if_possible(current)

    def _follow_if_possible(self, protocol: asyncio.BaseProtocol) -> None:
        try:
            self.follow(protocol)
        except TypeError:  # the loop's own, as for start_tls, which tells the one before it
            return

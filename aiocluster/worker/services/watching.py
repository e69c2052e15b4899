"""Hears when a connection is over, whatever the user's protocol is.

asyncio tells its protocol alone, so that is made to tell us too. That costs nothing while the
connection lives.
"""

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any, cast

# Of protocols whose class has slots, and so no room for what is to be called.
_in_slots: dict[int, Callable[[], None]] = {}


def watch(protocol: asyncio.BaseProtocol, lost: Callable[[], None]) -> None:
    """Call `lost()` when the protocol has heard that its connection is lost."""
    tell: Any = protocol.connection_lost

    def connection_lost(error: Exception | None) -> None:
        # It is called once; and would keep its protocol alive until the collector comes.
        protocol.__dict__.pop("connection_lost", None)
        try:
            tell(error)
        finally:
            lost()

    try:
        setattr(protocol, "connection_lost", connection_lost)  # noqa: B010 (on the object itself)
    except AttributeError:
        protocol.__class__ = _watched(cast(Any, type(protocol)))
        _in_slots[id(protocol)] = lost


@cache
def _watched(kind: Any) -> type:
    """The same class, but that it tells."""

    def connection_lost(self: asyncio.BaseProtocol, error: Exception | None) -> None:
        try:
            kind.connection_lost(self, error)
        finally:
            if (lost := _in_slots.pop(id(self), None)) is not None:
                lost()

    return type(kind.__name__, (kind,), {"__slots__": (), "connection_lost": connection_lost})


class Watched:
    """An open connection. `over(it)` is called once, when it is lost or could not be made."""

    __slots__ = ("_over", "_protocol", "transport")

    def __init__(self, over: "Callable[[Watched], None]") -> None:
        self.transport: asyncio.Transport | None = None
        self._protocol: asyncio.BaseProtocol | None = None
        self._over: Callable[[Watched], None] | None = over

    def follow(self, protocol: asyncio.BaseProtocol) -> None:
        """This protocol will be told when it is lost."""
        self._protocol = protocol
        watch(protocol, self.end)

    def end(self) -> None:
        """It is over. Idempotent."""
        over, self._over = self._over, None
        self.transport = self._protocol = None
        if over is not None:
            over(self)

    def look(self) -> None:
        """Follow the transport, if it was given to another protocol meanwhile."""
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

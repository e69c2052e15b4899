"""Migration: idle connections move to another worker, through the primary.

A connection between two requests has no state but its socket, so its client sees nothing. A
connection is checked and moved in one turn of the loop: data that arrives meanwhile stays in the
kernel, for the next worker. uvloop delivers what it reads at once, so it never holds bytes that
the handler has not seen.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence

from aiocluster.worker.http.metered_server import MeteredHandler, MeteredServer
from aiocluster.worker.services.base import GiveBack

# Connections in one message: few enough for a primary that is short of descriptors.
_MAX_BATCH = 32

# Connections that are checked, and may move, in one slice, and the seconds until the next slice:
# 1 or 2 ms of work and a pause. In the pause, requests on other connections are served, and the
# primary and the next worker take the moved connections.
_SLICE = 32
_SLICE_PAUSE = 0.001

# Seconds between two checks of all connections: a connection may become movable without an event,
# when a slow reader has got its response, or when the handoff's queue has room again.
_SWEEP_INTERVAL = 0.05

# Seconds between two looks for a few movable connections, and how many looks there are: a busy
# client leaves its connection idle for moments only.
_PICK_INTERVAL = 0.005
_PICKS = 40

# The handler waits for the next request two turns after the last one was done; one turn to spare.
_TURNS_UNTIL_IDLE = 3


class Migration:
    """A migration of all connections of a worker, until `stop`; each moves once it is movable."""

    def __init__(self, server: MeteredServer, give_back: GiveBack) -> None:
        self._server = server
        self._give_back = give_back
        self._loop = asyncio.get_running_loop()
        self._sweeping: asyncio.TimerHandle | None = None
        self._stopped = False

    def start(self) -> None:
        """Move all idle connections, and the others as soon as they are idle."""
        self._server.on_done(self._on_done)
        self._sweep()

    def stop(self) -> None:
        """Move no more. Idempotent."""
        self._stopped = True
        if self._sweeping is not None:
            self._sweeping.cancel()

    def _sweep(self) -> None:
        self._sweep_from(self._server.metered, 0)

    def _sweep_from(self, handlers: Sequence[MeteredHandler], begin: int) -> None:
        """Move the movable connections among `handlers`, a slice at a time, as there is room."""
        end = begin + _SLICE
        if not self._move(handlers[begin:end]):
            end = begin
        if end < len(handlers):
            self._sweeping = self._loop.call_later(_SLICE_PAUSE, self._sweep_from, handlers, end)
        else:
            self._sweeping = self._loop.call_later(_SWEEP_INTERVAL, self._sweep)

    def _on_done(self, handler: MeteredHandler) -> None:
        """Look at a connection after its response: it will be idle in a moment."""
        self._loop.call_soon(self._look, handler, _TURNS_UNTIL_IDLE)

    def _look(self, handler: MeteredHandler, turns: int) -> None:
        if self._stopped:
            return
        if is_movable(handler):
            self._move([handler])
        elif turns:
            self._loop.call_soon(self._look, handler, turns - 1)

    def _move(self, handlers: Iterable[MeteredHandler]) -> bool:
        """Move the movable connections among `handlers`; return False if the room ran out."""
        movable = [handler for handler in handlers if is_movable(handler)]
        return move_some(movable, self._give_back) == len(movable)


class PartialMigration:
    """A migration of a few connections of a worker that keeps serving."""

    def __init__(self, server: MeteredServer, give_back: GiveBack) -> None:
        self._server = server
        self._give_back = give_back
        self._loop = asyncio.get_running_loop()
        self._wanted = self._looks = 0
        self._timer: asyncio.TimerHandle | None = None

    def give(self, count: int) -> None:
        """Move up to `count` connections as soon as they are idle. The newest count holds."""
        self._wanted, self._looks = count, _PICKS
        if self._timer is None:
            self._look()

    def stop(self) -> None:
        """Move no more. Idempotent."""
        self._wanted = 0

    def _look(self) -> None:
        self._timer = None
        self._looks -= 1
        movable = [handler for handler in self._server.metered if is_movable(handler)]
        self._wanted -= move_some(movable[: self._wanted], self._give_back)
        if self._wanted > 0 and self._looks > 0:
            self._timer = self._loop.call_later(_PICK_INTERVAL, self._look)


def is_movable(handler: MeteredHandler) -> bool:
    """Return True if another process could serve this connection from here on."""
    transport = handler.transport
    return (
        transport is not None
        and handler.is_between_requests()
        and not transport.is_closing()
        and not transport.get_write_buffer_size()
    )


def move_some(movable: Sequence[MeteredHandler], give_back: GiveBack) -> int:
    """Move these connections until there is no room; return how many moved. The others stay."""
    moved = 0
    for batch in _batches(movable):
        if not move(batch, give_back):
            break
        moved += len(batch)
    return moved


def _batches(movable: Sequence[MeteredHandler]) -> Iterator[Sequence[MeteredHandler]]:
    for handler in movable:
        if handler.client is not None:
            yield [handler]
    rest = [handler for handler in movable if handler.client is None]
    for start in range(0, len(rest), _MAX_BATCH):
        yield rest[start : start + _MAX_BATCH]


def move(handlers: Sequence[MeteredHandler], give_back: GiveBack) -> bool:
    """Move these movable connections, all or none; return True if they moved."""
    transports = [handler.transport for handler in handlers if handler.transport is not None]
    fds = [transport.get_extra_info("socket").fileno() for transport in transports]
    listeners = [handler.listener for handler in handlers]
    if not give_back(fds, listeners, [handler.client for handler in handlers]):
        return False
    for transport, handler in zip(transports, handlers, strict=True):
        # This descriptor is not the last one, so the client gets neither FIN nor reset.
        transport.abort()
        handler.force_close()
    return True

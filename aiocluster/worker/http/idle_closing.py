"""Closes the idle connections of a draining worker, each when its grace is over.

A server may close a kept-alive connection at any time. If the client sends a request at that
moment, the request is lost (RFC 9112, 9.3.1). So a connection stays open until its next response,
which says that it is the last one, or for a grace: a client that sends requests more often loses
none. The grace counts from the beginning of the drain. If a response began before the drain, and
could not say that it is the last one, the grace counts from the end of this response.

When its grace is over, a connection closes, unless there is a sign that its next request is on its
way; then it stays until this request is answered.
"""

import asyncio
from typing import cast

from aiocluster.worker.http.metered_server import MeteredHandler, MeteredServer, Sign
from aiocluster.worker.services.deadline import DrainDeadline

# A client that has just connected is about to send its request: in a drain it has this many
# seconds to do so. So has a client if its connection may hold the beginning of a request.
_FIRST_REQUEST_GRACE = 1.0

# A client that sends a request every N seconds is a little later than N: its timer is late, and
# its request takes a while to arrive.
_LATENESS = 0.1

# The grace takes at most this share of a drain's time; the rest is for the app's own shutdown.
_GRACE_SHARE = 0.5

# Seconds between two looks for connections that have become idle during a drain.
_SWEEP_INTERVAL = 0.05

# Connections that one turn of the loop looks at, and may close: a few milliseconds.
_SLICE = 64


class IdleClosing:
    """A closer of one worker's idle connections, at the latest at the deadline of its drain."""

    def __init__(self, deadline: DrainDeadline) -> None:
        self._deadline = deadline
        self._grace: float | None = None  # seconds; None: connections move, and have no grace
        self._grace_end = DrainDeadline()
        self._loop = asyncio.get_running_loop()
        self._begun_at = 0.0
        # When each connection that the last sweep left idle had become idle.
        self._idle_since: dict[MeteredHandler, float] = {}
        self._last_requests_begun = asyncio.Event()

    def shorten_grace(self, seconds: float, timeout: float) -> None:
        """Let idle connections stay for `seconds`, in a drain that may take `timeout` from now.

        A further call can only shorten the grace.
        """
        self._grace = seconds if self._grace is None else min(self._grace, seconds)
        self._grace_end.at_latest_in(timeout * _GRACE_SHARE)

    def begin(self, server: MeteredServer) -> "asyncio.Task[None]":
        """Begin to close connections that are or become idle; return the task that does so."""
        self._begun_at = self._loop.time()
        closing = self._loop.create_task(self._run(server))
        closing.add_done_callback(lambda _: self._last_requests_begun.set())
        return closing

    async def wait_for_last_requests(self) -> None:
        """Wait until no connection is idle, or until the grace is over."""
        await self._last_requests_begun.wait()

    async def _run(self, server: MeteredServer) -> None:
        await turns()  # a request that has already arrived is begun first
        while True:
            await self._sweep(server)
            await asyncio.sleep(_SWEEP_INTERVAL)

    async def _sweep(self, server: MeteredServer) -> None:
        idle_since: dict[MeteredHandler, float] = {}
        for number, connection in enumerate(_open(server), 1):
            if server.is_idle(connection):
                since = self._idle_since.get(connection) or self._loop.time()
                if self._is_due(server, connection, since):
                    connection.force_close()
                else:
                    idle_since[connection] = since
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        self._idle_since = idle_since
        if not idle_since or self._grace_left(self._begun_at) <= 0:
            self._last_requests_begun.set()

    def _is_due(self, server: MeteredServer, connection: MeteredHandler, since: float) -> bool:
        if self._grace_left(since) > 0:
            return False
        spared = self._spared_sign()
        return spared is None or server.sign_of(connection) < spared

    def _grace_left(self, since: float) -> float:
        """Return the seconds for which a connection that is idle since `since` may stay."""
        if not self._grace:
            return 0.0
        return min(since + self._grace + _LATENESS - self._loop.time(), self._grace_end.left)

    def _spared_sign(self) -> Sign | None:
        """Return the least sign of a request for which a connection stays after its grace."""
        if self._deadline.left <= 0:  # the deadline may come nearer during the drain
            return None
        if self._grace is None:  # the time for migration is over: these did not move
            return Sign.UNREAD
        is_early = self._loop.time() < self._begun_at + _FIRST_REQUEST_GRACE
        return Sign.PERHAPS if is_early else Sign.PART


def _open(server: MeteredServer) -> list[MeteredHandler]:
    """Return the open connections, a DegradedServer's too (aiohttp's handlers)."""
    return cast("list[MeteredHandler]", server.connections)


async def turns() -> None:
    """Let the loop run its ready callbacks."""
    for _ in range(3):
        await asyncio.sleep(0)

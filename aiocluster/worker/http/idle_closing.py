"""Closes the connections that wait for a request in a drain, when it is time to.

A server may close a kept-alive connection at any time, and its client may send a request at that
moment, which is then lost (RFC 9112, 9.3.1). So a connection stays open until its next response,
which says that it is the last one, or for a grace: a client that asks more often than that loses
nothing. The grace counts from the beginning of the drain. Where a response had begun before that,
and could not say that it is the last one, it counts from the end of that response.

A connection whose grace has passed closes, unless something shows that its next request is on its
way; then it stays until that is answered.
"""

import asyncio
from typing import cast

from aiocluster.worker.http.metered_server import MeteredHandler, MeteredServer, Sign
from aiocluster.worker.services.deadline import DrainDeadline

# A client that has just connected is about to send its request: in a drain it has these seconds
# for that, and so has a connection that may hold the beginning of one.
_FIRST_REQUEST_GRACE = 1.0

# A client that asks once in so many seconds asks a little later than that: its timer is late, and
# its request takes a while to arrive.
_LATENESS = 0.1

# The grace takes at most this share of a drain's time; the rest is for the app's own shutdown.
_GRACE_SHARE = 0.5

# Seconds between two looks for connections that have become idle during a drain.
_SWEEP_INTERVAL = 0.05

# Connections that one turn of the loop looks at, and may close: a few milliseconds.
_SLICE = 64


class IdleClosing:
    """Closes the idle connections of one worker, at the latest at the deadline of its drain."""

    def __init__(self, deadline: DrainDeadline) -> None:
        self._deadline = deadline
        self._grace: float | None = None  # seconds; None: connections move, and have no grace
        self._grace_end = DrainDeadline()
        self._loop = asyncio.get_running_loop()
        self._begun_at = 0.0
        # When those that the last sweep left idle had become so.
        self._idle_since: dict[MeteredHandler, float] = {}
        self._last_requests_begun = asyncio.Event()

    def shorten_grace(self, seconds: float, timeout: float) -> None:
        """Let idle connections stay for `seconds`, in a drain that may take `timeout` from now.

        Called again, the grace only gets shorter.
        """
        self._grace = seconds if self._grace is None else min(self._grace, seconds)
        self._grace_end.at_latest_in(timeout * _GRACE_SHARE)

    def begin(self, server: MeteredServer) -> "asyncio.Task[None]":
        """Begin to close what is idle, or will be; cancel the task that this returns to end it."""
        self._begun_at = self._loop.time()
        closing = self._loop.create_task(self._run(server))
        closing.add_done_callback(lambda _: self._last_requests_begun.set())
        return closing

    async def wait_for_last_requests(self) -> None:
        """Wait until no connection is left that may still be asked something, or for the grace."""
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
        """Return the seconds that a connection which is idle `since` then may stay."""
        if not self._grace:
            return 0.0
        return min(since + self._grace + _LATENESS - self._loop.time(), self._grace_end.left)

    def _spared_sign(self) -> Sign | None:
        """Return which sign of a request lets a connection stay that has no grace any more."""
        if self._deadline.left <= 0:  # which may yet come nearer
            return None
        if self._grace is None:  # connections have moved as long as they could: this is the rest
            return Sign.UNREAD
        is_early = self._loop.time() < self._begun_at + _FIRST_REQUEST_GRACE
        return Sign.PERHAPS if is_early else Sign.PART


def _open(server: MeteredServer) -> list[MeteredHandler]:
    """Return the open connections, also those of a DegradedServer, whose handlers are aiohttp's."""
    return cast("list[MeteredHandler]", server.connections)


async def turns() -> None:
    """Let the loop do what it has ready."""
    for _ in range(3):
        await asyncio.sleep(0)

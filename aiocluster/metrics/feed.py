"""How snapshots reach who asked for them: at their own pace, and never an old one.

All who want them equally often share them. A subscriber may be slower than its interval. Nothing
is queued for it: what lies unread is replaced, and it is told how many it missed.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Generic, TypeVar

from msgspec.structs import replace

from aiocluster.errors import ConfigError
from aiocluster.metrics.snapshot import Snapshot, since

T = TypeVar("T")


def paced(
    interval: float,
    take: Callable[[int], T],
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> AsyncGenerator[T, None]:
    """Yield `take(missed)` once an interval, first after one interval from the first request.

    A consumer that comes late gets one at once, and is then back on the beat: each tick is
    either delivered or counted as missed, and the beat does not drift. When `sleep` returns
    True there will be no more. A bad interval raises ConfigError here, not when the first is
    asked for.
    """
    check_interval(interval)
    return _paced(interval, take, now, sleep)


def check_interval(interval: object) -> None:
    """Raise ConfigError, with the value, unless it is a time that snapshots can be apart."""
    if isinstance(interval, bool) or not isinstance(interval, int | float):
        raise ConfigError(f"interval must be a number of seconds, not {interval!r}")
    if not 0.0 < interval < math.inf:
        raise ConfigError(f"interval must be more than 0 seconds and finite, not {interval!r}")


async def _paced(
    interval: float,
    take: Callable[[int], T],
    now: Callable[[], float],
    sleep: Callable[[float], Awaitable[object]],
) -> AsyncGenerator[T, None]:
    due = now() + interval
    while True:
        if await sleep(max(due - now(), 0.0)):
            return
        # A timer may fire a little early: that is no tick less.
        missed = max(int((now() - due) // interval), 0)
        due += (missed + 1) * interval
        yield take(missed)


class LatestValue(Generic[T]):
    """A box with room for one item: a new one replaces one that nobody took yet.

    One taker at a time. It sees None once the box is closed and empty.
    """

    def __init__(self) -> None:
        self._unread: list[T] = []  # one at most; a list, so that an item may be None
        self._missed = 0
        self._closed = False
        self._changed = asyncio.Event()

    def put(self, item: T) -> None:
        """Leave `item` for the taker; after `close` it is dropped, as nobody will come."""
        if self._closed:
            return
        self._missed += len(self._unread)
        self._unread = [item]
        self._changed.set()

    async def take(self) -> tuple[T, int] | None:
        """Return the newest item and how many it replaced, as soon as there is one."""
        while not self._unread:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        taken = (self._unread.pop(), self._missed)
        self._missed = 0
        return taken

    def close(self) -> None:
        """Let the taker have what is still unread, then None. Idempotent."""
        self._closed = True
        self._changed.set()


class SnapshotBox(LatestValue[Snapshot]):
    """The mailbox of one of those who share snapshots.

    Their rates are since the one before; a subscriber that did not take that one gets the
    rates since the one it took. One that lay unread is given to `renew`, which may return one of
    now in its place.
    """

    def __init__(self, renew: Callable[[Snapshot], Snapshot] = lambda snapshot: snapshot) -> None:
        super().__init__()
        self._renew = renew
        self._previous: Snapshot | None = None

    async def next(self) -> Snapshot | None:
        """Return the newest as soon as there is one; None when no more will come."""
        is_next, missed = True, 0  # to what was taken before; since then
        while True:
            lay_unread = bool(self._unread)
            if (taken := await self.take()) is None:
                return None
            newest, replaced = taken
            snapshot = self._renew(newest) if lay_unread else newest
            missed += newest.missed + replaced
            is_next = is_next and not missed and snapshot is newest
            previous = self._previous
            # No rate can be told of no time: a clock that ticks each millisecond may show none.
            if previous is None or snapshot.total.uptime > previous.total.uptime:
                break
            is_next = False
        if previous is not None and not is_next:
            snapshot = since(snapshot, previous, missed)
        elif missed != snapshot.missed:
            snapshot = replace(snapshot, missed=missed)
        self._previous = snapshot
        return snapshot

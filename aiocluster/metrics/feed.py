"""The delivery of snapshots to subscribers: each at its own pace, and never an old snapshot.

Subscribers with the same interval share snapshots. A subscriber may be slower than its interval.
No snapshot is queued: a new one replaces an unread one, and says how many were missed.
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
    """Yield `take(missed)` once an interval, the first one interval after the first request.

    A consumer that comes late gets an item at once, and the next one on the beat. Each tick is
    either delivered or counted as missed, and the beat does not drift. When `sleep` returns True,
    the iteration ends. A bad interval raises ConfigError at the call, not at the first item.
    """
    check_interval(interval)
    return _paced(interval, take, now, sleep)


def check_interval(interval: object) -> None:
    """Raise ConfigError, with the value, unless snapshots can be `interval` seconds apart."""
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
        # A timer may fire a little early; the tick counts all the same.
        missed = max(int((now() - due) // interval), 0)
        due += (missed + 1) * interval
        yield take(missed)


class LatestValue(Generic[T]):
    """A box with room for one item: a new item replaces one that was not taken yet.

    Only one taker may wait at a time. A taker gets None once the box is closed and empty.
    """

    def __init__(self) -> None:
        self._unread: list[T] = []  # one item at most; a list, so that an item may be None
        self._missed = 0
        self._closed = False
        self._changed = asyncio.Event()

    def put(self, item: T) -> None:
        """Leave `item` for the taker; after `close` the item is dropped."""
        if self._closed:
            return
        self._missed += len(self._unread)
        self._unread = [item]
        self._changed.set()

    async def take(self) -> tuple[T, int] | None:
        """Wait for an item; return the newest and how many it replaced, or None after `close`."""
        while not self._unread:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        taken = (self._unread.pop(), self._missed)
        self._missed = 0
        return taken

    def close(self) -> None:
        """Close the box: the taker gets the unread item, if any, and then None. Idempotent."""
        self._closed = True
        self._changed.set()


class SnapshotBox(LatestValue[Snapshot]):
    """The box of one of several subscribers that share snapshots.

    The rates of a shared snapshot are since the one before. A subscriber that did not take that
    one gets the rates since the one it took. `renew` gets each snapshot that lay unread, and may
    return a current one in its place.
    """

    def __init__(self, renew: Callable[[Snapshot], Snapshot] = lambda snapshot: snapshot) -> None:
        super().__init__()
        self._renew = renew
        self._previous: Snapshot | None = None

    async def next(self) -> Snapshot | None:
        """Wait for a snapshot and return the newest; return None when no more will come."""
        is_next, missed = True, 0  # next to the snapshot taken before; missed since that one
        while True:
            lay_unread = bool(self._unread)
            if (taken := await self.take()) is None:
                return None
            newest, replaced = taken
            snapshot = self._renew(newest) if lay_unread else newest
            missed += newest.missed + replaced
            is_next = is_next and not missed and snapshot is newest
            previous = self._previous
            # Over no time there is no rate: a clock that ticks each millisecond may show none.
            if previous is None or snapshot.total.uptime > previous.total.uptime:
                break
            is_next = False
        if previous is not None and not is_next:
            snapshot = since(snapshot, previous, missed)
        elif missed != snapshot.missed:
            snapshot = replace(snapshot, missed=missed)
        self._previous = snapshot
        return snapshot

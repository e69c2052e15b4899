"""What a stop does before any worker is told to drain.

Load balancers are given time to look away; then the doors close, in an order in which nobody
who believes to be connected is turned away: no new connection can begin, those under way
come through, all that waits is accepted, the listeners close, and the workers get it all.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from aiocluster.primary.dispatch.dispatcher import Dispatching
from aiocluster.primary.sockets.listeners import Listeners

log = logging.getLogger("aiocluster")

# Seconds that a client may take to complete a connection which the kernel has answered: one
# repetition of a packet that was lost. Who takes longer is mostly a port scanner.
_SYN_RECV_TIMEOUT = 1.5

# The share of a stop's time that may go by until somebody has room for what was accepted.
_HAND_OUT_SHARE = 0.5

# Seconds between two times that workers are asked to make room. What they are asked for they look
# for in the meantime.
_ASK_INTERVAL = 0.1

# Seconds between two looks at what no event tells, at least.
_LOOK_INTERVAL = 0.01

# The share of a core that the looks may take. One of them reads the kernel's table of all
# sockets, which on a large machine is long, and the loop stands still meanwhile.
_LOOK_SHARE = 0.1


def pause_after(look: float) -> float:
    """Return the seconds until the next look, when one has taken `look` seconds."""
    return max(_LOOK_INTERVAL, look / _LOOK_SHARE)


class GracefulShutdown:
    """The first part of a stop; each step waits for nothing more once it is hurried."""

    def __init__(
        self,
        listeners: Listeners,
        dispatcher: Dispatching,
        nobody_is_left: asyncio.Event,
        shed_idle_connections: Callable[[int], None],
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`make_room(count)` lets workers give up idle connections, at most so many each."""
        self.in_pre_drain_wait = False  # when load balancers are to look away
        self._listeners = listeners
        self._dispatcher = dispatcher
        self._nobody_is_left = nobody_is_left
        self._make_room = shed_idle_connections
        self._asked_at = -_ASK_INTERVAL
        self._now = now  # the loop's clock stands still while the loop does
        self._wait_over = asyncio.Event()
        self._hurried = asyncio.Event()

    def skip_pre_drain_wait(self) -> None:
        """Let `wait` return now. Idempotent."""
        self._wait_over.set()

    def hurry(self) -> None:
        """Wait for nothing more. Idempotent."""
        self._hurried.set()
        self.skip_pre_drain_wait()

    async def wait(self, seconds: float) -> None:
        """Serve on for `seconds`."""
        if seconds <= 0 or self._hurried.is_set():
            return
        log.info("not ready any more; serving on for %g s (pre_drain_wait)", seconds)
        self.in_pre_drain_wait = True
        await _wait(self._wait_over, seconds)
        self.in_pre_drain_wait = False

    async def close_doors(self, seconds: float) -> None:
        """Accept who has come, let nobody come any more, and hand all of them to workers.

        `seconds` is what the whole stop may take.
        """
        self._listeners.drop_new_syns()
        self._listeners.accept_rest()
        patience = min(_SYN_RECV_TIMEOUT, seconds * _HAND_OUT_SHARE)
        await self._while(self._somebody_comes, patience)
        self._listeners.close()
        await self._while(self._somebody_waits, seconds * _HAND_OUT_SHARE)

    def _somebody_comes(self) -> bool:
        self._listeners.accept_rest()
        return self._listeners.are_awaited

    def _somebody_waits(self) -> bool:
        waiting = self._dispatcher.waiting
        if not waiting or self._nobody_is_left.is_set():
            return False
        # An idle connection would be closed a moment later: nobody has to wait for its place.
        if (now := self._now()) - self._asked_at >= _ASK_INTERVAL:
            self._asked_at = now
            self._make_room(waiting)
        return True

    async def _while(self, condition: Callable[[], bool], seconds: float) -> None:
        """Return when `condition()` is false, after `seconds`, or when hurried."""
        end = self._now() + seconds
        while not self._hurried.is_set() and (begun := self._now()) < end and condition():
            await _wait(self._hurried, min(pause_after(self._now() - begun), end - begun))


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Return when `event` is set, or after `seconds`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()

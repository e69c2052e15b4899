"""The first part of a stop, before the workers drain.

Load balancers get time to look away; then the ingress closes, in an order that resets no
established connection: no new connection can begin, half-open ones are completed, all that wait
are accepted, the listeners close, and the workers get the accepted connections.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from aiocluster.primary.dispatch.dispatcher import Dispatching
from aiocluster.primary.sockets.listeners import Listeners

log = logging.getLogger("aiocluster")

# Seconds that a client may take to complete a half-open connection: one repetition of a lost
# packet. A client that takes longer is mostly a port scanner.
_SYN_RECV_TIMEOUT = 1.5

# The share of a stop's time in which workers must get capacity for what was accepted.
_HAND_OUT_SHARE = 0.5

# Seconds between two requests to the workers to shed idle connections: they look for some then.
_ASK_INTERVAL = 0.1

# Seconds between two looks at a state that gives no event, at least.
_LOOK_INTERVAL = 0.01

# The share of a core that the looks may take. A look reads the kernel's table of all sockets,
# which is long on a large machine, and blocks the loop meanwhile.
_LOOK_SHARE = 0.1


def pause_after(look: float) -> float:
    """Return the seconds until the next look, if the last one took `look` seconds."""
    return max(_LOOK_INTERVAL, look / _LOOK_SHARE)


class GracefulShutdown:
    """The first part of a role's stop. After `hurry()` no step waits for anything."""

    def __init__(
        self,
        listeners: Listeners,
        dispatcher: Dispatching,
        no_worker_is_left: asyncio.Event,
        shed_idle_connections: Callable[[int], None],
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Call `shed_idle_connections(count)` to let workers return at most so many each."""
        self.in_pre_drain_wait = False  # load balancers look away meanwhile
        self._listeners = listeners
        self._dispatcher = dispatcher
        self._no_worker_is_left = no_worker_is_left
        self._make_room = shed_idle_connections
        self._asked_at = -_ASK_INTERVAL
        self._now = now  # the loop's clock stands still while the loop does
        self._wait_over = asyncio.Event()
        self._hurried = asyncio.Event()

    def skip_pre_drain_wait(self) -> None:
        """End the `wait` now. Idempotent."""
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

    async def close_listeners(self, seconds: float) -> None:
        """Stop new connections, accept the pending ones, close the listeners, dispatch what came.

        The whole stop may take `seconds`.
        """
        self._listeners.drop_new_syns()
        self._listeners.accept_rest()
        patience = min(_SYN_RECV_TIMEOUT, seconds * _HAND_OUT_SHARE)
        await self._while(self._clients_connect, patience)
        self._listeners.close()
        await self._while(self._connections_wait, seconds * _HAND_OUT_SHARE)

    def _clients_connect(self) -> bool:
        self._listeners.accept_rest()
        return self._listeners.are_awaited

    def _connections_wait(self) -> bool:
        waiting = self._dispatcher.waiting
        if not waiting or self._no_worker_is_left.is_set():
            return False
        # Workers would close idle connections a moment later: no client must wait for their place.
        if (now := self._now()) - self._asked_at >= _ASK_INTERVAL:
            self._asked_at = now
            self._make_room(waiting)
        return True

    async def _while(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until `condition()` is false, `seconds` are over, or `hurry()` was called."""
        end = self._now() + seconds
        while not self._hurried.is_set() and (begun := self._now()) < end and condition():
            await _wait(self._hurried, min(pause_after(self._now() - begun), end - begun))


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait until `event` is set, or `seconds` are over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()

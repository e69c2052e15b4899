"""What all channels of a loop may use of one of its turns, so that no flood holds up the rest.

Whoever has something to do asks for a turn. Each in the queue does a little, and if it has more to
do it asks again, behind the others. When their time is over the rest waits for the next turn.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary

# Seconds of one turn of the loop, for all of them together.
TURN_SECONDS = 0.001

# Does a little of what there is to do, and stops once time.perf_counter() is past its argument.
Take = Callable[[float], None]


class Turns:
    """Those of one loop."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._waiting: deque[Take] = deque()
        self._is_due = False

    def ask(self, take: Take) -> None:
        """Call `take` soon, once. Only in the loop."""
        self._waiting.append(take)
        self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._is_due = False
        end = self._now() + TURN_SECONDS
        try:
            for _ in range(len(self._waiting)):
                self._waiting.popleft()(end)
                if self._now() >= end:
                    break
        finally:
            self._schedule()


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def turns_of_loop() -> Turns:
    """Return those of the running loop."""
    return _turns.setdefault(asyncio.get_running_loop(), Turns())

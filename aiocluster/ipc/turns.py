"""What all channels of a loop may use of one of its turns, so that no flood holds up the rest.

First they read, then they hear what they have read, as many of them as there is time for. Whoever
has something to do asks for a turn. Each in the queue does a little, and if it has more to do it
asks again, behind the others. When their time is over the rest waits for the next turn.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

# Seconds of one turn of the loop, for all of them together.
TURN_SECONDS = 0.001

# How much of that may be over before the last of them begins to read more than a little.
READ_SECONDS = TURN_SECONDS / 2

T = TypeVar("T")

# Does a little of what there is to do, and stops once time.perf_counter() is past its argument.
Take = Callable[[float], None]


class Turns:
    """Those of one loop."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._waiting: deque[Take] = deque()
        self._is_due = False
        self._began: float | None = None  # when the first of them had read, in this turn

    def note_read(self) -> None:
        """One of them has read something, and asks for a turn."""
        if self._began is None:
            self._began = self._now()

    @property
    def have_read_enough(self) -> bool:
        """True once the others that want to read in this turn of the loop have to be brief."""
        return self._began is not None and self._now() >= self._began + READ_SECONDS

    def ask(self, take: Take) -> None:
        """Call `take` soon, once. Only in the loop."""
        self._waiting.append(take)
        self._schedule()

    async def do(self, take: Callable[[float], T]) -> T:
        """Return what `take` returns when it is called in its turn; not called once cancelled."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def take_if_wanted(end: float) -> None:
            if done.done():
                return
            try:
                done.set_result(take(end))
            except Exception as error:
                done.set_exception(error)

        self.ask(take_if_wanted)
        return await done

    def _schedule(self) -> None:
        if self._waiting and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._is_due = False
        began = self._now() if self._began is None else self._began
        end = began + TURN_SECONDS
        try:
            for _ in range(len(self._waiting)):
                self._waiting.popleft()(end)
                if self._now() >= end:
                    break
        finally:
            self._began = None
            self._schedule()


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def turns_of_loop() -> Turns:
    """Return those of the running loop."""
    return _turns.setdefault(asyncio.get_running_loop(), Turns())

"""The share of a loop's turn that all its channels may use, so that no flood blocks the rest.

First the channels read, then they handle what they have read. A channel with something to do asks
for a turn. Each channel in the queue does a little; if it has more to do, it asks again, behind
the others. When the time of all is over, the rest of the queue waits for the next turn.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

# Seconds of one turn of the loop that all channels together may use.
TURN_SECONDS = 0.001

# Once so many of these seconds are over, each further channel reads only a little.
READ_SECONDS = TURN_SECONDS / 2

T = TypeVar("T")

# A function that does a little work, and stops once time.perf_counter() is past its argument.
Take = Callable[[float], None]


class Turns:
    """The queue for turns of one loop, and the time that is left in the present turn."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._waiting: deque[Take] = deque()
        self._is_due = False
        self._began: float | None = None  # when the first channel read, in this turn

    def note_read(self) -> None:
        """Note that a channel has read something, and will ask for a turn."""
        if self._began is None:
            self._began = self._now()

    @property
    def have_read_enough(self) -> bool:
        """True once further reads in this turn of the loop must be brief."""
        return self._began is not None and self._now() >= self._began + READ_SECONDS

    def ask(self, take: Take) -> None:
        """Call `take` soon, once. Call this only in the loop."""
        self._waiting.append(take)
        self._schedule()

    async def do(self, take: Callable[[float], T]) -> T:
        """Call `take` in its turn and return its result; if cancelled, it is not called."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def take_if_wanted(end: float) -> None:
            if done.done():
                return
            try:
                done.set_result(take(end))
            except Exception as error:
                done.set_exception(error)
            except BaseException:
                done.cancel()
                raise

        self.ask(take_if_wanted)
        return await done

    def _schedule(self) -> None:
        if self._waiting and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._is_due = False
        now = self._now()
        began = now if self._began is None else self._began
        # However long reading, and what else is in this turn, took: half of the time is left.
        end = max(began + TURN_SECONDS, now + TURN_SECONDS - READ_SECONDS)
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
    """Return the turns of the running loop."""
    return _turns.setdefault(asyncio.get_running_loop(), Turns())

"""The deadline of a drain. It may come nearer while a task waits for it."""

import asyncio
from collections.abc import Iterable
from typing import Any


class DrainDeadline:
    """A deadline that is infinitely far away until the first `at_latest_in`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._at = float("inf")
        self._moved: asyncio.Future[None] = self._loop.create_future()

    def at_latest_in(self, seconds: float) -> None:
        """Move the deadline to `seconds` from now, unless it is nearer already."""
        self._at = min(self._at, self._loop.time() + seconds)
        # Waiting tasks look at the time again.
        moved, self._moved = self._moved, self._loop.create_future()
        moved.set_result(None)

    async def wait_for(self, steps: "Iterable[asyncio.Future[Any]]", grace: float) -> None:
        """Wait until all `steps` are done, or the deadline has passed; `grace` seconds at least.

        So steps that need no time end well even if the deadline has passed already.
        """
        steps = {*steps}
        await asyncio.wait(steps, timeout=grace)
        while (pending := {step for step in steps if not step.done()}) and self.left > 0:
            timeout = self.left if self.left < float("inf") else None
            await asyncio.wait(
                {*pending, self._moved}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )

    @property
    def left(self) -> float:
        """The seconds until the deadline; less than 0 once it has passed."""
        return self._at - self._loop.time()

"""When a drain must be over. It may come nearer while somebody waits for it."""

import asyncio
from collections.abc import Iterable
from typing import Any


class DrainDeadline:
    """Far away until the first `at_latest_in`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._at = float("inf")
        self._moved: asyncio.Future[None] = self._loop.create_future()

    def at_latest_in(self, seconds: float) -> None:
        """Come nearer, to `seconds` from now, unless it is that near already."""
        self._at = min(self._at, self._loop.time() + seconds)
        # Whoever waits looks at the time again.
        moved, self._moved = self._moved, self._loop.create_future()
        moved.set_result(None)

    async def wait_for(self, steps: "Iterable[asyncio.Future[Any]]", grace: float) -> None:
        """Wait until all are done, or until the deadline, but `grace` seconds at least.

        They may have nothing to wait for when it has passed already.
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
        """The seconds until then; less than 0 once it has passed."""
        return self._at - self._loop.time()

"""Leadership of a role: each worker reads it in its own row of the scoreboard, at any moment.

So a worker stops leading when the primary writes that, even while its loop is blocked, and a
thread may check as well. A message wakes a worker that may have begun to lead.
"""

import asyncio

from aiocluster.ipc.scoreboard import LEADS


class Leading:
    """A worker's leadership of its role; see WorkerContext.is_leader."""

    def __init__(self, row: memoryview) -> None:
        self._row = row
        self._told = asyncio.Event()
        self._stopped = False

    @property
    def is_leader(self) -> bool:
        """See WorkerContext.is_leader."""
        # If the primary has died, no process clears the row, and the next primary chooses anew.
        return self._row[LEADS] == 1 and not self._stopped

    def hear(self) -> None:
        """Note the primary's message: this worker leads now."""
        self._told.set()

    def stop(self) -> None:
        """Stop leading for good: the worker drains. Idempotent."""
        self._stopped = True
        self._told.set()

    async def begun(self) -> bool:
        """See WorkerContext.leading."""
        while not self.is_leader and not self._stopped:
            self._told.clear()
            await self._told.wait()
        return self.is_leader

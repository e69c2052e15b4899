"""Whether this worker leads its role: it reads that in its row of the scoreboard, at any moment.

So it stops leading when the primary says so, also while its loop does not turn, and a thread may
ask as well. A message says that it may have begun to.
"""

import asyncio

from aiocluster.ipc.scoreboard import LEADS


class Leading:
    """See WorkerContext.is_leader."""

    def __init__(self, row: memoryview) -> None:
        self._row = row
        self._told = asyncio.Event()
        self._stopped = False

    @property
    def is_leader(self) -> bool:
        """See WorkerContext.is_leader."""
        # Nobody takes it back in the row when the primary has died, and the next one chooses anew.
        return self._row[LEADS] == 1 and not self._stopped

    def hear(self) -> None:
        """The primary says that this worker leads now."""
        self._told.set()

    def stop(self) -> None:
        """The worker drains: it will not lead any more. Idempotent."""
        self._stopped = True
        self._told.set()

    async def begun(self) -> bool:
        """See WorkerContext.leading."""
        while not self.is_leader and not self._stopped:
            self._told.clear()
            await self._told.wait()
        return self.is_leader

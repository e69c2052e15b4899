"""Moves idle keep-alive connections from workers that have many to those that have few.

New workers get their share of the connections. With `rebalance`, the connections are evened out
whenever the workers' numbers are too far apart. rebalance_plan.py decides which worker gives how
many. A worker gives idle connections back by its handoff, and the policy chooses again. Each check
sees the result of the one before and asks for the rest.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from aiocluster.ipc.messages import GiveBack
from aiocluster.primary.scaling.rebalance_plan import evened, shares, without_few
from aiocluster.primary.tasks import start_task
from aiocluster.primary.workers.handle import WorkerHandle

# Seconds between two looks: by then, what was asked for has moved, or is not idle.
_INTERVAL = 0.25

# Looks until new workers must have their share: connections that are never idle do not move.
_TRIES = 40


class Rebalancer:
    """A rebalancer of one role. `serving()` returns the workers that get connections."""

    def __init__(self, serving: Callable[[], Iterable[WorkerHandle]]) -> None:
        self._serving = serving
        self._tasks: set[asyncio.Task[None]] = set()

    def begin_to_even(self) -> None:
        """Even out the workers' connections from now on, whenever they are too far apart."""
        self._start(self._even_out(), "evening out connections")

    def give_share(self, new: Iterable[WorkerHandle]) -> None:
        """Let new workers get their share of the others' connections."""
        self._start(self._share({worker.id for worker in new}), "sharing connections")

    def close(self) -> None:
        """Move nothing more. Idempotent."""
        for task in self._tasks:
            task.cancel()

    def even_out(self) -> None:
        """Even out the connections once, if they are too far apart."""
        self._ask(evened(self._of_able()))

    def share(self, new: set[int]) -> bool:
        """Ask for the connections that new workers lack; return False if they lack none."""
        self._ask(shares(self._of_able(), new))
        # A worker that can get none now may be able to in a moment.
        return bool(shares(self._connections(), new))

    async def _even_out(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            self.even_out()

    async def _share(self, new: set[int]) -> None:
        for _ in range(_TRIES):
            if not self.share(new):
                return
            await asyncio.sleep(_INTERVAL)

    def _connections(self) -> dict[int, int]:
        return {worker.id: worker.backend.open_connections for worker in self._serving()}

    def _of_able(self) -> dict[int, int]:
        """Return the connections of the workers that can return some or get some."""
        now = asyncio.get_running_loop().time()
        # A blocked worker would later return all that it was asked for meanwhile, at once.
        able = [worker.backend for worker in self._serving() if not worker.backend.is_stuck]
        full = {one.worker_id for one in able if not one.has_room or one.is_behind(now)}
        return without_few({one.worker_id: one.open_connections for one in able}, full)

    def _ask(self, gives: Mapping[int, int]) -> None:
        for worker in self._serving():
            if count := gives.get(worker.id, 0):
                worker.channel.post(GiveBack(count))

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = start_task(work, name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

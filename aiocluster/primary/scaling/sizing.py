"""Sizes a role, on request or by load, and gives new workers their share of the connections."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from aiocluster.config.roles import RoleSpec
from aiocluster.errors import BootError, ClusterStopping
from aiocluster.primary.dispatch.dispatcher import Dispatching
from aiocluster.primary.scaling.autoscale_policy import AutoscalePolicy, Decision
from aiocluster.primary.scaling.autoscaler import Autoscaler
from aiocluster.primary.scaling.rebalancer import Rebalancer
from aiocluster.primary.scaling.scaler import Positions, Scaler
from aiocluster.primary.tasks import start_task
from aiocluster.primary.workers.handle import WorkerHandle
from aiocluster.primary.workers.shared import ClusterShared

log = logging.getLogger("aiocluster")

# Seconds between two looks at the load of a role, at least.
_INTERVAL = 1.0


class Sizing:
    """The sizing of one role. `serving()` returns the workers that get connections."""

    def __init__(
        self,
        spec: RoleSpec,
        positions: Positions,
        cluster_shared: ClusterShared,
        dispatcher: Dispatching,
        serving: Callable[[], Collection[WorkerHandle]],
    ) -> None:
        self._spec = spec
        self._positions = positions
        self._reporter = cluster_shared.reporter
        self._dispatcher = dispatcher
        self._serving = serving
        self._loop = asyncio.get_running_loop()
        self._balancer = Rebalancer(serving)
        self._scaler = Scaler(
            spec.name,
            positions,
            self._on_more,
            cluster_shared.bus.publish,
            spec.settings.autoscale,
        )
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Begin to autoscale and to rebalance, if the settings say so."""
        settings = self._spec.settings
        if settings.autoscale is not None:
            scaler = AutoscalePolicy(
                settings.autoscale, self._spec.name, settle=settings.metrics_interval
            )
            # A look between two reports would only see the old figures again.
            interval = max(_INTERVAL, settings.metrics_interval)
            snapshots = self._reporter.subscribe(interval)
            following = Autoscaler(scaler, self, self._loop.time).follow(snapshots)
            self._begin(following, f"autoscaling {self._spec.name}")
        if settings.rebalance and self._dispatcher.may_rebalance:
            self._balancer.begin_to_even()
        elif settings.rebalance:
            log.warning(
                "role %s: rebalance moves nothing: its policy ties each to a worker",
                self._spec.name,
            )

    async def scale(self, wanted: int | str, reason: str) -> int:
        """See Scaler.scale."""
        return await self._scaler.scale(wanted, reason)

    @property
    def turn(self) -> asyncio.Lock:
        """Return the lock of all that changes the number of workers."""
        return self._scaler.turn

    def close(self) -> None:
        """Change nothing more. Idempotent."""
        for task in self._tasks:
            task.cancel()
        self._scaler.close()
        self._balancer.close()

    # ---- Staff

    @property
    def places(self) -> int:
        """See Staff."""
        return len(self._positions.slots)

    @property
    def ready(self) -> int:
        """See Staff."""
        return len(self._serving())

    @property
    def is_changing(self) -> bool:
        """See Staff."""
        return self.turn.locked()

    def obey(self, decision: Decision) -> None:
        """See Staff."""
        self._begin(self._obey(decision, self.places), f"scaling {self._spec.name}")

    # ---- inside

    def _on_more(self, workers: Collection[WorkerHandle]) -> None:
        """Give new workers their share of the connections, if the policy lets these move."""
        if self._dispatcher.may_rebalance:
            self._balancer.give_share(workers)

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = start_task(work, name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _obey(self, decision: Decision, places: int) -> None:
        # The scaler has logged the error already.
        with contextlib.suppress(BootError, ClusterStopping):
            await self._scaler.scale(decision.count, decision.reason, if_there_are=places)

"""Captures the state that the next program in this process needs, and restores it there."""

from collections.abc import Mapping
from dataclasses import dataclass

from aiocluster.ipc.handover import HandoverState
from aiocluster.ipc.messages import Subscribe
from aiocluster.primary.role import RoleRuntime
from aiocluster.primary.workers.handle import WorkerHandle
from aiocluster.primary.workers.shared import ClusterShared


@dataclass(frozen=True, slots=True)
class Handover:
    """The parts of a primary that have state to hand over."""

    cluster_shared: ClusterShared
    roles: Mapping[str, RoleRuntime]
    workers: Mapping[int, WorkerHandle]

    def state(self) -> HandoverState:
        """Return all that the next program needs; call only while there is no `busy_reason`."""
        reporter = self.cluster_shared.reporter
        return HandoverState(
            scoreboard=reporter.scoreboard.fd,
            next_worker_id=self.cluster_shared.ids.next_id,
            aggregators=reporter.state(),
            subscriptions=reporter.subscriptions,
            roles={name: role.state() for name, role in self.roles.items()},
        )

    async def adopt(self, handover_state: HandoverState) -> None:
        """Restore the state of the previous program."""
        reporter = self.cluster_shared.reporter
        reporter.adopt(handover_state.aggregators)
        self.cluster_shared.ids.next_id = handover_state.next_worker_id
        for name, role in self.roles.items():
            await role.adopt(handover_state.roles[name])
        for one in handover_state.subscriptions:
            if (worker := self.workers.get(one.worker_id)) is not None:
                request = Subscribe(one.subscription_id, one.interval)
                reporter.serve(worker.id, worker.channel, request)

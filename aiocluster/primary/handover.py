"""What the parts leave to those of the next program in this process, and how these take it."""

from collections.abc import Mapping
from dataclasses import dataclass

from aiocluster.ipc.handover import Estate
from aiocluster.ipc.messages import Subscribe
from aiocluster.primary.role import RoleParts
from aiocluster.primary.workers.handle import WorkerHandle
from aiocluster.primary.workers.shared import Commons


@dataclass(frozen=True, slots=True)
class Heritage:
    """The parts that have something to leave."""

    commons: Commons
    roles: Mapping[str, RoleParts]
    workers: Mapping[int, WorkerHandle]

    def state(self) -> Estate:
        """Return all that the next program needs to go on; only while there is no unrest."""
        reporter = self.commons.reporter
        return Estate(
            scoreboard=reporter.scoreboard.fd,
            next_worker_id=self.commons.ids.next_id,
            ledgers=reporter.state(),
            subscriptions=reporter.subscriptions,
            roles={name: role.state() for name, role in self.roles.items()},
        )

    async def adopt(self, estate: Estate) -> None:
        """Go on with what another program left."""
        reporter = self.commons.reporter
        reporter.adopt(estate.ledgers)
        self.commons.ids.next_id = estate.next_worker_id
        for name, role in self.roles.items():
            await role.adopt(estate.roles[name])
        for one in estate.subscriptions:
            if (worker := self.workers.get(one.worker_id)) is not None:
                request = Subscribe(one.subscription_id, one.interval)
                reporter.serve(worker.id, worker.channel, request)

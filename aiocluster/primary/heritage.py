"""What the parts leave to those of the next program in this process, and how these take it."""

import logging
from dataclasses import dataclass
from typing import Any

from aiocluster.config.settings import Settings
from aiocluster.ipc.estate import Estate
from aiocluster.ipc.messages import Subscribe
from aiocluster.primary.dispatcher import Connection, Dispatcher
from aiocluster.primary.generations import Generations
from aiocluster.primary.listeners import Listeners
from aiocluster.primary.reporting import Reporter
from aiocluster.primary.supervisor import Supervisor

log = logging.getLogger("aiocluster.upgrade")


@dataclass(frozen=True, slots=True)
class Heritage:
    """The parts that have something to leave."""

    settings: Settings
    listeners: Listeners
    dispatcher: Dispatcher
    reporter: Reporter
    generations: Generations
    supervisor: Supervisor

    def state(self) -> Estate:
        """Return all that the next program needs to go on; only while there is no unrest."""
        self.generations.drop_unready()
        return Estate(
            **_asked_for(self.settings),
            listeners=self.listeners.state(),
            scoreboard=self.reporter.scoreboard.fd,
            generations=self.generations.state(),
            crew=self.supervisor.state(),
            ledger=self.reporter.state(),
            subscriptions=self.reporter.subscriptions,
            waiting=[(one.fd, one.listener) for one in self.dispatcher.state()],
        )

    async def adopt(self, estate: Estate, now: float) -> None:
        """Go on with what another program left."""
        _warn_of_what_stays(estate, self.settings)
        self.reporter.adopt(estate.ledger)
        self.listeners.adopt(estate.listeners, tcp_keepalive=self.settings.tcp_keepalive)
        self.supervisor.listen_on(self.listeners)
        self.generations.adopt(estate.generations)
        await self.supervisor.adopt(estate.crew)
        for one in estate.subscriptions:
            if (worker := self.supervisor.workers.get(one.worker_id)) is not None:
                request = Subscribe(one.subscription_id, one.interval)
                self.reporter.serve(worker.id, worker.channel, request)
        self.dispatcher.dispatch([Connection(*pair) for pair in estate.waiting], now)


def _asked_for(settings: Settings) -> dict[str, Any]:
    """What only a start can change."""
    return {"bind": [*map(str, settings.bind)], "workers": str(settings.workers)}


def _warn_of_what_stays(estate: Estate, settings: Settings) -> None:
    for name, value in _asked_for(settings).items():
        if (before := getattr(estate, name)) != value:
            log.warning("%s stays %s: to make it %s takes a stop and a start", name, before, value)

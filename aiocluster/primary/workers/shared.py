"""The objects that all roles of a cluster share."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from aiocluster.primary.event_bus import EventBus
from aiocluster.primary.ingress.pending_limit import PendingLimit
from aiocluster.primary.processes.oom_kills import OomKills
from aiocluster.primary.sockets.listeners import Listeners
from aiocluster.primary.workers.snapshots import Reporter

log = logging.getLogger("aiocluster")


class Ids:
    """The ids of workers: they start at 1, and no id is used twice in a cluster."""

    def __init__(self) -> None:
        self.next_id = 1

    def take(self) -> int:
        """Return an id that no worker has had."""
        taken, self.next_id = self.next_id, self.next_id + 1
        return taken


@dataclass(frozen=True, slots=True)
class ClusterShared:
    """The objects for all roles: event bus, metrics, worker ids, listeners and limits."""

    bus: EventBus
    reporter: Reporter
    ids: Ids = field(default_factory=Ids)
    listeners: list[Listeners] = field(default_factory=list)  # of each role
    holding: PendingLimit = field(default_factory=PendingLimit)
    oom_kills: OomKills = field(default_factory=OomKills)
    say: Callable[[str], None] = log.info  # shows a line to the program's user

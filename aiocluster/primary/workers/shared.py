"""What all roles of a cluster share."""

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
    """The ids of workers: they start at 1, and none is ever used again, whatever its role."""

    def __init__(self) -> None:
        self.next_id = 1

    def take(self) -> int:
        """Return one that nobody has had."""
        taken, self.next_id = self.next_id, self.next_id + 1
        return taken


@dataclass(frozen=True, slots=True)
class ClusterShared:
    """Who hears of everything, who counts it, who gets which id and port, and what bounds all."""

    bus: EventBus
    reporter: Reporter
    ids: Ids = field(default_factory=Ids)
    listeners: list[Listeners] = field(default_factory=list)  # of each role
    holding: PendingLimit = field(default_factory=PendingLimit)
    oom_kills: OomKills = field(default_factory=OomKills)
    say: Callable[[str], None] = log.info  # for what the user who starts the program should read

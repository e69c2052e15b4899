"""The dispatcher gives each connection to a worker that the policy chooses.

If all workers are full, the dispatcher keeps the connections already accepted and pauses the
listeners: the kernel's backlog is the queue. A worker that has left a connection untaken for too
long is *behind*. It gets no connections while another worker is not behind; if all are behind, the
policy chooses among all. If the policy is *strict*, a client waits for its worker instead.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Protocol

from aiocluster.policies.base import Candidate, Policy
from aiocluster.policies.least_connections import LeastConnections
from aiocluster.primary.dispatch.admission import MANY, AdmissionControl, AdmittedBackend
from aiocluster.primary.sockets.connection import Connection

# Connections given between two counts of capacity; fewer than one handoff packet can carry.
_ROUND = MANY

# While connections are shed, seconds between two counts of all workers: workers report most ends.
_LOOK_PAUSE = 0.005


class DispatchTarget(Candidate, AdmittedBackend, Protocol):
    """The part of a Backend that the dispatcher needs.

    `promised` is how many connections of the present batch were chosen for this worker so far.
    """

    promised: int

    @property
    def has_room(self) -> bool:
        """True if the worker may get more connections now."""
        ...

    @property
    def budget(self) -> int:
        """How many connections the worker may get before its capacity is counted again."""
        ...

    @property
    def is_stuck(self) -> bool:
        """True if the worker's loop is blocked: then it is a candidate only if all are stuck."""
        ...

    def is_behind(self, now: float) -> bool:
        """Return True if the worker has left a connection untaken for too long."""
        ...

    def look_again(self) -> None:
        """Count the worker's capacity again."""
        ...

    def hand_over(self, batch: Sequence[Connection], now: float) -> int:
        """Give the worker a batch; return how many of it, from the front, are the worker's now.

        If none are, the worker is full: `has_room` is False until it has capacity again.
        """
        ...


class Dispatching(Protocol):
    """The interface of a Dispatcher, and of an Ingress for all dispatchers of its role."""

    @property
    def waiting(self) -> int: ...
    @property
    def may_rebalance(self) -> bool:
        """True if connections may be moved to even out their numbers."""
        ...

    def add(self, recipient: DispatchTarget) -> None: ...
    def leave(self, recipient: DispatchTarget, now: float) -> None: ...
    def remove(self, recipient: DispatchTarget) -> None: ...
    def update(self, now: float) -> None: ...
    def dispatch(self, connections: Sequence[Connection], now: float) -> None: ...
    def has_responsive(self, now: float) -> bool: ...


class Dispatcher:
    """A dispatcher: it chooses workers and hands over. It never blocks or drops a connection."""

    def __init__(
        self,
        policy: Policy,
        pause: Callable[[], None],
        resume: Callable[[], None],
        turn_away: Callable[[Sequence[Connection]], None] | None = None,
        places: AdmissionControl | None = None,
    ) -> None:
        """`turn_away` gets, and owns, connections that come while all workers are full.

        Without `turn_away`, or without any worker, these connections wait. `places` is the
        admission control of the role; without it the dispatcher has its own.
        """
        self._policy = policy
        self._fewest: Policy = LeastConnections()
        self.strict = getattr(policy, "strict", False)
        self.may_rebalance = getattr(policy, "may_rebalance", False)
        self._pause = pause
        self._resume = resume
        self._turn_away = turn_away
        self._recipients: list[DispatchTarget] = []
        self._places = places or AdmissionControl(lambda: self._recipients)
        self._candidates: list[DispatchTarget] = []
        self._last_responsive: list[DispatchTarget] = []
        self._waiting: list[Connection] = []
        self._lets_in = self._paused = True
        self._next_look = 0.0

    @property
    def waiting(self) -> int:
        """Connections accepted that wait as all workers are full."""
        return len(self._waiting)

    def add(self, recipient: DispatchTarget) -> None:
        """Let this worker get connections from now on. Idempotent."""
        self.remove(recipient)
        self._recipients = sorted([*self._recipients, recipient], key=lambda r: r.slot)

    def leave(self, recipient: DispatchTarget, now: float) -> None:
        """Give this worker nothing more; its open connections still count. Idempotent."""
        self.part(recipient)
        self._places.leave(recipient, now)

    def remove(self, recipient: DispatchTarget) -> None:
        """Forget this worker: it is gone. Idempotent."""
        self.part(recipient)
        self._places.remove(recipient)

    def part(self, recipient: DispatchTarget) -> None:
        """Give this worker nothing more from these listeners; it is not draining. Idempotent."""
        self._recipients = [other for other in self._recipients if other is not recipient]

    def update(self, now: float) -> None:
        """Look at all workers again: one came, left, is full or has capacity again."""
        self._look(now)
        if self._candidates and self._waiting:
            waiting, self._waiting = self._waiting, []
            self.dispatch(sorted(waiting, key=_is_new), now)
        self._pause_or_resume()

    def dispatch(self, connections: Sequence[Connection], now: float) -> None:
        """Hand each connection over, now or as soon as a worker has capacity."""
        connections = self._give_out(connections, now)
        if connections and self._turn_away is not None and self._recipients:
            connections = self._look_and_give_out(connections, now)
            self._turn_away([*filter(_is_new, connections)])
            # Connections that were admitted before wait.
            connections = [one for one in connections if not _is_new(one)]
        if connections:
            self._waiting += connections
            self._pause_or_resume()

    def _look_and_give_out(
        self, connections: Sequence[Connection], now: float
    ) -> Sequence[Connection]:
        """Count all capacities again, as reports may be on their way, and give out."""
        if now < self._next_look:
            return connections
        self._next_look = now + _LOOK_PAUSE
        for recipient in self._recipients:
            recipient.look_again()
        self._look(now)
        return self._give_out(connections, now)

    def _give_out(self, connections: Sequence[Connection], now: float) -> Sequence[Connection]:
        """Give the connections to workers; return those for which no worker has capacity."""
        while connections and self._candidates:
            are_limited = self._places.are_limited
            size = self._admitted(connections, now) if are_limited else _ROUND
            if not size:
                self._lets_in = False
                self._pause_or_resume()
                break
            head, rest = connections[:size], connections[size:]
            try:
                batches, left = self._batches(head, now)
            except BaseException:
                # A Ctrl-C in the middle of choosing: the dispatcher still owns the connections.
                self._waiting += connections
                raise
            left = self._hand_out(batches, left, now)
            if are_limited:
                self._places.spend(len(head) - len(left))
            connections = [*left, *rest]
        return connections

    def slots_with_room(self) -> set[int]:
        """Return the slots of the workers that may get more connections now."""
        return {recipient.slot for recipient in self._recipients if recipient.has_room}

    def has_responsive(self, now: float) -> bool:
        """Return True if a worker would take at once what another leaves untaken."""
        return not self.strict and any(
            not candidate.is_stuck and not candidate.is_behind(now)
            for candidate in self._candidates
        )

    def state(self) -> list[Connection]:
        """Return the connections that wait for capacity; the dispatcher keeps them."""
        return [*self._waiting]

    def take_waiting(self) -> list[Connection]:
        """Give up the connections that wait for capacity; the caller owns them."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def _hand_out(
        self,
        batches: Mapping[DispatchTarget, Sequence[Connection]],
        left: Sequence[Connection],
        now: float,
    ) -> Sequence[Connection]:
        """Return the connections not delivered: `left`, and those a full worker did not take."""
        is_full = False
        for recipient, batch in batches.items():
            if (taken := recipient.hand_over(batch, now)) < len(batch):
                left = [*batch[taken:], *left]
            is_full = is_full or not recipient.has_room
        if is_full:
            self._forget_full(now)
        return left

    def _batches(
        self, connections: Sequence[Connection], now: float
    ) -> tuple[Mapping[DispatchTarget, Sequence[Connection]], Sequence[Connection]]:
        """Choose for each connection until a worker would be full; return also the rest."""
        if len(connections) == 1:
            return {self._choose(connections[0], now): connections}, []
        batches: dict[DispatchTarget, list[Connection]] = {}
        try:
            for connection in connections:
                chosen = self._choose(connection, now)
                batches.setdefault(chosen, []).append(connection)
                chosen.promised += 1  # so that the next choice sees it
                if chosen.promised >= chosen.budget:
                    break
        finally:
            for recipient in batches:
                recipient.promised = 0
        chosen_for = sum(map(len, batches.values()))
        return batches, connections[chosen_for:]

    def _choose(self, connection: Connection, now: float) -> DispatchTarget:
        candidates = self._candidates
        policy = self._policy
        if connection.slot >= 0:
            if self.may_rebalance:
                policy = self._fewest
            elif (settled := self._in_slot(connection.slot)) is not None:
                return settled
        chosen = policy.choose(candidates, connection.affinity)
        if self.strict or not chosen.is_behind(now):
            return chosen
        responsive = self._responsive(now)
        return policy.choose(responsive, connection.affinity) if responsive else chosen

    def _in_slot(self, slot: int) -> DispatchTarget | None:
        """Return the candidate in `slot`: the worker that had the connection, or its successor."""
        return next((one for one in self._candidates if one.slot == slot), None)

    def _responsive(self, now: float) -> list[DispatchTarget]:
        """Return the candidates not behind: the same list while they are the same, for policies."""
        responsive = [candidate for candidate in self._candidates if not candidate.is_behind(now)]
        if responsive != self._last_responsive:
            self._last_responsive = responsive
        return self._last_responsive

    def _forget_full(self, now: float) -> None:
        self._look(now)
        self._pause_or_resume()

    def _look(self, now: float) -> None:
        """Find the workers with capacity, and whether new connections are admitted."""
        # A new list each time: policies tell by it that the candidates have changed.
        self._candidates = self._fit()
        self._lets_in = self._places.look(now) > 0

    def _fit(self) -> list[DispatchTarget]:
        roomy = [recipient for recipient in self._recipients if recipient.has_room]
        if self.strict:
            return roomy
        return [recipient for recipient in roomy if not recipient.is_stuck] or roomy

    def _admitted(self, connections: Sequence[Connection], now: float) -> int:
        """Return how many of these, from the front, may go to workers now."""
        if not _is_new(connections[0]):
            # Connections handed back by a worker were admitted before, so they go first. On their
            # way they were counted nowhere.
            self._places.forget()
            return sum(1 for _ in takewhile(lambda one: not _is_new(one), connections[:_ROUND]))
        if not self._lets_in:
            return 0  # until a worker reports an end
        return min(self._places.budget or self._places.look(now), len(connections))

    def _pause_or_resume(self) -> None:
        full = not (self._candidates and self._lets_in)
        full = full and not (self._turn_away and self._recipients)
        if full != self._paused:
            self._paused = full
            self._pause() if full else self._resume()


def _is_new(connection: Connection) -> bool:
    return connection.slot < 0

"""Gives each connection to a worker that the policy chooses.

When nobody has room it keeps what was already accepted and asks the listeners to pause:
the kernel's backlog is the queue. A worker that has left a connection untaken for too
long is *behind* and is passed over while another is not; when all are behind, the policy
chooses among all of them. Unless the policy is *binding*: then a client waits for its worker.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Protocol

from aiocluster.policies.base import Candidate, Policy
from aiocluster.policies.least_connections import LeastConnections
from aiocluster.primary.dispatch.admission import MANY, AdmissionControl, AdmittedBackend
from aiocluster.primary.sockets.connection import Connection

# Connections handed out between two looks at who has room; below what one handoff takes.
_ROUND = MANY

# In a flood of refusals all workers are looked at once in so many seconds: most that ends is told.
_LOOK_PAUSE = 0.005


class DispatchTarget(Candidate, AdmittedBackend, Protocol):
    """The part of an Outbox that the dispatcher needs.

    `promised` is how many it will be given of those that are being given out.
    """

    promised: int

    @property
    def has_room(self) -> bool:
        """May it be given more right now?"""
        ...

    @property
    def budget(self) -> int:
        """How many may it be given before it is looked at again?"""
        ...

    @property
    def is_stuck(self) -> bool:
        """Does its loop not turn? Then it is a candidate only where all are stuck."""
        ...

    def is_behind(self, now: float) -> bool:
        """Has it left a connection untaken for too long?"""
        ...

    def look_again(self) -> None:
        """Find out whether it has room again."""
        ...

    def hand_over(self, batch: Sequence[Connection], now: float) -> int:
        """Give it a batch; return how many of it, from the front, it took and owns now.

        When that is none it has no room: `has_room` is False until it has.
        """
        ...


class Dispatching(Protocol):
    """What a Dispatcher does for the other parts; and all those of a role, as one."""

    @property
    def waiting(self) -> int: ...
    @property
    def may_rebalance(self) -> bool:
        """May connections be moved to even out their numbers?"""
        ...

    def add(self, recipient: DispatchTarget) -> None: ...
    def leave(self, recipient: DispatchTarget, now: float) -> None: ...
    def remove(self, recipient: DispatchTarget) -> None: ...
    def update(self, now: float) -> None: ...
    def dispatch(self, connections: Sequence[Connection], now: float) -> None: ...
    def has_responsive(self, now: float) -> bool: ...


class Dispatcher:
    """Chooses and hands over. It never blocks and never drops a connection."""

    def __init__(
        self,
        policy: Policy,
        pause: Callable[[], None],
        resume: Callable[[], None],
        turn_away: Callable[[Sequence[Connection]], None] | None = None,
        places: AdmissionControl | None = None,
    ) -> None:
        """`turn_away` takes, and owns, what comes while there are workers and all are full; without
        it that waits.

        `places` are those of all doors; without it, those of the workers that it gives to.
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
        self._punctual: list[DispatchTarget] = []
        self._waiting: list[Connection] = []
        self._lets_in = self._paused = True
        self._next_look = 0.0

    @property
    def waiting(self) -> int:
        """Connections accepted that nobody has room for."""
        return len(self._waiting)

    def add(self, recipient: DispatchTarget) -> None:
        """This worker may be given connections from now on. Idempotent."""
        self.remove(recipient)
        self._recipients = sorted([*self._recipients, recipient], key=lambda r: r.slot)

    def leave(self, recipient: DispatchTarget, now: float) -> None:
        """This worker finishes, or gives back, what it has: that still counts. Idempotent."""
        self.part(recipient)
        self._places.leave(recipient, now)

    def remove(self, recipient: DispatchTarget) -> None:
        """This worker is no more. Idempotent."""
        self.part(recipient)
        self._places.remove(recipient)

    def part(self, recipient: DispatchTarget) -> None:
        """Give this worker nothing more by this door; what it has counts as before. Idempotent."""
        self._recipients = [other for other in self._recipients if other is not recipient]

    def update(self, now: float) -> None:
        """A worker came, left, filled up or has room again."""
        self._look(now)
        if self._candidates and self._waiting:
            waiting, self._waiting = self._waiting, []
            self.dispatch(sorted(waiting, key=_is_new), now)
        self._pause_or_resume()

    def dispatch(self, connections: Sequence[Connection], now: float) -> None:
        """Hand each connection over, now or as soon as somebody has room."""
        connections = self._give_out(connections, now)
        if connections and self._turn_away is not None and self._recipients:
            connections = self._look_and_give_out(connections, now)
            self._turn_away([*filter(_is_new, connections)])
            # Whom we have let in once, waits.
            connections = [one for one in connections if not _is_new(one)]
        if connections:
            self._waiting += connections
            self._pause_or_resume()

    def _look_and_give_out(
        self, connections: Sequence[Connection], now: float
    ) -> Sequence[Connection]:
        """Some may have room again, and have not been heard yet."""
        if now < self._next_look:
            return connections
        self._next_look = now + _LOOK_PAUSE
        for recipient in self._recipients:
            recipient.look_again()
        self._look(now)
        return self._give_out(connections, now)

    def _give_out(self, connections: Sequence[Connection], now: float) -> Sequence[Connection]:
        """Return those for whom nobody has room."""
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
                # A Ctrl-C, in the middle of choosing: they are still ours.
                self._waiting += connections
                raise
            left = self._hand_out(batches, left, now)
            if are_limited:
                self._places.spend(len(head) - len(left))
            connections = [*left, *rest]
        return connections

    def slots_with_room(self) -> set[int]:
        """Return the slots of those that may be given more now."""
        return {recipient.slot for recipient in self._recipients if recipient.has_room}

    def has_responsive(self, now: float) -> bool:
        """Is there a worker that would take at once what another leaves lying?"""
        return not self.strict and any(
            not candidate.is_stuck and not candidate.is_behind(now)
            for candidate in self._candidates
        )

    def state(self) -> list[Connection]:
        """Return the connections that nobody had room for; they stay where they are."""
        return [*self._waiting]

    def take_waiting(self) -> list[Connection]:
        """Give up the connections that nobody had room for; the caller owns them."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def _hand_out(
        self,
        batches: Mapping[DispatchTarget, Sequence[Connection]],
        left: Sequence[Connection],
        now: float,
    ) -> Sequence[Connection]:
        """Return with those `left` whom a worker that is full now has left."""
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
        """Choose for each, until somebody would be full; return also those that are left."""
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
        punctual = self._responsive(now)
        return policy.choose(punctual, connection.affinity) if punctual else chosen

    def _in_slot(self, slot: int) -> DispatchTarget | None:
        """Return where one that comes back was, or the next worker in that place."""
        return next((one for one in self._candidates if one.slot == slot), None)

    def _responsive(self, now: float) -> list[DispatchTarget]:
        """Return them in the same list as before while they are the same, as policies like it."""
        punctual = [candidate for candidate in self._candidates if not candidate.is_behind(now)]
        if punctual != self._punctual:
            self._punctual = punctual
        return self._punctual

    def _forget_full(self, now: float) -> None:
        self._look(now)
        self._pause_or_resume()

    def _look(self, now: float) -> None:
        """Who has room, and for whom?"""
        # A new list each time: policies tell by it that the candidates have changed.
        self._candidates = self._fit()
        self._lets_in = self._places.look(now) > 0

    def _fit(self) -> list[DispatchTarget]:
        roomy = [recipient for recipient in self._recipients if recipient.has_room]
        if self.strict:
            return roomy
        return [recipient for recipient in roomy if not recipient.is_stuck] or roomy

    def _admitted(self, connections: Sequence[Connection], now: float) -> int:
        """How many of these, from the front, may go to workers now?"""
        if not _is_new(connections[0]):
            # Whom we have let in once may, and comes first. On the way it was counted nowhere.
            self._places.forget()
            return sum(1 for _ in takewhile(lambda one: not _is_new(one), connections[:_ROUND]))
        if not self._lets_in:
            return 0  # until we hear of an end
        return min(self._places.budget or self._places.look(now), len(connections))

    def _pause_or_resume(self) -> None:
        full = not (self._candidates and self._lets_in)
        full = full and not (self._turn_away and self._recipients)
        if full != self._paused:
            self._paused = full
            self._pause() if full else self._resume()


def _is_new(connection: Connection) -> bool:
    return connection.slot < 0

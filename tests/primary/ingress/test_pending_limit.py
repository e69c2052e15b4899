"""One bound for all that hold connections."""

import resource
from collections import deque

from aiocluster.primary.ingress.pending_limit import MAX_HELD, PendingLimit
from tests.support.connections import at_fd_limit


class FakeHolder:
    """Holds what began at these times."""

    def __init__(self, holding: PendingLimit, *since: float) -> None:
        self.since = deque(since)
        holding.join(self)

    @property
    def held(self) -> int:
        return len(self.since)

    @property
    def held_since(self) -> float:
        return self.since[0]

    def give_way(self) -> None:
        self.since.popleft()


def test_whoever_was_silent_for_longest_gives_way_wherever_it_is() -> None:
    """To whom, does not matter: who is alone at its address has no more rights than others."""
    holding = PendingLimit(3)
    one, other, empty = FakeHolder(holding, 2.0), FakeHolder(holding, 1.0, 3.0), FakeHolder(holding)

    holding.shed_idle_connections()
    assert (holding.held, [*other.since]) == (2, [3.0])
    empty.since.append(4.0)
    holding.shed_idle_connections()

    assert [[*holder.since] for holder in (one, other, empty)] == [[], [3.0], [4.0]]


def test_while_there_is_room_nobody_gives_way() -> None:
    """Those that hold nothing any more are forgotten, as often as they say so."""
    holding = PendingLimit(2)
    one, other = FakeHolder(holding, 1.0), FakeHolder(holding, 2.0)
    holding.part(other)
    holding.part(other)

    holding.shed_idle_connections()

    assert (holding.held, one.held, other.held) == (1, 1, 1)


def test_it_is_a_share_of_the_descriptors_that_we_may_have() -> None:
    """A quarter, and so many at most."""
    with at_fd_limit(0):
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert PendingLimit().max_held == limit // 4
    assert PendingLimit().max_held <= MAX_HELD

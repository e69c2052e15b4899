import random
from collections import Counter

import pytest

from aiocluster.policies.least_connections import LeastConnections
from tests.support.candidates import Worker, turns, workers


class Asked(Worker):
    """Counts how often it is asked."""

    times = 0

    @property
    def open_connections(self) -> int:
        self.times += 1
        return 0

    @open_connections.setter
    def open_connections(self, value: int) -> None:
        pass


def loaded(*loads: int) -> list[Worker]:
    return [Worker(slot, open_connections=load) for slot, load in enumerate(loads)]


def test_who_has_fewest_is_chosen() -> None:
    """Until it has as many as the next."""
    assert turns(LeastConnections(), loaded(5, 2, 4), 4) == [1, 1, 2, 1]


@pytest.mark.parametrize("number", [1, 2, 7, 8, 9, 64, 130])
def test_equals_are_served_in_turn(number: int) -> None:
    """Over idle workers it is round robin, and not the first one again and again."""
    assert turns(LeastConnections(), workers(*range(number)), 3 * number) == [*range(number)] * 3


def test_short_connections_are_served_in_turn() -> None:
    """Also where each is closed before the next one comes, and nobody ever has any."""
    policy, candidates = LeastConnections(), workers(0, 1, 2)
    assert [policy.choose(candidates, b"").slot for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_the_turn_among_equals_outlives_comers_and_goers() -> None:
    """The next is who comes after the slot that was last served."""
    policy = LeastConnections()
    assert turns(policy, workers(0, 1, 2, 3), 2) == [0, 1]
    assert turns(policy, workers(0, 1, 3), 1) == [3]
    assert turns(policy, workers(0, 1, 2, 3), 1) == [0]


def test_a_newcomer_is_filled_up_to_the_others() -> None:
    """Then all are served alike."""
    candidates = loaded(10, 10, 0)
    assert turns(LeastConnections(), candidates, 10) == [2] * 10
    assert sorted(turns(LeastConnections(), candidates, 3)) == [0, 1, 2]


def test_up_to_four_the_figures_are_those_of_now() -> None:
    """What was closed a moment ago counts at once, whoever closed it."""
    policy, candidates, random_ = LeastConnections(), loaded(*[9] * 4), random.Random(1)
    for _ in range(200):
        random_.choice(candidates).open_connections = random_.randrange(9)
        least = min(worker.open_connections for worker in candidates)
        assert policy.choose(candidates, b"").open_connections == least


@pytest.mark.parametrize("number", [5, 8, 9, 128])
def test_of_many_a_figure_is_seen_after_a_quarter_of_them_at_most(number: int) -> None:
    """Of 128 workers one that is suddenly idle is found within 32 choices, wherever it is."""
    for slot in range(number):
        policy, candidates = LeastConnections(), loaded(*[1000] * number)
        turns(policy, candidates, 5)
        candidates[slot].open_connections = 0
        assert slot in turns(policy, candidates, -(-number // 4))


def test_what_it_gives_itself_it_knows_at_once() -> None:
    """So a worker not asked again yet is not given all that comes."""
    candidates = loaded(*[1000] * 127, 990)
    assert Counter(turns(LeastConnections(), candidates, 137)) == {
        **dict.fromkeys(range(127), 1),
        127: 10,
    }


def test_of_many_only_a_few_are_asked_each_time() -> None:
    """Once all, at the beginning, and then four for each connection."""
    policy, candidates = LeastConnections(), [Asked(slot) for slot in range(128)]
    policy.choose(candidates, b"")
    assert sum(worker.times for worker in candidates) == 128 + 4
    policy.choose(candidates, b"")
    assert sum(worker.times for worker in candidates) == 128 + 8


def test_many_are_evened_out_by_what_comes() -> None:
    """Long connections, closed at random among 100 workers: nobody has many more than another."""
    policy, candidates, random_ = LeastConnections(), workers(*range(100)), random.Random(2)
    for _ in range(20_000):
        policy.choose(candidates, b"").open_connections += 1
        closing = random_.choice(candidates)
        if sum(worker.open_connections for worker in candidates) > 1000:
            closing.open_connections = max(closing.open_connections - 1, 0)
    loads = [worker.open_connections for worker in candidates]
    assert max(loads) - min(loads) <= 3

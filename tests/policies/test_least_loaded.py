import itertools
import random
from collections import Counter

import pytest

from aiocluster.policies.least_loaded import LeastLoaded
from tests.support.candidates import Worker, turns, workers


def drawing(draw: float) -> LeastLoaded:
    """Return one that draws the same each time."""
    return LeastLoaded(lambda: draw)


def chosen_of(one: Worker, other: Worker) -> set[int]:
    """Return who is chosen of two, whichever of them is drawn first."""
    return {drawing(draw).choose([one, other], b"").slot for draw in (0.0, 0.9)}


@pytest.mark.parametrize("busy", [{"requests_in_flight": 1}, {"queued": 1}, {"lag": 0.010}])
def test_who_has_less_to_do_is_chosen(busy: dict[str, int]) -> None:
    """Requests in flight, the queue and a late loop each count."""
    assert chosen_of(Worker(0, **busy), Worker(1)) == {1}
    assert chosen_of(Worker(0), Worker(1, **busy)) == {0}


def test_requests_and_queue_are_added_up() -> None:
    """A request and a queued connection weigh the same."""
    both = Worker(0, requests_in_flight=1, queued=1)

    assert chosen_of(both, Worker(1, requests_in_flight=3)) == {0}
    assert chosen_of(both, Worker(1, queued=1)) == {1}


def test_at_a_tie_what_is_in_flight_counts_more() -> None:
    """It may block the loop; what was just given to another will soon be done."""
    assert chosen_of(Worker(0, requests_in_flight=1), Worker(1, queued=1)) == {1}


def test_lag_decides_where_all_else_is_equal() -> None:
    """It is old: it tells of the loop that was blocked, and not of the one that is."""
    busy, late = Worker(0, requests_in_flight=1), Worker(1, lag=0.2)

    assert chosen_of(busy, late) == {1}
    assert chosen_of(Worker(0, lag=0.011), Worker(1)) == {1}


def test_less_than_10_ms_of_lag_is_noise() -> None:
    """Who has fewer connections is chosen then, since each may become a request."""
    assert chosen_of(Worker(0, lag=0.009), Worker(1, open_connections=1)) == {0}


def test_of_equals_either_may_be_chosen() -> None:
    """By the draw alone."""
    assert chosen_of(Worker(0), Worker(1)) == {0, 1}


def test_one_who_is_alone_is_chosen() -> None:
    """Whatever its load."""
    assert turns(LeastLoaded(), [Worker(7, queued=3)], 3) == [7, 7, 7]


@pytest.mark.parametrize("number", [2, 3, 8, 40])
def test_each_ordered_pair_is_drawn_alike(number: int) -> None:
    """Two different ones, and of all pairs each has the same part of the draws from 0 to 1."""
    pairs = number * (number - 1)
    drawn = []
    for part in range(pairs):
        policy = drawing((part + 0.5) / pairs)
        candidates = workers(*range(number))
        one = policy.choose(candidates, b"").slot
        candidates[one].queued = 1  # now the other one of the pair is better
        drawn.append((one, policy.choose(candidates, b"").slot))
    assert sorted(drawn) == [*itertools.permutations(range(number), 2)]


def test_the_largest_draw_is_within_bounds() -> None:
    """Whatever the number of candidates is multiplied with."""
    policy = drawing(1.0 - 2.0**-53)
    for number in range(1, 300):
        assert policy.choose(workers(*range(number)), b"").slot < number


def test_idle_workers_have_even_shares() -> None:
    """12,800 short connections over 128 workers: 100 each, within five standard deviations."""
    policy, candidates = LeastLoaded(random.Random(3).random), workers(*range(128))
    shares = Counter(policy.choose(candidates, b"").slot for _ in range(12_800))
    assert all(50 <= shares[slot] <= 150 for slot in range(128))


def test_long_connections_are_evened_out() -> None:
    """By the better of two nobody is far ahead; by one at random someone would have 30 more."""
    policy, candidates = LeastLoaded(random.Random(4).random), workers(*range(128))
    turns(policy, candidates, 12_800)
    assert all(95 <= worker.open_connections <= 105 for worker in candidates)


def test_the_busiest_of_all_is_never_chosen() -> None:
    """Whoever it is compared with is better; yet the second busiest gets a share."""
    candidates = [Worker(slot, requests_in_flight=slot) for slot in range(4)]
    policy = LeastLoaded(random.Random(5).random)
    shares = Counter(policy.choose(candidates, b"").slot for _ in range(6000))
    assert shares[3] == 0
    # The pairs in which it is the best: 3, 2 and 1 of 6.
    assert [round(shares[slot] / 1000) for slot in range(3)] == [3, 2, 1]

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiocluster.errors import ConfigError
from aiocluster.policies.weighted import Weighted, weighted
from tests.support.candidates import turns, workers


def test_connections_are_shared_out_by_weight() -> None:
    """By slot, in the order given, and interleaved."""
    assert turns(weighted(3, 1), workers(0, 1), 8) == [0, 0, 1, 0, 0, 0, 1, 0]


def test_weights_may_be_given_for_some_slots() -> None:
    """All others have 1, as those have that were not thought of when it was written."""
    assert Counter(turns(weighted({1: 3}), workers(0, 1, 2), 50)) == {0: 10, 1: 30, 2: 10}
    assert Counter(turns(weighted(3), workers(0, 1), 40)) == {0: 30, 1: 10}


def test_without_weights_it_is_round_robin() -> None:
    """In turn, by slot."""
    assert turns(weighted(), workers(0, 4, 5), 7) == [0, 4, 5, 0, 4, 5, 0]
    assert turns(weighted(7, 7, 7), workers(0, 1, 2), 4) == [0, 1, 2, 0]


def test_a_heavy_one_has_its_turns_spread() -> None:
    """The others come between, and not all at its end."""
    assert turns(weighted(5, 1, 1), workers(0, 1, 2), 7) == [0, 0, 0, 1, 2, 0, 0]


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_over_a_cycle_it_is_exact(weights: list[int]) -> None:
    """As many connections as all weights together: everyone has its own weight of them."""
    expected = weights if any(weights) else [1] * len(weights)
    policy, candidates = weighted(*weights), workers(*range(len(weights)))

    for _ in range(3):
        served = Counter(turns(policy, candidates, sum(expected)))
        assert [served[slot] for slot in range(len(weights))] == expected


@settings(deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_at_no_moment_is_one_far_from_its_share(weights: list[int]) -> None:
    """No bursts: of two, none is more than half a turn of each ahead."""
    policy, candidates = weighted(*weights), workers(*range(len(weights)))
    served = turns(policy, candidates, 2 * sum(weights))
    assert_no_one_ahead(served, dict(enumerate(weights)))


def assert_no_one_ahead(served: Sequence[int], weights: dict[int, int], slack: float = 1.0) -> None:
    """Each one's turns over its weight are within half a turn of each, times `slack`."""
    for one, weight in weights.items():
        for other, other_weight in weights.items():
            steps = ((slot == one) / weight - (slot == other) / other_weight for slot in served)
            bound = slack * (0.5 / weight + 0.5 / other_weight) + 1e-9
            assert all(-bound <= ahead <= bound for ahead in accumulate(steps))


def test_one_of_weight_0_waits_for_the_rest_to_go() -> None:
    """It serves only where nobody else is there."""
    policy = weighted(1, 0)
    assert set(turns(policy, workers(0, 1), 20)) == {0}
    assert turns(policy, workers(1), 2) == [1, 1]
    assert set(turns(policy, workers(0, 1), 20)) == {0}


def test_of_several_with_weight_0_each_has_its_turn() -> None:
    """Where all are of last resort they are alike."""
    assert turns(weighted(0, 0, 1), workers(0, 1), 4) == [0, 1, 0, 1]


def test_one_that_was_away_is_not_given_what_it_has_missed() -> None:
    """One turn at once, however long it was away; from then on it has the share of the others."""
    policy = weighted(2, 2, 1)
    turns(policy, workers(0, 1, 2), 10)
    turns(policy, workers(0, 2), 300)

    back = turns(policy, workers(0, 1, 2), 11)

    assert back[0] == 1
    assert Counter(back[1:]) == {0: 4, 1: 4, 2: 2}
    assert [1, 1] not in [back[at : at + 2] for at in range(10)]


@pytest.mark.parametrize("away", [1, 2, 3])
def test_one_that_goes_and_comes_neither_gains_nor_starves(away: int) -> None:
    """A worker that is full every few moments has its share, and no more."""
    policy, served = weighted(10, 1), Counter[int]()
    for _ in range(550):
        served += Counter(turns(policy, workers(0, 1), 1))
        served += Counter(turns(policy, workers(0), away))
    share = served.total() / 11
    assert share * 0.9 <= served[1] <= share + 1


# Who else is there, and for how many connections.
churn = st.lists(st.tuples(st.frozensets(st.integers(0, 9)), st.integers(1, 12)), max_size=40)
steady_weights = st.dictionaries(st.integers(0, 9), st.integers(1, 5), min_size=1)


@settings(deadline=None)
@given(steady_weights, churn)
def test_whoever_comes_and_goes_the_steady_have_their_shares(
    weights: dict[int, int], changes: list[tuple[frozenset[int], int]]
) -> None:
    """Neither a turn lost nor one gained, at any moment."""
    policy = weighted(weights)
    served = [
        slot
        for others, number in changes
        for slot in turns(policy, workers(*sorted(weights.keys() | others)), number)
    ]
    assert_no_one_ahead(served, weights)


@settings(deadline=None)
@given(steady_weights, churn)
def test_nobody_has_more_than_its_share_by_coming_and_going(
    weights: dict[int, int], changes: list[tuple[frozenset[int], int]]
) -> None:
    """While one of weight 1 waits for its turn, another has one more than its weight at most."""
    weights = {**weights, min(weights): 1}
    policy, since = weighted(weights), Counter[int]()
    for others, number in changes:
        for slot in turns(policy, workers(*sorted(weights.keys() | others)), number):
            since = Counter() if slot == min(weights) else since + Counter([slot])
            assert all(count <= weights.get(slot, 1) + 1 for slot, count in since.items())


def test_it_stays_exact_for_ever() -> None:
    """Thirds and sevenths, where adding up fractions would go astray."""
    policy, candidates = weighted(3, 7), workers(0, 1)
    first = turns(policy, candidates, 10)
    turns(policy, candidates, 99_990)
    assert turns(policy, candidates, 10) == first


@pytest.mark.parametrize("weight", [-1, 1001, 1.5, True, "2", None])
def test_what_is_no_weight_is_refused(weight: object) -> None:
    """With the value and the slot it was for."""
    with pytest.raises(ConfigError, match=rf"{weight!r} is no weight, of slot 1;"):
        Weighted({0: 1, 1: weight})


@pytest.mark.parametrize("slot", [-1, 1.5, True, "web"])
def test_what_is_no_slot_is_refused(slot: int) -> None:
    """With the value."""
    with pytest.raises(ConfigError, match=rf"{slot!r} is no slot"):
        weighted({slot: 1})


def test_weights_and_a_mapping_are_not_mixed() -> None:
    """Which of both should count?"""
    with pytest.raises(ConfigError, match="is no weight"):
        weighted({0: 1}, 2)

"""Who gives back how many connections."""

import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiocluster.primary.scaling.rebalance_plan import bound, evened, shares, without_few

some_connections = st.dictionaries(
    st.integers(1, 200), st.integers(0, 300), min_size=1, max_size=64
)


def after(connections: dict[int, int], gives: dict[int, int], takers: set[int]) -> dict[int, int]:
    """Give what is given to whichever taker has the fewest, as the least loaded would get it."""
    left = {key: count - gives.get(key, 0) for key, count in connections.items()}
    fewest = [(left[key], key) for key in takers]
    heapq.heapify(fewest)
    for _ in range(sum(gives.values())):
        count, key = fewest[0]
        left[key] = count + 1
        heapq.heapreplace(fewest, (count + 1, key))
    return left


@pytest.mark.parametrize(("mean", "apart"), [(0, 2), (1, 2), (20, 2), (30, 3), (5000, 500)])
def test_a_tenth_or_two_may_be_between_them(mean: float, apart: float) -> None:
    """What nobody feels is not worth moving anything."""
    assert bound(mean) == apart


@pytest.mark.parametrize(
    "connections", [{}, {1: 0}, {1: 100}, {1: 5, 2: 7}, {1: 100, 2: 109}, {1: 0, 2: 0, 3: 2}]
)
def test_within_the_bound_nothing_moves(connections: dict[int, int]) -> None:
    """Neither where there is nobody to move to."""
    assert evened(connections) == {}


@pytest.mark.parametrize(
    ("connections", "gives"),
    [
        ({1: 3, 2: 0}, {1: 1}),
        ({1: 200, 2: 0}, {1: 100}),
        ({1: 12, 2: 4}, {1: 4}),
        ({1: 10, 2: 4, 3: 4, 4: 4, 5: 4}, {1: 4}),
        ({1: 0, 2: 30, 3: 60}, {3: 30}),
    ],
)
def test_those_above_the_mean_give(connections: dict[int, int], gives: dict[int, int]) -> None:
    """As few as will do."""
    assert evened(connections) == gives


@given(some_connections)
@settings(deadline=None)
def test_afterwards_none_has_two_more_than_another(connections: dict[int, int]) -> None:
    """And it rests there, although nothing was moved that need not be."""
    gives = evened(connections)
    counts = connections.values()
    mean = sum(counts) / len(counts)
    if not gives:
        assert max(counts) - min(counts) <= bound(mean)
        return
    left = after(connections, gives, {key for key in connections if key not in gives})

    assert max(left.values()) - min(left.values()) <= 1
    assert evened(left) == {}
    assert all(connections[key] > mean for key in gives)


@pytest.mark.parametrize(
    ("connections", "new", "gives"),
    [
        ({}, {1}, {}),
        ({1: 0, 2: 0}, {2}, {}),
        ({1: 1, 2: 0}, {2}, {}),
        ({1: 200, 2: 0}, {2}, {1: 100}),
        ({1: 100, 2: 100, 3: 0}, {3}, {1: 33, 2: 33}),
        ({1: 5, 2: 5, 3: 0}, {3}, {1: 1, 2: 2}),
        ({1: 100, 2: 100, 3: 0, 4: 0}, {3, 4}, {1: 50, 2: 50}),
        ({1: 90, 2: 30, 3: 0}, {3}, {1: 50}),
        ({1: 5, 2: 5, 3: 5, 4: 0}, {4}, {1: 1, 2: 1, 3: 1}),
        ({1: 100, 2: 100, 3: 40}, {3}, {1: 20, 2: 20}),
    ],
)
def test_a_new_worker_gets_its_share(
    connections: dict[int, int], new: set[int], gives: dict[int, int]
) -> None:
    """From those that have more than theirs."""
    assert shares(connections, new) == gives


@pytest.mark.parametrize("new", [set(), {9}, {2}, {2, 9}])
def test_whoever_has_its_share_asks_for_nothing(new: set[int]) -> None:
    """Nor one that has gone again, or has more than the others."""
    assert shares({1: 10, 2: 12}, new) == {}


@given(some_connections, st.integers(1, 20))
def test_every_new_worker_has_the_mean_and_nobody_less(
    connections: dict[int, int], pending_ones: int
) -> None:
    """So it rests then, and no old one has paid for it."""
    new = {-number for number in range(1, pending_ones + 1)}
    everybody = connections | dict.fromkeys(new, 0)
    mean = sum(connections.values()) // len(everybody)
    gives = shares(everybody, new)
    left = after(everybody, gives, everybody.keys() - gives.keys())

    assert all(left[key] >= mean for key in (*new, *gives))
    assert shares(left, new) == {}


@pytest.mark.parametrize(
    ("connections", "full", "left"),
    [
        ({}, {1}, set()),
        ({1: 0, 2: 9}, set(), {1, 2}),
        ({1: 0, 2: 9}, {1}, {2}),
        ({1: 0, 2: 9}, {2}, {1, 2}),
        # Without the first, the second has fewer than the mean, too.
        ({1: 0, 2: 9, 3: 12}, {1, 2}, {3}),
        ({1: 5, 2: 5}, {1, 2}, {1, 2}),
    ],
)
def test_who_is_full_and_has_few_is_left_out(
    connections: dict[int, int], full: set[int], left: set[int]
) -> None:
    """Who is full and has many can give all the same."""
    assert without_few(connections, full).keys() == left


@given(some_connections, st.sets(st.integers(1, 200)))
@settings(deadline=None)
def test_what_is_given_never_goes_round(connections: dict[int, int], full: set[int]) -> None:
    """Where it can only go to those that are not full, one look is enough."""
    able = without_few(connections, full)
    now = after(able, gives, able.keys() - full) if (gives := evened(able)) else able

    assert evened(without_few({**connections, **now}, full)) == {}

from collections import Counter
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiocluster.policies.round_robin import RoundRobin
from tests.support.candidates import turns, workers


def test_each_worker_in_turn() -> None:
    """By slot, and from the beginning after the last."""
    assert turns(RoundRobin(), workers(0, 1, 2), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_a_single_worker_has_every_turn() -> None:
    """Who is alone is chosen."""
    assert turns(RoundRobin(), workers(3), 3) == [3, 3, 3]


def test_gaps_between_slots_are_no_turns() -> None:
    """A slot that is empty costs nobody anything."""
    assert turns(RoundRobin(), workers(1, 5, 40), 6) == [1, 5, 40, 1, 5, 40]


@pytest.mark.parametrize("number", [1, 2, 7, 64])
def test_over_the_same_workers_it_is_exact(number: int) -> None:
    """At no moment is one two connections ahead of another."""
    policy, candidates = RoundRobin(), workers(*range(number))
    counts = Counter(dict.fromkeys(range(number), 0))
    for slot in turns(policy, candidates, 1000):
        counts[slot] += 1
        assert max(counts.values()) - min(counts.values()) <= 1


def test_when_one_leaves_the_next_keeps_its_turn() -> None:
    """Whoever went, whether it was served last or was about to be."""
    policy = RoundRobin()
    assert turns(policy, workers(0, 1, 2, 3), 2) == [0, 1]
    assert turns(policy, workers(0, 2, 3), 1) == [2]
    assert turns(policy, workers(0, 2), 3) == [0, 2, 0]


def test_when_one_comes_the_others_keep_their_turns() -> None:
    """A new worker takes the turn of its slot, and is not given what it has missed."""
    policy = RoundRobin()
    assert turns(policy, workers(0, 3), 3) == [0, 3, 0]
    assert turns(policy, workers(0, 1, 3, 4), 6) == [1, 3, 4, 0, 1, 3]


def test_when_the_last_leaves_it_begins_again() -> None:
    """After the highest slot comes the lowest that is there."""
    policy = RoundRobin()
    assert turns(policy, workers(2, 5, 9), 3) == [2, 5, 9]
    assert turns(policy, workers(2, 5), 1) == [2]


def test_when_all_are_replaced_the_turn_goes_on() -> None:
    """The place is remembered as a slot, and new workers in old slots inherit it."""
    policy = RoundRobin()
    assert turns(policy, workers(0, 1, 2), 2) == [0, 1]
    assert turns(policy, workers(0, 1, 2), 3) == [2, 0, 1]


# What the dispatcher sees over time: who else is there, and for how many connections.
churn = st.lists(st.tuples(st.frozensets(st.integers(0, 9)), st.integers(1, 12)), max_size=40)
steady_slots = st.frozensets(st.integers(0, 9), min_size=1)


def slots_served(steady: frozenset[int], changes: list[tuple[frozenset[int], int]]) -> list[int]:
    policy = RoundRobin()
    return [
        slot
        for others, number in changes
        for slot in turns(policy, workers(*sorted(steady | others)), number)
    ]


@settings(deadline=None)
@given(steady_slots, churn)
def test_whoever_comes_and_goes_the_steady_are_served_alike(
    steady: frozenset[int], changes: list[tuple[frozenset[int], int]]
) -> None:
    """Of those who are there all the time no one is ever two connections ahead of another."""
    served = slots_served(steady, changes)

    for one in steady:
        for other in steady:
            lead = accumulate((slot == one) - (slot == other) for slot in served)
            assert all(-1 <= ahead <= 1 for ahead in lead)


@settings(deadline=None)
@given(steady_slots, churn)
def test_nobody_is_served_twice_while_a_steady_worker_waits(
    steady: frozenset[int], changes: list[tuple[frozenset[int], int]]
) -> None:
    """Coming and going gains nobody a turn: between two of one's turns each other has one."""
    served = slots_served(steady, changes)

    for one in steady:
        since: set[int] = set()
        for slot in served:
            if slot == one:
                since = set()
            else:
                assert slot not in since
                since.add(slot)


@settings(deadline=None)
@given(churn)
def test_only_who_is_there_is_chosen(changes: list[tuple[frozenset[int], int]]) -> None:
    """Even if nobody of the last time is there any more."""
    policy = RoundRobin()
    for slots, number in changes:
        if slots:
            assert set(turns(policy, workers(*sorted(slots)), number)) <= slots

"""A policy of the user's that may fail."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from aiocluster.policies.fallback import FallbackPolicy
from tests.support.candidates import Worker, turns, workers


class Last:
    """A policy that does what it should."""

    def choose(self, candidates: Sequence[Any], affinity: bytes) -> Any:
        return candidates[-1]


class Answers:
    """A policy that answers what a test sets, or raises it."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def choose(self, candidates: Sequence[Any], affinity: bytes) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def test_one_that_chooses_is_obeyed() -> None:
    """Nothing is counted."""
    guarded = FallbackPolicy(Last())

    assert turns(guarded, workers(0, 1, 2), 3) == [2, 2, 2]
    assert guarded.failures == 0


class Meddles:
    """One that changes what it is given."""

    def __init__(self, change: str, *values: object) -> None:
        self.change, self.values = change, values

    def choose(self, candidates: Any, affinity: bytes) -> Any:
        getattr(candidates, self.change)(*self.values)
        return candidates[0]


@pytest.mark.parametrize("meddles", [Meddles("pop"), Meddles("clear"), Meddles("append", None)])
def test_one_that_changes_its_candidates_changes_nothing(meddles: Meddles) -> None:
    """They are the dispatcher's: a worker that is taken out would never be given anything."""
    candidates = workers(0, 1, 2)
    guarded = FallbackPolicy(meddles)

    assert turns(guarded, candidates, 3) == [0, 1, 2]
    assert (guarded.failures, [one.slot for one in candidates]) == (3, [0, 1, 2])


def test_it_is_shown_the_same_sequence_while_nobody_comes_or_goes() -> None:
    """So it may keep what it has worked out for it."""
    seen: list[object] = []

    class Remembers:
        def choose(self, candidates: Sequence[Any], affinity: bytes) -> Any:
            seen.append(candidates)
            return candidates[0]

    guarded, first, second = FallbackPolicy(Remembers()), workers(0, 1), workers(0)
    for candidates in (first, first, second):
        guarded.choose(candidates, b"")

    assert seen[0] is seen[1]
    assert seen[2] == (second[0],)


class Unspeakable:
    """One of which nothing can be said."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error

    def choose(self, candidates: Sequence[Any], affinity: bytes) -> Any:
        raise self.error


@pytest.mark.parametrize(
    "answer",
    [
        *(RuntimeError("bad day"), AssertionError(), asyncio.CancelledError(), SystemExit(7)),
        *(GeneratorExit(), None, 0, "worker 1", Worker(1), [], Unspeakable(ValueError())),
        Unspeakable(SystemExit(7)),
    ],
)
def test_one_that_fails_is_replaced_by_round_robin(answer: object) -> None:
    """For that connection, whether it raises or answers what is no candidate."""
    guarded = FallbackPolicy(Answers(answer))

    assert turns(guarded, workers(0, 1, 2), 6) == [0, 1, 2, 0, 1, 2]
    assert guarded.failures == 6


def test_an_equal_one_is_no_candidate() -> None:
    """A candidate is known by identity: it may not be there any more."""

    class Equal(Worker):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = Worker.__hash__

    guarded = FallbackPolicy(Answers(Equal(7)))

    assert turns(guarded, workers(0), 1) == [0]
    assert guarded.failures == 1


def test_it_is_asked_again_after_a_failure() -> None:
    """One bad moment does not depose it."""
    policy = Answers(ValueError())
    candidates = workers(0, 1)
    guarded = FallbackPolicy(policy)
    turns(guarded, candidates, 1)
    policy.answer = candidates[1]

    assert turns(guarded, candidates, 2) == [1, 1]


def test_what_the_user_ends_the_program_with_is_not_caught() -> None:
    """It is not the policy's, wherever in it it comes."""
    for answer in (KeyboardInterrupt(), Unspeakable(KeyboardInterrupt())):
        with pytest.raises(KeyboardInterrupt):
            FallbackPolicy(Answers(answer)).choose(workers(0), b"")


def test_the_log_says_so_at_each_doubling(caplog: pytest.LogCaptureFixture) -> None:
    """With the cause; a failure at every connection does not fill the disk."""
    with caplog.at_level(logging.ERROR):
        turns(FallbackPolicy(Answers(RuntimeError("bad day"))), workers(0, 1), 100)

    assert len(caplog.records) == 7
    assert "round robin chooses instead (64 failures so far)" in caplog.text
    assert "RuntimeError: bad day" in caplog.text


def test_the_log_says_what_it_answered(caplog: pytest.LogCaptureFixture) -> None:
    """Cut short, since it may be anything."""
    turns(FallbackPolicy(Answers("x" * 10_000)), workers(0), 1)

    (record,) = caplog.records
    assert "chose 'xxx" in record.getMessage()
    assert len(record.getMessage()) < 400


def test_the_log_names_what_cannot_be_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Be it the answer or the policy itself: by its class."""
    turns(FallbackPolicy(Answers(Unspeakable(ValueError()))), workers(0), 1)
    turns(FallbackPolicy(Unspeakable(ValueError("no name"))), workers(0), 1)

    answered, raised = (record.getMessage() for record in caplog.records)
    assert "chose a Unspeakable without a repr, which is no candidate" in answered
    assert "the policy a Unspeakable without a repr raised" in raised


def test_an_answer_is_looked_at_only_where_the_log_says_so() -> None:
    """To show it may take long, and connections wait."""
    shown = []

    class Shown:
        def __repr__(self) -> str:
            shown.append(self)
            return "shown"

    turns(FallbackPolicy(Answers(Shown())), workers(0), 100)

    assert len(shown) == 7


def test_its_attributes_are_the_policys() -> None:
    """Whoever peeks asks the guard."""

    class ByCookie(Last):
        affinity_by = "cookie:sid"
        strict = may_rebalance = True

    for policy, attributes in (
        (ByCookie(), ("cookie:sid", True, True)),
        (Last(), (None, False, False)),
    ):
        guarded = FallbackPolicy(policy)
        assert (guarded.affinity_by, guarded.strict, guarded.may_rebalance) == attributes

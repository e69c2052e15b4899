from collections.abc import Callable

import pytest

from aiocluster.policies.base import Policy
from aiocluster.policies.round_robin import RoundRobin

POLICIES: list[Callable[[], Policy]] = [RoundRobin]


class Bare:
    """A candidate that has nothing but what the Protocol promises."""

    __slots__ = ("slot",)

    def __init__(self, slot: int) -> None:
        self.slot = slot


@pytest.fixture(params=POLICIES, ids=lambda policy: policy.__name__)
def policy(request: pytest.FixtureRequest) -> Policy:
    made: Policy = request.param()
    return made


def test_a_policy_returns_one_of_its_candidates(policy: Policy) -> None:
    """The very object, by looking at nothing but what a candidate promises to have."""
    candidates = tuple(Bare(slot) for slot in (0, 2, 5))

    for _ in range(10):
        chosen = policy.choose(candidates)
        assert any(chosen is candidate for candidate in candidates)


def test_a_policy_serves_every_candidate_sooner_or_later(policy: Policy) -> None:
    """Nobody that is fit to serve is left out for ever, also after others came and went."""
    for slots in ((1,), (0, 1, 2), (0, 2, 3, 4), (4,)):
        candidates = [Bare(slot) for slot in slots]
        assert {policy.choose(candidates).slot for _ in range(100)} == set(slots)

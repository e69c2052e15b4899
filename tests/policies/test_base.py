import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from aiocluster.policies import base
from aiocluster.policies.base import Policy
from aiocluster.policies.least_connections import LeastConnections
from aiocluster.policies.least_loaded import LeastLoaded
from aiocluster.policies.named import policy_from
from aiocluster.policies.round_robin import RoundRobin
from aiocluster.policies.sticky import Sticky
from aiocluster.policies.weighted import Weighted
from tests.support.candidates import Worker, turns, workers

POLICIES: list[Callable[[], Policy]] = [
    RoundRobin,
    LeastConnections,
    LeastLoaded,
    Weighted,
    Sticky,
]


@pytest.fixture(params=POLICIES, ids=lambda policy: policy.__name__)
def policy(request: pytest.FixtureRequest) -> Policy:
    made: Policy = request.param()
    return made


def client(number: int) -> bytes:
    """Return an address, another one for each number."""
    return number.to_bytes(4, "big")


def test_a_policy_returns_one_of_its_candidates(policy: Policy) -> None:
    """The very object, whatever kind of sequence they come in."""
    candidates = tuple(workers(0, 2, 5))

    for number in range(10):
        chosen = policy.choose(candidates, client(number))
        assert any(chosen is candidate for candidate in candidates)


def test_a_policy_serves_every_candidate_sooner_or_later(policy: Policy) -> None:
    """Nobody that is fit to serve is left out for ever, also after others came and went."""
    for slots in ((1,), (0, 1, 2), (0, 2, 3, 4), (4,), (0, 700), (*range(40),)):
        candidates = workers(*slots)
        served = {policy.choose(candidates, client(number)).slot for number in range(1000)}
        assert served == set(slots)


def test_a_policy_serves_clients_it_knows_nothing_of(policy: Policy) -> None:
    """Not all by one worker: without an affinity everyone has a share."""
    assert set(turns(policy, workers(0, 1, 2), 100)) == {0, 1, 2}


def test_a_policy_bears_two_in_one_slot(policy: Policy) -> None:
    """So it is while a reload replaces a worker: the new one is there, the old one still too."""
    candidates = workers(0, 1, 1, 2)

    served = {policy.choose(candidates, client(number)).slot for number in range(1000)}

    assert served == {0, 1, 2}


def test_a_policy_goes_on_with_another_sequence_of_the_same_length(policy: Policy) -> None:
    """What it has worked out for one sequence is not taken for another's."""
    for slots in ((0, 1, 2), (3, 4, 5), (0, 4, 9)):
        candidates = workers(*slots)
        for number in range(30):
            assert policy.choose(candidates, client(number)) in candidates


def test_the_policy_in_the_docstring_is_one() -> None:
    """Who copies it has a policy that works."""
    text = (base.__doc__ or "").partition("\n\n")[2].partition("\n\n    aiocluster.run")[0]
    names: dict[str, Any] = {}
    exec(textwrap.dedent(text), names)
    busy, idle = Worker(0, requests_in_flight=2), Worker(1)

    assert policy_from(names["FewestRequests"]).choose([busy, idle], b"") is idle

"""Which policy holds for which address."""

from collections.abc import Sequence
from typing import Any

import pytest

from aiocluster.config.roles import Role, plan_from
from aiocluster.errors import ConfigError
from aiocluster.policies.fallback import FallbackPolicy
from aiocluster.policies.least_connections import LeastConnections
from aiocluster.policies.round_robin import RoundRobin
from aiocluster.policies.sticky import Sticky
from aiocluster.primary.dispatch.policies import SharedPolicy, policies, unserved

A, B, C = "127.0.0.1:8000", "127.0.0.1:8001", "127.0.0.1:8002"


class Mine:
    """A policy of a user's."""

    def choose(self, candidates: Sequence[Any], affinity: bytes) -> Any:
        return candidates[0]


class MineByCookie(Mine):
    """One that wants to know a cookie."""

    affinity_by = "cookie:sid"


class MineByNonsense(Mine):
    """One that wants to know nobody knows what."""

    affinity_by = "moon"


def test_one_policy_is_that_of_every_address() -> None:
    """The same object: round robin goes round over all of them."""
    policy_of = policies("least_connections")

    assert isinstance(policy_of(A), LeastConnections)
    assert policy_of(A) is policy_of(B)


def test_a_class_is_made_once() -> None:
    """However often its setting is read on the way: what it opens is opened once."""
    made = []

    class Costly(Mine):
        def __init__(self) -> None:
            made.append(self)

    role = Role("pkg.module:name", bind=[A, B], policy={A: Costly, B: Costly})
    setting = plan_from(None, {"web": role}, {}).roles["web"].settings.policy
    assert made == []

    policy_of = policies(setting)

    assert policy_of(A) is policy_of(B)
    assert len(made) == 1


def test_an_address_may_have_one_of_its_own() -> None:
    """Those that are not named have round robin."""
    policy_of = policies({A: "sticky", B: "least_connections"})

    assert isinstance(policy_of(A), Sticky)
    assert isinstance(policy_of(B), LeastConnections)
    assert type(policy_of(C)) is RoundRobin


def test_addresses_with_the_same_policy_share_it() -> None:
    """By name, and by object; another object is another policy."""
    one, other = Mine(), Mine()
    by_name = policies({A: "sticky", B: "sticky"})
    by_object = policies({A: one, B: one, C: other})

    assert by_name(A) is by_name(B)
    assert by_object(A) is by_object(B)
    assert by_object(C) is not by_object(A)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "[::]"])
def test_all_interfaces_may_be_written_without_a_host(host: str) -> None:
    """A socket that was handed down has one."""
    assert isinstance(policies({":80": "sticky", A: "weighted"})(f"{host}:80"), Sticky)
    assert type(policies({":80": "sticky"})("127.0.0.1:80")) is RoundRobin


def test_policies_of_addresses_where_nobody_listens_are_seen() -> None:
    """Else they would be given out to nobody, and nobody would know."""
    assert unserved("sticky", [A]) == []
    assert unserved({A: "sticky", ":80": "sticky"}, ["[::]:80", A, B]) == []
    assert unserved({B: "sticky", A: "sticky", C: "sticky"}, [A]) == [B, C]


def test_a_policy_of_the_users_is_guarded() -> None:
    """Ours are not: they cannot fail, and cost less so."""
    assert isinstance(policies(Mine())(A), FallbackPolicy)
    assert isinstance(policies(f"{__name__}:Mine")(A), FallbackPolicy)
    assert isinstance(policies("sticky:cookie:sid")(A), Sticky)
    assert isinstance(policies(Sticky())(A), Sticky)


def test_what_a_users_policy_goes_by_is_checked() -> None:
    """Before any client comes."""
    guarded = policies(MineByCookie())(A)

    assert isinstance(guarded, FallbackPolicy)
    assert guarded.affinity_by == "cookie:sid"
    for given in (MineByNonsense, MineByNonsense(), f"{__name__}:MineByNonsense"):
        with pytest.raises(ConfigError, match=r"^policy: .*MineByNonsense.*: affinity_by='moon'"):
            policies(given)


def test_shared_is_round_robin_for_what_still_comes() -> None:
    """While not all workers can accept by themselves."""
    policy = policies("shared")(A)

    assert type(policy) is SharedPolicy
    assert isinstance(policy, RoundRobin)


def test_what_cannot_be_imported_is_told() -> None:
    """When the parts are made, not with the first connection."""
    with pytest.raises(ConfigError, match=r"policy .*: there is no module 'no_such_module'"):
        policies("no_such_module:Policy")

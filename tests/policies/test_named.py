from collections.abc import Sequence
from typing import Any

import pytest

from aiocluster.errors import ConfigError
from aiocluster.policies.base import C, Policy
from aiocluster.policies.least_connections import LeastConnections
from aiocluster.policies.least_loaded import LeastLoaded
from aiocluster.policies.named import RENAMED, check_policy, policy_from
from aiocluster.policies.round_robin import RoundRobin
from aiocluster.policies.sticky import Sticky
from aiocluster.policies.weighted import Weighted
from tests.support.candidates import turns, workers


class Last:
    """A user's own."""

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        return candidates[-1]


class Nth(Last):
    """One that cannot be made without arguments."""

    def __init__(self, position: int) -> None:
        self.position = position


class Asynchronous:
    async def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        return candidates[0]


class Outdated:
    def choose(self, candidates: Sequence[C]) -> C:
        return candidates[0]


class Static:
    @staticmethod
    def choose(candidates: Sequence[C], affinity: bytes) -> C:
        return candidates[-1]


class OfTheClass:
    @classmethod
    def choose(cls, candidates: Sequence[C], affinity: bytes) -> C:
        return candidates[-1]


class _Chooser:
    def __call__(self, candidates: Sequence[C], affinity: bytes) -> C:
        return candidates[-1]


class AnObject:
    choose = _Chooser()


def imported(text: str, what: str) -> object:
    """Stand in for config.target's function."""
    assert what == "policy"
    if text != "pkg.module:Last":
        raise ConfigError(f"{what} {text!r}: there is no such thing")
    return Last


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("round_robin", RoundRobin),
        ("least_connections", LeastConnections),
        ("least_loaded", LeastLoaded),
        ("weighted", Weighted),
        ("weighted:3,1", Weighted),
        ("sticky", Sticky),
        ("sticky:ip", Sticky),
    ],
)
def test_each_name_is_a_policy_of_its_own(name: str, kind: type[Policy]) -> None:
    """Made anew each time: two listeners do not share a turn."""
    first, second = policy_from(name), policy_from(name)
    assert (type(first), type(second)) == (kind, kind)
    assert first is not second


def test_weights_are_read_from_the_text() -> None:
    """By slot."""
    assert sorted(turns(policy_from("weighted:3,0,1"), workers(0, 1, 2), 4)) == [0, 0, 0, 2]


@pytest.mark.parametrize("by", ["ip", "header:x-session-id", "cookie:sid", "path:1"])
def test_what_sticky_goes_by_is_read_from_the_text(by: str) -> None:
    """Colons of its own included."""
    policy = policy_from(f"sticky:{by}")
    assert isinstance(policy, Sticky)
    assert policy.affinity_by == by


def test_an_object_that_chooses_is_taken_as_it_is() -> None:
    """With the state that it has, and with arguments of its own."""
    own = Nth(3)
    assert policy_from(own) is own


def test_a_class_is_made() -> None:
    """Another object each time."""
    assert type(policy_from(Last)) is Last
    assert policy_from(Last) is not policy_from(Last)


def test_an_import_string_is_imported() -> None:
    """By who can; what it names is a class or an object."""
    assert type(policy_from("pkg.module:Last", imported)) is Last


def test_a_name_is_not_imported() -> None:
    """Though "sticky:ip" has the form of an import string, too."""
    assert isinstance(policy_from("sticky:ip", imported), Sticky)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("round-robin", "round_robin"),
        ("RoundRobin", "round_robin"),
        ("least_conn", "least_connections"),
        ("weigthed:3,1", "weighted"),
        ("stiky:ip", "sticky"),
        ("share", "shared"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_right_one(name: str, near: str) -> None:
    """Whether or not it may be an import string."""
    for importer in (None, imported):
        with pytest.raises(ConfigError) as error:
            policy_from(name, importer)
        assert repr(name) in str(error.value)
        assert str(error.value).endswith(f"; did you mean {near!r}?")


@pytest.mark.parametrize(
    "value",
    [
        *("", ":", "xyz", "round_robin:", "least_loaded:3", "weighted:", "weighted:a"),
        *("weighted:1,", "weighted:1;2", "weighted:-1", "weighted:1.5", "weighted:12345"),
        *(None, 7, object, len, ["round_robin"]),
    ],
)
def test_what_is_no_policy_is_refused(value: object) -> None:
    """With the value, and with all that is allowed."""
    with pytest.raises(ConfigError) as error:
        policy_from(value)
    assert f"policy: {value!r} is not allowed; give round_robin, " in str(error.value)


def test_a_weight_that_is_too_large_is_refused() -> None:
    """By the policy, in its own words."""
    with pytest.raises(ConfigError, match="1001 is no weight"):
        policy_from("weighted:1001,1")


def test_a_bad_by_is_refused() -> None:
    """By the policy, in its own words."""
    with pytest.raises(ConfigError, match="by='header' is not allowed; give ip"):
        policy_from("sticky:header")


def test_a_class_that_needs_arguments_is_refused() -> None:
    """It is said what to give in its place."""
    with pytest.raises(ConfigError, match=r"Nth'> needs arguments; give an object of it"):
        policy_from(Nth)


@pytest.mark.parametrize("kind", [Asynchronous, Outdated])
def test_one_that_cannot_choose_is_refused(kind: type) -> None:
    """At the start, not for each connection; and it is said what its method must be like."""
    for value in (kind, kind()):
        for read in (policy_from, check_policy):
            with pytest.raises(ConfigError, match=r"def choose\(self, candidates, affinity\)"):
                read(value)


def test_a_class_is_checked_without_being_made() -> None:
    """It may open what its policy needs; and be checked as often as anybody likes."""
    made = []

    class Costly(Last):
        def __init__(self) -> None:
            made.append(self)

    check_policy(Costly)
    assert made == []
    policy_from(Costly)
    assert len(made) == 1


class ByMoon(Last):
    affinity_by = "moon"


class ByProperty(Last):
    @property
    def affinity_by(self) -> str:
        return "moon"


@pytest.mark.parametrize("value", [ByMoon, ByMoon(), ByProperty()])
def test_what_none_can_go_by_is_refused(value: object) -> None:
    """With the policy, whoever has written it."""
    with pytest.raises(ConfigError) as error:
        check_policy(value)
    assert str(error.value).startswith(
        f"policy: {value!r:.80}: affinity_by='moon' is not allowed; give ip,"
    )


def test_what_a_class_goes_by_may_be_computed() -> None:
    """Then it is looked at as soon as there is an object."""
    check_policy(ByProperty)
    with pytest.raises(ConfigError, match=r"ByProperty object.*: affinity_by='moon' is not"):
        policy_from(ByProperty)


@pytest.mark.parametrize("kind", [Last, Static, OfTheClass, AnObject])
def test_choose_may_be_any_callable_of_a_class(kind: type) -> None:
    """A function of it is given its object later; others are called as they are."""
    check_policy(kind)
    assert turns(policy_from(kind), workers(0, 1), 1) == [1]


def test_what_a_class_has_made_is_looked_at_again() -> None:
    """It may have another `choose` than its class."""

    class Changed(Last):
        def __init__(self) -> None:
            self.choose = len  # type: ignore[method-assign, assignment]

    with pytest.raises(ConfigError, match="cannot choose"):
        policy_from(Changed)


def test_what_a_class_raises_comes_through() -> None:
    """It is the user's own, with the user's own words."""

    class Broken(Last):
        def __init__(self) -> None:
            raise TypeError("no table")

    with pytest.raises(TypeError, match="no table"):
        policy_from(Broken)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_attribute_is_an_error_that_gives_the_new_one(old: str, new: str) -> None:
    """Without the error, an attribute that was renamed would have no effect."""
    named_before = type("Own", (), {"choose": lambda self, some, key: some[0], old: "ip"})
    for value in (named_before, named_before()):
        with pytest.raises(ConfigError, match=f"its attribute '{old}' is '{new}' now$"):
            check_policy(value)
    check_policy(type("Both", (named_before,), {new: None}))


class By:
    """A policy with an attribute of its own that is called `by`."""

    by = 3

    def choose(self, candidates: Sequence[Any], affinity: bytes) -> Any:
        return candidates[0]


def test_an_attribute_by_that_is_no_affinity_key_is_the_users_own() -> None:
    """It is refused as an old name only if it could have been one."""
    check_policy(By())
    By.by = "ip"  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="its attribute 'by' is 'affinity_by' now"):
        check_policy(By())

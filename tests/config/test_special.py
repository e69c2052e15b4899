"""Settings that are more than a number or a name."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aiocluster.config.autoscale import Autoscale
from aiocluster.config.environment import Environment
from aiocluster.config.special import SPECIAL
from aiocluster.errors import ConfigError
from aiocluster.policies.sticky import Sticky


class Mine:
    """A policy of a user's."""

    def choose(self, candidates: Sequence[Any], affinity: bytes) -> Any:
        return candidates[0]


MINE, STICKY = Mine(), Sticky()


def read(name: str, value: object) -> Any:
    return SPECIAL[name].read(value)


def typed(name: str, *texts: str) -> Any:
    return SPECIAL[name].read_texts(texts)


@pytest.mark.parametrize(
    "policy", ["round_robin", "weighted:3,1", "shared", "pkg.module:name", MINE, Mine, STICKY]
)
def test_a_policy_is_kept_as_it_was_given(policy: object) -> None:
    """It is made, or imported, where it is used."""
    assert read("policy", policy) is policy


def test_addresses_may_have_policies_of_their_own() -> None:
    """However an address is written, it is the same one."""
    assert read("policy", {"[0::1]:80": "sticky", "127.0.0.1:81": MINE, ":82": "shared"}) == {
        "[::1]:80": "sticky",
        "127.0.0.1:81": MINE,
        ":82": "shared",
    }


@pytest.mark.parametrize("where", ["8000", "", 8000, "127.0.0.1:x"])
def test_the_policy_of_what_is_no_address_is_refused(where: object) -> None:
    """By name."""
    with pytest.raises(ConfigError, match=f"policy: {where!r} is not an address of bind"):
        read("policy", {where: "sticky"})


@pytest.mark.parametrize(
    "policy", ["roundrobin", "", None, 7, {}, {":80": "nonsense"}, "sticky:moon", ["sticky"]]
)
def test_what_is_no_policy_is_refused(policy: object) -> None:
    """Before anything is started."""
    with pytest.raises(ConfigError, match=r"policy: |sticky: "):
        read("policy", policy)


def test_policies_may_be_typed() -> None:
    """One for all, or address=policy."""
    assert typed("policy", "sticky:cookie:sid") == "sticky:cookie:sid"
    assert typed("policy", "127.0.0.1:80=sticky", "127.0.0.1:81=weighted:3,1") == {
        "127.0.0.1:80": "sticky",
        "127.0.0.1:81": "weighted:3,1",
    }


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["h:80=sticky", "h:80=weighted"], "'h:80': h:80 has a policy already"),
        (["[::1]:80=sticky", "[0::1]:80=sticky"], r"'\[0::1\]:80': \[::1\]:80 has"),
        (["sticky", "weighted"], "'sticky': of several, give each as host:port=policy"),
        (["h:80=sticky", "weighted"], "'weighted': of several, give each as"),
    ],
)
def test_typed_policies_that_contradict_each_other_are_refused(
    texts: list[str], reason: str
) -> None:
    """Neither is dropped."""
    with pytest.raises(ConfigError, match=f"policy: {reason}"):
        typed("policy", *texts)


def test_an_address_has_one_policy() -> None:
    """However it is written."""
    with pytest.raises(ConfigError, match=r"policy: '\[0:0::1\]:80': \[::1\]:80 has a"):
        read("policy", {"[::1]:80": "sticky", "[0:0::1]:80": "weighted"})


def test_autoscale_is_a_record_or_nothing() -> None:
    """A dict is not taken: a misspelt name in it would not be seen."""
    record = Autoscale(1, 4)

    assert read("autoscale", record) is record
    assert read("autoscale", None) is None
    with pytest.raises(ConfigError, match=r"autoscale: \{'min': 1\} is not allowed"):
        read("autoscale", {"min": 1})


def test_autoscale_may_be_typed() -> None:
    """All its fields but a function."""
    assert typed("autoscale", "min=1,max=8") == Autoscale(1, 8)
    assert typed(
        "autoscale", "max=8,min=2,metric=lag,target=0.5,up_after=1,down_after=inf,cooldown=2.5"
    ) == Autoscale(2, 8, metric="lag", target=0.5, up_after=1, down_after=math.inf, cooldown=2.5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is not allowed"),
        ("min=1", "'min=1' is not allowed"),
        ("min=1,max", "'max' is not allowed"),
        ("min=1,max=x", "'max=x': 'x' is no number"),
        ("min=1,max=8,speed=3", "'speed=3' is not allowed"),
        ("min=1,max=8,target=x", "'x' is no number"),
        ("min=1,max=2,max=9", "'max=9': max was given before"),
        ("min=0,max=8", "min must be"),
        ("min=3,max=2", "max must be"),
        ("min=1,max=8,metric=moon", "metric must be"),
    ],
)
def test_what_is_typed_wrongly_is_told(text: str, reason: str) -> None:
    """By name."""
    with pytest.raises(ConfigError, match=f"autoscale.*{reason}"):
        typed("autoscale", text)


@pytest.mark.parametrize(
    ("given", "networks"),
    [
        ("10.0.0.0/8", ("10.0.0.0/8",)),
        (["10.0.0.1", "::1"], ("10.0.0.1/32", "::1/128")),
        ((), ()),
    ],
)
def test_proxies_are_addresses_or_networks(given: object, networks: tuple[str, ...]) -> None:
    """One, or several."""
    assert read("trusted_proxies", given) == networks


@pytest.mark.parametrize("given", ["10.0.0.1/8", "localhost", "", [7], 7, None, ["10.0.0.0/33"]])
def test_other_proxies_are_refused(given: object) -> None:
    """A network with bits beyond its prefix is a slip too."""
    with pytest.raises(ConfigError, match=r"trusted_proxies: .*such as 10\.0\.0\.0/8"):
        read("trusted_proxies", given)


def test_env_is_read() -> None:
    """See test_environment.py."""
    assert read("env", {"A": "1"}) == typed("env", "A=1") == Environment({"A": "1"})


def test_a_folder_may_be_a_path_object() -> None:
    """As `pathlib` gives it."""
    assert SPECIAL["chdir"].read(Path("/srv/current")) == "/srv/current"
    assert SPECIAL["chdir"].read_texts(["../app"]) == "../app"

"""What may be an environment, and what is said of what may not."""

from types import MappingProxyType
from typing import Any

import pytest

from aiocluster.config.environment import (
    MAX_ENV_BYTES,
    Environment,
    checked_env,
    env_from,
    env_from_texts,
)
from aiocluster.errors import ConfigError


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"A": ""},
        {"A": "b=c"},
        {"ä": "ü\n"},
        MappingProxyType({"A": "1"}),
        {"A": "x" * (MAX_ENV_BYTES - 1)},
    ],
)
def test_text_is_an_environment(env: Any) -> None:
    """A copy of it, so that nobody changes what replacements will get."""
    checked = checked_env(env)

    assert checked == env
    assert checked is not env


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        (["A"], r"\['A'\] is a list; give a dict of text"),
        ("A=1", "'A=1' is a str"),
        (None, "None is a NoneType"),
        ({"A": 1}, "'A': 1 is not allowed; give text for both"),
        ({1: "A"}, "1: 'A' is not allowed; give text for both"),
        ({"": "x"}, "'': 'x' is not allowed; a name must not be empty"),
        ({"A=B": "x"}, "'A=B': 'x' is not allowed; a name must not be empty nor have a '='"),
        ({"A\0": "x"}, "zero byte"),
        ({"A": "x\0"}, "zero byte"),
        ({"A": "\udcff"}, "cannot be encoded as UTF-8"),
        ({"A": "x" * MAX_ENV_BYTES}, f"{MAX_ENV_BYTES + 1} bytes; at most {MAX_ENV_BYTES}"),
    ],
)
def test_what_no_process_could_have_is_refused(env: Any, reason: str) -> None:
    """By name, before a worker dies of it again and again."""
    with pytest.raises(ConfigError, match=reason):
        checked_env(env)


def test_names_are_for_all_and_numbers_for_one_slot() -> None:
    """What is for a slot goes before what is for all; what one worker has, before both."""
    env = env_from({"A": "all", "B": "all", 1: {"B": "slot", "C": "slot"}})

    assert env.of(0, {}) == {"A": "all", "B": "all"}
    assert env.of(1, {}) == {"A": "all", "B": "slot", "C": "slot"}
    assert env.of(1, {"C": "worker"}) == {"A": "all", "B": "slot", "C": "worker"}
    assert env.of_slot == {1: {"B": "slot", "C": "slot"}}


def test_an_environment_is_taken_as_it_is() -> None:
    """As settings that were checked before come again."""
    env = Environment({"A": "1"})

    assert env_from(env) is env
    assert env_from({}) == Environment()


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ("A=1", "'A=1' is not allowed; give NAME=value"),
        ({-1: {"A": "1"}}, "-1: .* is not allowed"),
        ({True: {"A": "1"}}, "True: .* is not allowed"),
        ({0: "A=1"}, "'A=1' is a str; give a dict"),
        ({0: {"A": 1}}, "'A': 1 is not allowed"),
        ({"A": {"B": "1"}}, "'A': .* is not allowed"),
    ],
)
def test_what_is_no_environment_is_refused(env: Any, reason: str) -> None:
    """For a slot as for all."""
    with pytest.raises(ConfigError, match=reason):
        env_from(env)


HALF = "x" * (MAX_ENV_BYTES // 2)


def test_what_one_worker_has_is_limited_as_a_whole() -> None:
    """What is for all, for its slot, and its own: together they travel."""
    for read in (
        lambda: env_from({"A": HALF, 3: {"B": HALF}}),
        lambda: env_from_texts([f"A={HALF}", f"3:B={HALF}"]),
        lambda: env_from({"A": HALF}).of(3, {"B": HALF}),
    ):
        with pytest.raises(ConfigError, match=f"env of slot 3: {MAX_ENV_BYTES + 2} bytes; at most"):
            read()


def test_what_goes_to_different_workers_is_not_added_up() -> None:
    """Nor what is replaced."""
    env = env_from({"A": HALF, 1: {"A": HALF}, 2: {"A": HALF}})

    assert env.of(1, {"A": HALF}) == {"A": HALF}


def test_it_may_be_typed() -> None:
    """A value may have a '=' or a ':', and the last one of a name counts."""
    typed = env_from_texts(["A=1", "0:A=2", "A=b=c:d", "12:B=", "12:C=x"])

    assert typed == Environment({"A": "b=c:d"}, {0: {"A": "2"}, 12: {"B": "", "C": "x"}})


@pytest.mark.parametrize("text", ["", "A", "=x", "x:A=1", "0:", "0:=1", "-1:A=1", "99999:A=1"])
def test_what_is_typed_wrongly_is_refused(text: str) -> None:
    """By name."""
    with pytest.raises(ConfigError, match=r"env: .* is not allowed"):
        env_from_texts([text])

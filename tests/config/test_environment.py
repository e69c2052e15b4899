"""What may be an environment, and what is said of what may not."""

from types import MappingProxyType
from typing import Any

import pytest

from aiocluster.config.environment import MAX_ENV_BYTES, checked_env
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

"""Settings that are typed, and what is said of them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiocluster.config.setting_texts import setting_help, value_from_text
from aiocluster.config.settings import Address, Settings, settings_from
from aiocluster.errors import ConfigError

HELP = {setting.name: setting for setting in setting_help()}
NAMES = Settings.__struct_fields__


@given(st.sampled_from(NAMES), st.text() | st.integers().map(str) | st.floats().map(str))
def test_what_is_read_from_text_is_a_right_value(name: str, text: str) -> None:
    """What could be read needs no second look."""
    try:
        value = value_from_text(name, text)
    except ConfigError:
        return
    settings_from({name: value})


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("access_log_format", "chdir")]
)
def test_a_wrong_text_is_told_as_a_wrong_value_is(name: str) -> None:
    """The error is the same, wherever the value came from."""
    with pytest.raises(ConfigError) as caught:
        value_from_text(name, "-1x")
    assert str(caught.value) == f"{name}: '-1x' is not allowed; give {HELP[name].allowed}"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("workers", "4", 4),
        ("workers", "cpu", "cpu"),
        ("bind", "[::1]:80", (Address("::1", 80),)),
        ("preload", "true", True),
        ("preload", "false", False),
        ("preload", "auto", "auto"),
        ("graceful_timeout", "2.5", 2.5),
        ("access_log_format", "5", "5"),
        ("chdir", "../app", "../app"),
        ("chdir", "none", None),
    ],
)
def test_text_becomes_a_value_of_the_settings_type(name: str, text: str, value: Any) -> None:
    """A command line has only text, and need not know which type a setting is of."""
    assert value_from_text(name, text) == value


def test_text_for_an_unknown_setting_is_refused() -> None:
    """As with values, an unknown name is never ignored."""
    with pytest.raises(ConfigError, match="did you mean 'backlog'"):
        value_from_text("back_log", "5")


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_explained_in_one_line(name: str) -> None:
    """Help is there, is one sentence, and the default it shows is a right value."""
    setting = HELP[name]
    assert setting.help.endswith(".")
    assert "\n" not in setting.help
    assert "None" not in setting.allowed
    assert settings_from({name: value_from_text(name, setting.default)}) == Settings()


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in NAMES
        if name.endswith(("_timeout", "_interval", "_time", "_life", "_delay"))
    ],
)
def test_every_time_names_its_unit(name: str) -> None:
    """Nobody has to guess whether a time is in seconds."""
    assert "seconds" in HELP[name].help.lower()

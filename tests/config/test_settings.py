import contextlib
import math
from typing import Any

import msgspec
import pytest
from aiohttp.web_log import AccessLogger
from aiohttp.web_protocol import RequestHandler
from hypothesis import given
from hypothesis import strategies as st

from aiocluster.config.setting_texts import setting_help
from aiocluster.config.settings import RENAMED, Address, Settings, settings_from
from aiocluster.errors import ConfigError

HELP = {setting.name: setting for setting in setting_help()}
NAMES = Settings.__struct_fields__

NUMBERS = [name for name in NAMES if "number" in HELP[name].allowed]
WHOLE_NUMBERS = [name for name in NAMES if "whole number" in HELP[name].allowed]

# None of these is a value of any setting, whatever its type.
NEVER_RIGHT: list[Any] = [None, -1, -0.5, math.nan, math.inf, -math.inf, b"x", {}, []]

# But for these: no environment, no proxy, nothing that scales, no folder.
NOTHING: dict[str, Any] = {"env": {}, "trusted_proxies": [], "autoscale": None, "chdir": None}

WRONG: list[tuple[str, Any]] = [
    *(
        (name, value)
        for name in NAMES
        for value in NEVER_RIGHT
        if name not in NOTHING or value != NOTHING[name]
    ),
    *((name, value) for name in NUMBERS for value in (True, False, "1", "often", 10**400)),
    *((name, value) for name in WHOLE_NUMBERS for value in (1.0, 1.5, 2**63)),
    *((name, 2**31) for name in WHOLE_NUMBERS if not name.startswith("max_memory")),
    *((name, value) for name in NAMES if HELP[name].is_switch for value in (0, 1, "true", "")),
    ("workers", 0),
    ("workers", "many"),
    ("bind", "localhost"),
    ("policy", "random"),
    ("trusted_proxies", "10.0.0.0/33"),
    ("autoscale", "min=1"),
    ("chdir", ""),
    ("chdir", "/srv\0/app"),
    ("restart", "on-failure"),
    ("preload", 1),
    ("preload", "yes"),
    ("backlog", 0),
    ("boot_timeout", 0),
    ("behind_after", 0.0),
    ("failure_half_life", 0),
    ("metrics_interval", 0.049),
    ("max_headers", 0),
    ("access_log_format", 5),
    ("log_level", "INFO"),
]


def test_without_values_every_setting_has_its_default() -> None:
    """Nothing has to be set."""
    assert settings_from({}) == Settings()
    assert settings_from({}).bind == (Address("127.0.0.1", 8000),)


def test_a_wrong_value_names_the_setting_the_value_and_what_is_allowed() -> None:
    """Whoever reads the error needs no manual to put it right."""
    for name, value in WRONG:
        with pytest.raises(ConfigError) as caught:
            pytest.fail(f"{name}={value!r} is taken: {settings_from({name: value})}")
        text = str(caught.value)
        assert text.startswith(f"{name}: "), (name, value)
        assert repr(value) in text
        assert HELP[name].allowed in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workers", 1),
        ("workers", "io"),
        ("preload", False),
        ("restart", "on_failure"),
        ("graceful_timeout", 0),
        ("max_failures", 2.5),
        ("max_requests", 0),
        ("metrics_interval", 0.05),
        ("keepalive_timeout", 0),
        ("access_log", True),
        ("access_log_format", ""),
    ],
)
def test_a_right_value_is_kept(name: str, value: Any) -> None:
    """The bounds themselves are allowed, and a whole number where a fraction could be."""
    assert getattr(settings_from({name: value}), name) == value


@pytest.mark.parametrize("value", [":80", [":80"], (":80",)])
def test_bind_takes_one_address_or_several(value: Any) -> None:
    """One address needs no list around it."""
    assert settings_from({"bind": value}).bind == (Address("", 80),)


def test_a_settings_record_cannot_change() -> None:
    """What was checked stays as it was checked."""
    with pytest.raises(AttributeError):
        settings_from({}).workers = 0  # type: ignore[misc]


def test_a_misspelt_name_is_an_error_that_knows_the_right_one() -> None:
    """A typing mistake is told, never ignored."""
    with pytest.raises(ConfigError, match=r"'worker'; did you mean 'workers'\?"):
        settings_from({"worker": 4})


def test_an_old_name_is_an_error_that_gives_the_new_one() -> None:
    """A setting that was renamed is never ignored, nor taken for another that is spelt alike."""
    with pytest.raises(ConfigError) as caught:
        settings_from({"affinity": "auto"})
    assert str(caught.value) == "unknown setting: 'affinity' (now 'cpu_affinity')"

    with pytest.raises(ConfigError, match=r"'qqq', 'affinity' \(now 'cpu_affinity'\)$"):
        settings_from({"qqq": 1, "affinity": "auto"})
    assert set(RENAMED.values()) <= set(NAMES)
    assert not set(RENAMED) & set(NAMES)


def test_all_unknown_names_are_listed_at_once() -> None:
    """Two mistakes take one attempt to find; without a near name there is no guess."""
    with pytest.raises(ConfigError, match=r"^unknown settings: 'qqq', '7'$"):
        settings_from({"qqq": 1, "workers": 2, 7: 3})  # type: ignore[dict-item]


@given(st.sampled_from(NAMES), st.text() | st.integers() | st.floats() | st.booleans())
def test_any_value_is_taken_or_a_config_error(name: str, value: Any) -> None:
    """No value makes the check fail in another way, and what is taken is the setting."""
    with contextlib.suppress(ConfigError):
        settings = settings_from({name: value})
        taken = getattr(settings, name)
        # A whole number that is given for a float becomes the nearest one.
        assert name == "bind" or taken == (float(value) if isinstance(taken, float) else value)


def test_aiohttps_own_settings_have_aiohttps_own_defaults() -> None:
    """An app that moves here from aiohttp alone behaves as before."""
    defaults = RequestHandler.__init__.__kwdefaults__ or {}
    shared = {name for name in NAMES if name in defaults} - {
        "keepalive_timeout",  # run_app's, 75 s, is the one apps are used to
        "access_log",  # a logger there, a switch here
    }
    ours = msgspec.structs.asdict(Settings())
    assert len(shared) >= 7
    assert {name: ours[name] for name in shared} == {name: defaults[name] for name in shared}
    assert ours["access_log_format"] == AccessLogger.LOG_FORMAT

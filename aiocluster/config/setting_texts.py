"""The settings as text: values from a command line, and the words of `--help` and the manual."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Struct

from aiocluster.config.allowed import allowed
from aiocluster.config.environment import Environment
from aiocluster.config.settings import HINTS, Settings, converted, refuse_unknown
from aiocluster.config.special import SPECIAL

# The settings by topic: the common ones, which `--help` shows, and the others.
TOPICS: Mapping[str, tuple[str, str]] = {
    "Workers": ("workers autoscale env chdir preload", "cpu_affinity ready"),
    "Connections": (
        "bind policy max_connections max_connections_total when_full proxy_protocol"
        " trusted_proxies",
        "retry_after peek_timeout rebalance backlog behind_after steal_after tcp_keepalive",
    ),
    "Reload and shutdown": (
        "boot_timeout graceful_timeout pre_drain_wait reload_surge",
        "idle_grace min_ready_seconds min_uptime",
    ),
    "Supervision": (
        "restart hang_timeout max_memory max_requests",
        "lag_warning max_failures failure_half_life max_restart_delay max_requests_jitter"
        " max_memory_hard memory_measure max_age metrics_interval",
    ),
    "HTTP": (
        "keepalive_timeout max_requests_in_flight",
        "handler_cancellation lingering_time max_line_size max_field_size max_headers"
        " read_bufsize auto_decompress",
    ),
    "Logging": ("access_log log_level", "access_log_format"),
}

# The metavars of settings that need another than their type's.
_METAVARS = {
    "access_log_format": "FORMAT",
    "autoscale": "min=INT,max=INT",
    "bind": "ADDRESS",
    "chdir": "FOLDER",
    "env": "NAME=VALUE",
    "max_failures": "NUMBER",
    "max_field_size": "SIZE",
    "max_line_size": "SIZE",
    "max_memory": "SIZE",
    "max_memory_hard": "SIZE",
    "policy": "POLICY",
    "read_bufsize": "SIZE",
    "trusted_proxies": "NETWORK",
}
_OF_TYPES = {int: "INT", float: "SECONDS", bool: "true|false"}


def value_from_text(name: str, text: str) -> Any:
    """Return the value, for `settings_from`, of a setting that was given as one text."""
    refuse_unknown({name: text})
    if name in SPECIAL:
        return value_from_texts(name, [text])
    return converted(name, text, strict=False)


def value_from_texts(name: str, texts: Sequence[str]) -> Any:
    """Return the value of a special setting, which may have been given several times."""
    refuse_unknown({name: texts})
    default = getattr(Settings(), name)
    # A default may be typed as `--help` shows it.
    return default if [*texts] == [_as_text(default)] else SPECIAL[name].read_texts([*texts])


class SettingHelp(Struct, frozen=True):
    """A description of one setting, for `--help` and the manual."""

    name: str
    help: str
    metavar: str  # the placeholder of a value: INT, SECONDS, wait|503|close
    allowed: str
    default: str
    is_switch: bool  # the setting is true or false
    is_multiple: bool  # the setting may be given several times


def setting_help() -> tuple[SettingHelp, ...]:
    """Return the description of every setting, in the order of `Settings`."""
    return tuple(
        SettingHelp(
            name=field.name,
            help=HINTS[field.name].__metadata__[-1].description,
            metavar=_METAVARS.get(field.name) or _metavar(HINTS[field.name]),
            allowed=SPECIAL[field.name].allowed
            if field.name in SPECIAL
            else allowed(HINTS[field.name]),
            default=_as_text(field.default),
            is_switch=isinstance(field.default, bool),
            is_multiple=field.name in SPECIAL and SPECIAL[field.name].is_multiple,
        )
        for field in msgspec.structs.fields(Settings)
    )


def _metavar(hint: Any) -> str:
    """Return the metavar of this type."""
    if (name := _OF_TYPES.get(hint)) is not None:
        return name
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return _metavar(parts[0])
    return "|".join(parts if kind is Literal else map(_metavar, parts))


def _as_text(default: Any) -> str:
    """Return a default as it is typed on a command line."""
    match default:
        case bool():
            return str(default).lower()
        case None | Environment() | ():
            return "none"
        case tuple():
            return ", ".join(map(str, default))
        case float():
            return f"{default:g}"
    return str(default)

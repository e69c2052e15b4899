"""Settings as text: what is typed on a command line, and what `--help` and the manual say."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from aiocluster.config.allowed import allowed
from aiocluster.config.environment import Environment
from aiocluster.config.settings import HINTS, Settings, converted, refuse_unknown
from aiocluster.config.special import SPECIAL


def value_from_text(name: str, text: str) -> Any:
    """Read the text of one setting, say from a command line, as a value `settings_from` takes."""
    refuse_unknown({name: text})
    if name in SPECIAL:
        return value_from_texts(name, [text])
    return converted(name, text, strict=False)


def value_from_texts(name: str, texts: Sequence[str]) -> Any:
    """Read what was typed for a setting that may be given several times, or is special."""
    refuse_unknown({name: texts})
    default = getattr(Settings(), name)
    # As it is shown: see _as_text.
    return default if [*texts] == [_as_text(default)] else SPECIAL[name].read_texts([*texts])


class SettingHelp(Struct, frozen=True):
    """One setting, in words, for `--help` and the manual."""

    name: str
    help: str
    allowed: str
    default: str
    is_switch: bool  # only ever true or false
    is_multiple: bool  # may be given several times


def setting_help() -> tuple[SettingHelp, ...]:
    """Describe every setting, in the order of the record."""
    return tuple(
        SettingHelp(
            name=field.name,
            help=HINTS[field.name].__metadata__[-1].description,
            allowed=SPECIAL[field.name].allowed
            if field.name in SPECIAL
            else allowed(HINTS[field.name]),
            default=_as_text(field.default),
            is_switch=isinstance(field.default, bool),
            is_multiple=field.name in SPECIAL and SPECIAL[field.name].is_multiple,
        )
        for field in msgspec.structs.fields(Settings)
    )


def _as_text(default: Any) -> str:
    """Write a default as it is typed on a command line."""
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

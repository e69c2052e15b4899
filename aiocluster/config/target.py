"""The import string of a target.

"pkg.module:name"     an aiohttp Application, or a factory of one; dots after the colon go deeper
"""

import importlib
import importlib.util
import re
from functools import reduce

from aiocluster.errors import ConfigError

_TARGET = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*(\.[^\W\d]\w*)*)")


def check_target(text: str, what: str = "app") -> tuple[str, str]:
    """Return (module, name); raise ConfigError, naming `what`, if `text` is no import string."""
    match = _TARGET.fullmatch(text)
    if match is None:
        raise ConfigError(f"{what} {text!r} is not of the form 'pkg.module:name'")
    return match["module"], match["name"]


def check_module(text: str, what: str = "app") -> None:
    """Raise ConfigError if there is no such module, as far as is seen without an import."""
    top = check_target(text, what)[0].partition(".")[0]
    try:
        is_there = importlib.util.find_spec(top) is not None
    except ValueError:  # the module is imported already, and has no file
        return
    if not is_there:
        raise _no_module(text, top, what)


def import_target(text: str, what: str = "app") -> object:
    """Import the module and return the object.

    Raise ConfigError if there is no such module or no such name. An exception that the module
    itself raises while it is imported passes unchanged.
    """
    module_name, name = check_target(text, what)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not _is_part_of(error.name, module_name):
            raise
        raise _no_module(text, error.name, what) from None
    try:
        return reduce(getattr, name.split("."), module)
    except AttributeError:
        raise ConfigError(f"{what} {text!r}: module {module_name!r} has no {name!r}") from None


def _no_module(text: str, name: str | None, what: str) -> ConfigError:
    return ConfigError(f"{what} {text!r}: there is no module {name!r} on the path")


def _is_part_of(missing: str | None, module_name: str) -> bool:
    return missing is not None and (module_name == missing or module_name.startswith(missing + "."))

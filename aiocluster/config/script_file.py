"""The file of a script: is it one, is it there, and what can be imported beside it."""

import os
import sys

from aiocluster.config.script import Script
from aiocluster.errors import ConfigError

# What Python runs besides a file of source: archives with a __main__.py.
_ARCHIVES = (".zip", ".pyz")


def is_script(target: str) -> bool:
    """Is this meant as a path, and not as an import string?"""
    # With a name behind it, which check_script refuses, with what to give.
    path = target.partition(":")[0]
    if path.endswith((".py", *_ARCHIVES)) or os.sep in target:
        return True
    return ":" not in target and os.path.exists(target)


def check_script(path: str) -> None:
    """Raise ConfigError, with what may have been meant, when there is no such script."""
    if os.path.isfile(path):
        return
    if not os.path.isdir(path):
        file, colon, name = path.rpartition(":")
        if colon and os.path.isfile(file):
            module = os.path.splitext(os.path.basename(file))[0]
            raise ConfigError(
                f"{path!r}: give the script, {file}, or a name in it, {module}:{name}"
            )
        raise ConfigError(
            f"{path!r}: there is no such file, and it is not of the form 'pkg.module:name'"
        )
    if not os.path.isfile(os.path.join(path, "__main__.py")):
        raise ConfigError(f"{path!r} is a folder, and has no __main__.py to run")


def path_of(script: Script) -> str:
    """Return the absolute path, also where the process has entered another folder since."""
    return os.path.abspath(os.path.join(script.folder, script.path))


def put_on_path(script: Script) -> None:
    """Let this process import what lies beside the script, as Python does. Idempotent."""
    path = os.path.realpath(path_of(script))
    folder = path if has_main_inside(path) else os.path.dirname(path)
    if sys.path[:1] != [folder]:
        # The first entry is the folder of what runs now; in safe mode there is none.
        sys.path[: 0 if sys.flags.safe_path else 1] = [folder]


def has_main_inside(path: str) -> bool:
    """Is it a folder or a zip file, of which __main__.py is run?"""
    return os.path.isdir(path) or path.endswith(_ARCHIVES)

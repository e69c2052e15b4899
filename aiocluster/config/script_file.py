"""The file of a script: how it is recognised, checked and put on the import path."""

import os
import sys

from aiocluster.config.script import Script
from aiocluster.errors import ConfigError

# The suffixes of archives with a __main__.py, which Python runs like a source file.
_ARCHIVES = (".zip", ".pyz")


def is_script(target: str) -> bool:
    """Return True if `target` is a path, and not an import string."""
    # A path with a name after it counts as a path, and check_script says what to give.
    path = target.partition(":")[0]
    if path.endswith((".py", *_ARCHIVES)) or os.sep in target:
        return True
    return ":" not in target and os.path.exists(target)


def check_script(path: str) -> None:
    """Raise ConfigError, with what may have been meant, if there is no such script."""
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
    """Return the absolute path, even if the process has changed its folder since."""
    return os.path.abspath(os.path.join(script.folder, script.path))


def put_on_path(script: Script) -> None:
    """Put the script's folder on the import path, as Python does. Idempotent."""
    path = os.path.realpath(path_of(script))
    folder = path if has_main_inside(path) else os.path.dirname(path)
    if sys.path[:1] != [folder]:
        # The first entry is the folder of the running program; in safe mode there is none.
        sys.path[: 0 if sys.flags.safe_path else 1] = [folder]


def has_main_inside(path: str) -> bool:
    """Return True for a folder or an archive, in which Python runs __main__.py."""
    return os.path.isdir(path) or path.endswith(_ARCHIVES)

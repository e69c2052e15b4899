"""The forms of a role's app: how each is loaded, and from which folder."""

import os
import pickle
import sys
from typing import NamedTuple

from aiocluster.config.kinds import kind_of
from aiocluster.config.roles import RoleSpec
from aiocluster.config.script import Script
from aiocluster.config.settings import Settings
from aiocluster.config.target import check_target, import_target
from aiocluster.errors import ConfigError
from aiocluster.launch.pickled_app import Preparation
from aiocluster.zygote.run_app import RunApp
from aiocluster.zygote.script import no_call, run_script


class UnpickledApp(NamedTuple):
    """An app that is still to be unpickled, and the preparation for that."""

    preparation: Preparation
    pickled: bytes

    def load(self) -> object:
        self.preparation.import_main()
        return pickle.loads(self.pickled)


def enter_folder(spec: RoleSpec) -> None:
    """Enter the folder in which the app is imported; ConfigError if it does not exist.

    Each generation does so once: a link may lead elsewhere when a worker imports a module later.
    """
    try:
        if isinstance(spec.app, UnpickledApp):
            spec.app.preparation.enter()
        if spec.settings.chdir is not None:
            os.chdir(spec.settings.chdir)
            # The folder of a script comes first, as without chdir.
            sys.path.insert(1 if isinstance(spec.app, Script) else 0, os.getcwd())
    except OSError as error:
        raise ConfigError(f"the app's folder {error.filename!r}: {error.strerror}") from None


def load_app(spec: RoleSpec, run_app: RunApp) -> object:
    """Return the app, or None if run_app has served it; ConfigError if the object is no app."""
    app = spec.app.load() if isinstance(spec.app, UnpickledApp) else spec.app
    if isinstance(app, Script):
        run_to_serve(app, run_app)
        return None
    target = import_target(app) if isinstance(app, str) else app
    kind_of(target, is_role=spec.is_named)
    return target


def run_to_serve(script: Script, run_app: RunApp) -> None:
    """Run a script, which must call run_app unless it raises an exception, such as SystemExit."""
    run_script(script)
    if not run_app.was_called:
        run_app.refuse(no_call(script))


def is_preloaded(app: object, settings: Settings) -> bool:
    # If the app is an object, there is nothing left to import.
    return settings.preload is not False or not isinstance(app, str | Script | UnpickledApp)


def is_here(app: object) -> bool:
    """Return True if the program has imported the app before it called run."""
    if isinstance(app, str):
        return check_target(app)[0] in sys.modules
    return not isinstance(app, Script | UnpickledApp)


def name_of(app: object) -> str:
    return str(app) if isinstance(app, str | Script) else "the app"


def imported_from(app: object) -> str:
    """Return the real path of the folder in which the app's module, or the program's, was found."""
    name = "__main__"
    if isinstance(app, UnpickledApp):
        app = pickle.loads(app.pickled)
        name = getattr(app, "__module__", name)
    if isinstance(app, str):
        name = app.partition(":")[0]
    module = sys.modules.get(name)
    name = getattr(getattr(module, "__spec__", None), "name", None) or name
    if (file := getattr(module, "__file__", None)) is None:
        return os.getcwd()
    depth = name.count(".") + (2 if hasattr(module, "__path__") else 1)
    folder: str = os.path.realpath(file)
    for _ in range(depth):
        folder = os.path.dirname(folder)
    return folder

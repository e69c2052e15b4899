"""Runs a script as `python server.py` would; if it serves nothing, the error has a hint."""

import builtins
import inspect
import os
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType

from aiohttp import web

from aiocluster.config.script import Script
from aiocluster.config.script_file import check_script, has_main_inside, path_of, put_on_path
from aiocluster.errors import ConfigError
from aiocluster.private_apis import run_module_as_main


def run_script(script: Script) -> None:
    """Run the script to its end as the program's main module; its exceptions are passed on."""
    path = path_of(script)
    check_script(path)
    sys.argv = [script.path, *script.arguments]
    put_on_path(script)
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __annotations__={})
    if has_main_inside(path):
        # Python does the same for a folder or a zip file.
        run_module_as_main("__main__")
    else:
        loader = SourceFileLoader("__main__", path)
        main.__dict__.update(__file__=path, __loader__=loader, __cached__=None)
        exec(loader.source_to_code(loader.get_data(path), path), main.__dict__)


def no_call(script: Script) -> ConfigError:
    """Return the error of a script that has ended without a call of run_app."""
    seen = _seen(vars(sys.modules["__main__"]))
    module = os.path.splitext(os.path.basename(script.path))[0]
    if seen and module.isidentifier():
        names = " or ".join(f"{module}:{name}" for name in seen)
        hint = f"; it has {', '.join(seen)}: give {names}, or let it call web.run_app"
    else:
        hint = "; no app and no factory of one was seen in it"
    return ConfigError(f"{script} ended without a call of web.run_app{hint}")


def _seen(names: dict[str, object]) -> list[str]:
    """Return the names of Applications, and of functions that seem to make one."""
    return [name for name, value in names.items() if not name.startswith("_") and _is_app(value)]


def _is_app(value: object) -> bool:
    if isinstance(value, web.Application):
        return True
    if not inspect.isfunction(value) or value.__module__ != "__main__":
        return False
    try:
        signature = inspect.signature(value)
        signature.bind()
    except (TypeError, ValueError):
        return False
    made = signature.return_annotation
    if made is inspect.Signature.empty:
        return "app" in value.__name__ or value.__name__ == "init"
    return made is web.Application or str(made).endswith("Application")

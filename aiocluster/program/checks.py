"""The checks of `run` before it starts a process: its place in the program, the apps, the hook."""

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable
from typing import Any, cast

from aiocluster.config.kinds import check_app
from aiocluster.config.roles import Plan
from aiocluster.config.target import import_target
from aiocluster.errors import ConfigError
from aiocluster.program.runner import (
    OnStart,
)

log = logging.getLogger("aiocluster")


def check_place() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError("aiocluster.run must be called in the main thread: it handles signals")
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigError(
        "aiocluster.run was called inside a running event loop; there, use"
        " `async with aiocluster.Cluster(...)`"
    )


def check_apps(plan: Plan) -> None:
    for spec in plan.roles.values():
        check_app(spec)


def warn_of_threads() -> None:
    others = [thread.name for thread in threading.enumerate()][1:]
    if others:
        log.warning(
            "threads run already (%s): they do not exist in the workers, and their locks"
            " stay locked there; start them in the app's start-up or in on_start",
            ", ".join(others),
        )


def on_start_from(given: OnStart | str | None) -> OnStart | None:
    """Return the hook; if it is given as an import string, import it."""
    hook: Any = import_target(given, "on_start") if isinstance(given, str) else given
    if hook is not None and not callable(hook):
        raise ConfigError(f"on_start: {given!r:.80} is not a function that takes the cluster")
    if hook is not None and not _takes_one_argument(hook):
        raise ConfigError(f"on_start: {given!r:.80} must take one argument, the cluster")
    return cast(OnStart | None, hook)


def _takes_one_argument(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # the function has no signature
        return True
    return True

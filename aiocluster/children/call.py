"""A call of aiohttp's `run_app` that a process serves.

The arguments of the call become settings, and are passed on to the interpreter that replaces a
zygote. An import can be tried up to the call, without serving.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp.web_log import AccessLogger

from aiocluster.children.app import load_app, name_of
from aiocluster.config.roles import RoleSpec
from aiocluster.config.run_app import RunAppCall, read_call
from aiocluster.config.script import Script
from aiocluster.config.settings import Settings
from aiocluster.errors import ConfigError
from aiocluster.launch.interpreter import (
    ZYGOTE_CALLED,
)
from aiocluster.worker.api.context import enter
from aiocluster.zygote.run_app import CallsRun, RunApp


def settings_of(spec: RoleSpec, arguments: Mapping[str, Any]) -> tuple[Settings, RunAppCall]:
    """Return the settings with run_app's arguments; ConfigError if an argument is refused."""
    try:
        call = read_call(arguments, spec.given, AccessLogger)
        return spec.settings_with(call), call
    except ConfigError as error:
        raise ConfigError(f"{spec.app}: {error}") from None


def call_from_environment() -> RunAppCall | None:
    text = os.environ.pop(ZYGOTE_CALLED, None)
    return None if text is None else msgspec.json.decode(text, type=RunAppCall)


def log_access_by(logger: object) -> None:
    """Write the access log to the logger that run_app was given."""
    if isinstance(logger, logging.Logger):
        logging.root.manager.loggerDict["aiohttp.access"] = logger


class _Found(BaseException):
    """A sign that the code has called run_app, and so would serve."""


def try_app(spec: RoleSpec) -> None:
    """Import an app as a zygote does, but do not serve it; raise why that would fail."""

    def find(app: object, arguments: Mapping[str, Any]) -> None:
        settings_of(spec, arguments)
        raise _Found

    enter("zygote")
    run_app = RunApp(find, name_of(spec.app), for_script=isinstance(spec.app, Script))
    run_app.install()
    try:
        load_app(spec, run_app)
    except CallsRun:
        raise ConfigError(f"{spec.app} calls aiocluster.run: it takes a stop and a start") from None
    except BaseException as error:
        if not run_app.was_called or run_app.refusal is not None:
            raise run_app.refusal or error from None
    finally:
        run_app.imported()

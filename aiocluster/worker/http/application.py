"""What the user gave to serve: an Application, or a factory of one."""

import inspect
from collections.abc import Callable

from aiohttp import web

from aiocluster.errors import ConfigError


async def application_from(given: object) -> web.Application:
    """Return the Application: `given` itself, or what it returns when called or awaited."""
    made = given
    if not isinstance(made, web.Application) and callable(made):
        _refuse_arguments(made)
        made = made()
    if inspect.isawaitable(made):
        made = await made
    if not isinstance(made, web.Application):
        raise ConfigError(_no_app(given, made))
    return made


def _refuse_arguments(factory: Callable[..., object]) -> None:
    """Raise ConfigError for what cannot be called without arguments, say a job that is no job."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some that are written in C do not tell
        return
    try:
        signature.bind()
    except TypeError as error:
        raise ConfigError(
            f"the app: {_name(factory):.80} cannot be called: {error}; a factory takes no"
            " argument, and a job, which takes the worker, is an `async def`"
        ) from None


def _name(given: object) -> str:
    return getattr(given, "__qualname__", None) or repr(given)


def _no_app(given: object, made: object) -> str:
    name = _name(given)
    if made is given:
        found = f"{name:.80} is a {type(made).__name__}"
    else:
        found = f"{name:.80}() returned {made!r:.80}, a {type(made).__name__}"
    return f"the app: {found}; expected an aiohttp.web.Application, a factory of one or a job"

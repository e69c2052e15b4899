"""The Application of a worker: the target itself, or its result when called or awaited."""

import inspect

from aiohttp import web

from aiocluster.config.kinds import kind_name, name_of
from aiocluster.errors import ConfigError


async def application_from(given: object) -> web.Application:
    """Return the Application: `given` itself, or its result when called or awaited."""
    made = given
    if not isinstance(made, web.Application) and callable(made):
        made = made()
    if inspect.isawaitable(made):
        made = await made
    if not isinstance(made, web.Application):
        raise ConfigError(
            f"the app: {_found(given, made)}; expected an aiohttp.web.Application, a factory of"
            " one or a job"
        )
    return made


def _found(given: object, made: object) -> str:
    kind = kind_name(made)
    if made is given:
        return f"{name_of(given)} is {kind}"
    call = "()" if callable(given) else ""
    return f"{name_of(given)}{call} returned {made!r:.80}, {kind}"

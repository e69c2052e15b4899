"""The app's hooks at its end: each runs, whatever the others raise."""

import asyncio
from collections.abc import Iterable

from aiohttp import web

from aiocluster.worker.http.aiohttp_internals import each_context

# All that a hook may raise; GeneratorExit is for the coroutine itself.
_RAISED = (Exception, asyncio.CancelledError, BaseExceptionGroup, SystemExit, KeyboardInterrupt)


async def shut_down(app: web.Application) -> None:
    """Run what is registered in `on_shutdown`; raise what it raised, all at once."""
    if type(app).shutdown is not web.Application.shutdown:  # the app has its own way
        await app.shutdown()
    else:
        await _run_each(app, app.on_shutdown)


async def clean_up(app: web.Application) -> None:
    """Run the clean-up contexts and what is registered in `on_cleanup`, as `shut_down` does.

    An app whose start failed has only its contexts cleaned up.
    """
    if type(app).cleanup is not web.Application.cleanup:  # the app has its own way
        await app.cleanup()
    else:
        await _run_each(app, each_context(app))


def faults(error: BaseException) -> list[BaseException]:
    """Return what went wrong when hooks raised `error`, one after the other.

    A cancellation is no fault: `task.cancel(); await task` raises one. Groups that hold nothing
    else are none either; other groups come as they are.
    """
    match error:
        case asyncio.CancelledError():
            return []
        case web.CleanupError():
            return [fault for one in error.exceptions for fault in faults(one)]
        case BaseExceptionGroup():
            return [error] if any(faults(one) for one in error.exceptions) else []
        case _:
            return [error]


async def _run_each(app: web.Application, hooks: Iterable[object]) -> None:
    errors: list[BaseException] = []
    for hook in hooks:
        try:
            await hook(app)  # type: ignore[operator]
        except _RAISED as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise web.CleanupError("several hooks raised", errors)

"""The app's hooks at its end: each runs, even if the others raise."""

import asyncio
from collections.abc import Iterable

from aiohttp import web

from aiocluster.worker.http.aiohttp_internals import each_context

# Everything that a hook may raise; GeneratorExit is for the coroutine itself.
_RAISED = (Exception, asyncio.CancelledError, BaseExceptionGroup, SystemExit, KeyboardInterrupt)


async def shut_down(app: web.Application) -> None:
    """Run the hooks in `on_shutdown`; raise their exceptions at the end, as one."""
    if type(app).shutdown is not web.Application.shutdown:  # the app overrides the method
        await app.shutdown()
    else:
        await _run_each(app, app.on_shutdown)


async def clean_up(app: web.Application) -> None:
    """Run the clean-up contexts and the hooks in `on_cleanup`, as `shut_down` does.

    If the start of the app failed, only its contexts are cleaned up.
    """
    if type(app).cleanup is not web.Application.cleanup:  # the app overrides the method
        await app.cleanup()
    else:
        await _run_each(app, each_context(app))


def faults(error: BaseException) -> list[BaseException]:
    """Return the faults in `error`, which hooks raised, one after the other.

    A cancellation is no fault: `task.cancel(); await task` raises one. A group of nothing but
    cancellations is no fault either; any other group is one fault.
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

"""Exits that the app's own code raises: their exit code and their description.

The event loop lets GracefulExit, SystemExit and KeyboardInterrupt through from any task. They end
`web.run_app`, which drains, runs the hooks and exits. So does a worker.
"""

import asyncio
import logging
from typing import Any, TypeGuard

from aiohttp import web

from aiocluster.ipc.error_text import MAX_CAUSE_CHARS, describe, sendable

log = logging.getLogger("aiocluster.worker")

Exit = SystemExit | KeyboardInterrupt


def is_exit(error: BaseException | None) -> TypeGuard[Exit]:
    """Return True if a loop lets `error` through, to end the process."""
    return isinstance(error, SystemExit | KeyboardInterrupt)


def expect_exits(loop: asyncio.AbstractEventLoop) -> None:
    """Keep `loop` from logging an exit as an error of the task that raised it.

    An app's own exception handler of the loop replaces this one.
    """
    if loop.get_exception_handler() is None:
        loop.set_exception_handler(_handle)


def _handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # asyncio does not know that the loop has let the exit through.
    is_unread = "never retrieved" in context.get("message", "")
    if not (is_unread and is_exit(context.get("exception"))):
        loop.default_exception_handler(context)


def exit_code(error: BaseException) -> int:
    """Return the exit code with which `web.run_app` ends after `error`; log the exit's text.

    The code is 0 for GracefulExit and KeyboardInterrupt, the code of a SystemExit, else 1.
    """
    code, text = _code_and_text(error)
    if text:
        log.error("%s", text)
    return code


def describe_start(error: BaseException, what: str) -> tuple[str, str, int | None]:
    """Return why `what` did not start (see `describe`), and the exit code if `error` is an exit.

    An exit is described without a traceback, as under `web.run_app`: it was intended.
    """
    if not is_exit(error):
        return *describe(error), None
    code, text = _code_and_text(error)
    said = f"{what} exited with code {code} before it served"
    return sendable(f"{said}: {text}" if text else said)[:MAX_CAUSE_CHARS], "", code


def _code_and_text(error: BaseException) -> tuple[int, str]:
    match error:
        case web.GracefulExit() | KeyboardInterrupt() | SystemExit(code=None):
            return 0, ""
        case SystemExit(code=int(code)):
            return code & 0xFF, ""
        case SystemExit(code=text):
            return 1, str(text)
    return 1, ""

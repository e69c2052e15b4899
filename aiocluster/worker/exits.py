"""What it means that the app's own code ends its process.

GracefulExit, SystemExit and KeyboardInterrupt come through the event loop wherever they are
raised, and end `web.run_app`: it drains, runs the hooks and exits. So does a worker.
"""

import logging
from typing import TypeGuard

from aiohttp import web

log = logging.getLogger("aiocluster.worker")

Exit = SystemExit | KeyboardInterrupt


def is_exit(error: BaseException | None) -> TypeGuard[Exit]:
    """Is `error` one that a loop lets through, to end the process?"""
    return isinstance(error, SystemExit | KeyboardInterrupt)


def exit_code(error: BaseException) -> int:
    """Return the exit code that `web.run_app` ends with when `error` reaches it; log its text.

    0 for GracefulExit and KeyboardInterrupt, that of `sys.exit` for SystemExit, 1 for the rest.
    """
    match error:
        case web.GracefulExit() | KeyboardInterrupt():
            return 0
        case SystemExit(code=None):
            return 0
        case SystemExit(code=int(code)):
            return code & 0xFF
        case SystemExit(code=text):
            log.error("%s", text)
    return 1

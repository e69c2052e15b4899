"""An exception, as text that can cross a wire and be shown to the one who must mend it."""

import traceback as tracebacks
from types import TracebackType

from aiocluster.errors import BootError, ConfigError

# A traceback longer than this has said it all; a packet must hold it.
MAX_TRACEBACK_CHARS = 30_000

# The same for the one line.
MAX_CAUSE_CHARS = 2_000


def describe(error: BaseException) -> tuple[str, str]:
    """Return what happened in one line, and the traceback ("" where it would not help)."""
    if isinstance(error, ConfigError | BootError):
        # Ours, and it says all there is to say: where we noticed does not help anybody.
        return sendable(str(error))[:MAX_CAUSE_CHARS], ""
    # A SyntaxError first shows its code, indented; after the message may come notes.
    lines = "".join(tracebacks.format_exception_only(error)).splitlines()
    cause = next(line for line in lines if line[:1].strip())
    text = "".join(tracebacks.format_exception(type(error), error, users_part(error)))
    return sendable(cause)[:MAX_CAUSE_CHARS], sendable(text)[-MAX_TRACEBACK_CHARS:]


def sendable(text: str) -> str:
    """Escape what UTF-8, and so a message, cannot carry: a file name's undecodable bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


def users_part(error: BaseException) -> TracebackType | None:
    """Skip the frames on top that are ours and the import system's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if not name.startswith(("aiocluster.", "importlib")):
            break
        trace = trace.tb_next
    return trace

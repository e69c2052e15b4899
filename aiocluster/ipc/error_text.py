"""The text of an exception, which can cross a wire and be shown to the user."""

import traceback as tracebacks
from types import TracebackType

from aiocluster.errors import BootError, ConfigError

# The longest traceback that is sent: a packet must hold it.
MAX_TRACEBACK_CHARS = 30_000

# The longest cause, which is one line.
MAX_CAUSE_CHARS = 2_000


def describe(error: BaseException) -> tuple[str, str]:
    """Return the cause in one line, and the traceback ("" where it would not help)."""
    if isinstance(error, ConfigError | BootError):
        # These errors of ours are complete: the place of the `raise` would not help the user.
        return sendable(str(error))[:MAX_CAUSE_CHARS], ""
    # A SyntaxError shows its code first, indented; notes may follow the message.
    lines = "".join(tracebacks.format_exception_only(error)).splitlines()
    cause = next(line for line in lines if line[:1].strip())
    text = "".join(tracebacks.format_exception(type(error), error, users_part(error)))
    return sendable(cause)[:MAX_CAUSE_CHARS], sendable(text)[-MAX_TRACEBACK_CHARS:]


def sendable(text: str) -> str:
    """Escape what UTF-8, and so a message, cannot carry: undecodable bytes of a file name."""
    return text.encode("utf-8", "backslashreplace").decode()


def users_part(error: BaseException) -> TracebackType | None:
    """Return the traceback without its first frames of this package and the import system."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if not name.startswith(("aiocluster.", "importlib")):
            break
        trace = trace.tb_next
    return trace

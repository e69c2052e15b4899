"""Every exception aiocluster raises.

ClusterError
├── ConfigError             the settings, or the app named, make no sense: the caller's fault
├── BootError               the code did not come up; carries the cause's traceback
├── WorkerGone              the worker named no longer runs
├── ClusterStopping         the call came too late: the cluster is stopping
└── ChannelError            primary and worker can no longer talk, or not about this
    ├── MessageError        a message that cannot be sent: the sender's fault
    ├── ChannelClosed       the other side went away: expected when it stops
    └── ProtocolError       the other side sent what it must not: a bug
"""


class ClusterError(Exception):
    """The base of every exception that aiocluster raises."""


class ConfigError(ClusterError):
    """A setting or an app that makes no sense; the text names it and what is allowed."""


class BootError(ClusterError):
    """A failure to start: no first worker came up, or the code of a reload did not.

    `cause` is one line; `traceback` is the text of the first failure's traceback, or ""
    without one (a worker that was killed has none); `is_shown` is True if standard error has the
    traceback already. `kind` is "failed"; "refused" if the code asks for something impossible;
    "calls_run" if it is a script that calls `aiocluster.run`. `exit_code` is the code of the
    app's own `sys.exit` before it served, None without one.
    """

    def __init__(
        self,
        cause: str,
        traceback: str = "",
        exit_code: int | None = None,
        *,
        is_shown: bool = False,
        kind: str = "failed",
    ) -> None:
        super().__init__(cause)
        self.cause = cause
        self.traceback = traceback
        self.exit_code = exit_code
        self.is_shown = is_shown
        self.kind = kind


class WorkerGone(ClusterError):
    """The worker this call was for has exited or is no longer connected."""


class ClusterStopping(ClusterError):
    """The cluster is stopping: what this call asked for can no longer be done."""


class ChannelError(ClusterError):
    """A failure of the channel between primary and worker, or of one message."""


class MessageError(ChannelError, ValueError):
    """An object that cannot cross the channel; the text has the path to the wrong value."""


class ChannelClosed(ChannelError):
    """The other side went away."""


class ProtocolError(ChannelError):
    """The other side sent what it must not."""

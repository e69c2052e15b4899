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
    """The root of all that aiocluster raises."""


class ConfigError(ClusterError):
    """A setting or an app that makes no sense; the text names it and what is allowed."""


class BootError(ClusterError):
    """No worker of the first start came up, or the code of a reload did not.

    `cause` is one line; `traceback` is the text of the first failure's traceback, or ""
    when there was none (a worker that was killed has none); `is_shown` when that stands on
    standard error already. `kind` is "failed"; "refused" when the code asks for what cannot be
    had; "calls_run" when it is a script that calls `aiocluster.run`. `exit_code` is the code with
    which the app's own code has exited before it served (`sys.exit`), None where it has not.
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
    """Primary and worker can no longer talk, or not about this."""


class MessageError(ChannelError, ValueError):
    """This object cannot cross the channel; the text has the path to the offending value."""


class ChannelClosed(ChannelError):
    """The other side went away."""


class ProtocolError(ChannelError):
    """The other side sent what it must not."""

"""Every message that crosses a wire, and its sender.

channel, worker to primary:  Online, Ready, BootFailed, ReportMetrics, DrainRequest, Drained,
                             Subscribe, Unsubscribe, Listen, Serving, Unlisten, RoomAgain,
                             UserMessage, Credit
channel, primary to worker:  Accept, Unready, Lead, GiveBack, Drain, SnapshotFor, Listening,
                             ListenFailed, UserMessage, Credit
zygote socket, primary to zygote:  Fork (carries the worker's fds), Watch (carries a pidfd)
zygote socket, zygote to primary:  Prepared, PrepareFailed, Forked (carries a pidfd),
                                   ForkFailed, Exited

A worker's own server: Listen ▶ Listening (or ListenFailed) ▶ Serving … ▶ Unlisten. A listener is
the number that comes with each connection on the handoff. The primary gives a worker no
connection of a listener before it has read the worker's Serving, and none after Unlisten; the
worker gives back those that were under way. A Drain or a worker's death unlistens all listeners.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from aiocluster.config.run_app import RunAppCall
from aiocluster.metrics.snapshot import Report

# The version of these messages. It changes when a program could not exchange messages with the
# workers or a zygote of another: an upgrade replaces the program, and its workers keep running.
PROTOCOL = 12

# The largest backlog that listen(2) takes; the kernel has a lower limit of its own (somaxconn).
MAX_BACKLOG = 2**31 - 1

DrainReason = Literal["drain", "max_requests", "finished", "exit", "crash"]


# The most seconds between two snapshots: timers have a limit.
LONGEST_INTERVAL = 1e9

# The most of one worker at one time, each with its interval: each makes the primary take snapshots.
MAX_SUBSCRIPTIONS = 16

# The limit is far beyond all counts.
_Count = Annotated[int, Meta(ge=0, le=2**53)]


class _Wire(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A message. On the wire it is an array: its tag, then its fields in order."""


# ---- channel, worker to primary


class Online(_Wire, frozen=True, tag=1):
    """A report that the worker's loop runs and its app is being started."""


class Ready(_Wire, frozen=True, tag=2):
    """A report that the app has started; connections may come. If not `serves`, it is a job."""

    serves: bool = True


class BootFailed(_Wire, frozen=True, tag=3):
    """A report that the app did not start; the worker will exit. See BootError for the fields."""

    cause: str
    traceback: str
    exit_code: int | None = None


class ReportMetrics(_Wire, frozen=True, tag=4):
    """The figures that a worker measured since its last report."""

    report: Report


class DrainRequest(_Wire, frozen=True, tag=5):
    """A worker's wish to finish: the primary is to send no new connections, then a Drain.

    `reason` is "drain" if the user's code or a signal asked; "max_requests" if the worker is due
    to be replaced, and its successor may start first; "finished" if the job has returned; "exit"
    if the user's code exits with 0; "crash" if the worker will exit with another code.
    """

    reason: DrainReason


class Drained(_Wire, frozen=True, tag=6):
    """A report that the worker has drained; `cut` names the requests that it had to cut."""

    cut: Annotated[list[str], Meta(max_length=1000)]


class Subscribe(_Wire, frozen=True, tag=7):
    """A request for a snapshot every `interval` seconds until Unsubscribe."""

    subscription_id: _Count
    interval: Annotated[float, Meta(gt=0, le=LONGEST_INTERVAL)]


class Unsubscribe(_Wire, frozen=True, tag=8):
    """The end of a subscription."""

    subscription_id: _Count


class Endpoint(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An address at which a socket is bound: one that was looked up, not a name."""

    family: Annotated[int, Meta(ge=0, le=255)]
    host: Annotated[str, Meta(max_length=255)]
    port: Annotated[int, Meta(ge=0, le=65535)]
    scope: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0  # the interface of an IPv6 address


class Listen(_Wire, frozen=True, tag=9):
    """A request to bind these endpoints. Workers that ask for the same ones share the sockets.

    The answer has the same `request_id`. Port 0 is any free port, the same for all workers with
    the same `nth`: for a second such port a worker asks with the next `nth`.
    """

    request_id: _Count
    endpoints: Annotated[list[Endpoint], Meta(max_length=254)]
    nth: _Count
    backlog: Annotated[int, Meta(ge=0, le=MAX_BACKLOG)]


class Serving(_Wire, frozen=True, tag=10):
    """A report that the worker can serve connections of this listener from now on."""

    listener: _Count


class Unlisten(_Wire, frozen=True, tag=11):
    """A report that the worker wants no more connections of this listener.

    The primary closes a listener that no other worker has.
    """

    listener: _Count


class RoomAgain(_Wire, frozen=True, tag=12):
    """A report that a connection has ended, if the primary has asked for it (see ROOM_WANTED)."""


# ---- channel, both ways


class UserMessage(_Wire, frozen=True, tag=20):
    """A message from the user's code on one side to the user's code on the other."""

    payload: Any


class Credit(_Wire, frozen=True, tag=21):
    """A permit to send `size` more bytes of messages, since the user has read as many."""

    size: Annotated[int, Meta(ge=0, le=2**26)]  # far more than the largest message


# ---- channel, primary to worker


class Drain(_Wire, frozen=True, tag=40):
    """The order to take nothing new, finish what is open and exit.

    After `timeout` seconds the worker cuts what is left. If `moving`, other workers serve, and it
    gives idle keep-alive connections back on the handoff. Otherwise it closes connections that are
    idle for `idle_grace` seconds. If `stopping`, the whole cluster stops, so clients should not
    reconnect.
    """

    timeout: float
    moving: bool
    stopping: bool = False
    idle_grace: float = 0.0


class SnapshotFor(_Wire, frozen=True, tag=41):
    """The snapshot for one of the worker's subscriptions, as plain data."""

    subscription_id: int
    snapshot: dict[str, Any]


class Bound(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A bound socket, and the number of its listener, with which its connections come."""

    listener: Annotated[int, Meta(ge=0, le=254)]  # a byte of the handoff
    endpoint: Endpoint  # with the real port


class Listening(_Wire, frozen=True, tag=42):
    """The sockets bound for a Listen. Their connections come after the worker's Serving."""

    request_id: int
    bound: list[Bound]


class ListenFailed(_Wire, frozen=True, tag=43):
    """The kernel's error for a Listen of which no socket was bound."""

    request_id: int
    errno: int
    text: str


class Lead(_Wire, frozen=True, tag=44):
    """A notice that the worker leads its role now, if its row of the scoreboard still says so."""


class GiveBack(_Wire, frozen=True, tag=45):
    """The order to give back at most `count` idle keep-alive connections: others have fewer."""

    count: Annotated[int, Meta(ge=1)]


class Unready(_Wire, frozen=True, tag=49):
    """A notice that the cluster will stop soon: serve on, but report not ready to health checks."""


class Accept(_Wire, frozen=True, tag=50):
    """The order to accept from the shared listening sockets (`on`), or not to.

    `workers` is the number of workers that accept: each takes about that share of the backlog.
    """

    on: bool
    workers: int = 1


# ---- zygote socket


class Fork(_Wire, frozen=True, tag=60):
    """The order to fork a worker. It carries the handoff, channel, scoreboard and stack file.

    `row` is the worker's row of the scoreboard, `families` the address family of each listener.
    `env` is set before any of the user's code runs. `shared` are the indexes of the listeners from
    which the worker may accept by itself; their sockets are carried behind the other descriptors.
    `cpu` is the CPU that the worker runs on, -1 for any.
    """

    worker_id: int
    slot: int
    role: str
    generation: int
    row: int
    families: list[int]
    env: dict[str, str]
    shared: list[int] = []
    cpu: int = -1


class Watch(_Wire, frozen=True, tag=61):
    """The order to kill a worker that another zygote forked, too, once the primary is gone."""

    worker_id: int


class Prepared(_Wire, frozen=True, tag=80):
    """A report that the app is imported (or must be imported in each worker: see `note`).

    `call` has the arguments of aiohttp's run_app, if the code has called it; `is_job` is True if
    the app is known to be a job.
    """

    preloaded: bool
    note: str
    folder: str = ""  # the real path of the folder it was imported from
    call: RunAppCall | None = None
    is_job: bool = False


# The reason why code did not start: it failed; its settings were refused; or, given as a script,
# it calls aiocluster.run, and so is the program itself.
FailureKind = Literal["failed", "refused", "calls_run"]


class PrepareFailed(_Wire, frozen=True, tag=81):
    """A report that the import failed; the zygote will exit. See BootError for the fields."""

    cause: str
    traceback: str
    exit_code: int | None = None
    kind: FailureKind = "failed"


class Forked(_Wire, frozen=True, tag=82):
    """A report that the worker runs as process `pid`."""

    worker_id: int
    pid: Annotated[int, Meta(ge=1, le=2**31 - 1)]


class ForkFailed(_Wire, frozen=True, tag=83):
    """A report that the kernel refused the fork."""

    worker_id: int
    error: Annotated[str, Meta(max_length=1000)]  # for one line in the log


class Exited(_Wire, frozen=True, tag=84):
    """A report that the worker has ended; `status` is what waitpid returned."""

    worker_id: int
    status: Annotated[int, Meta(ge=0, le=2**16 - 1)]


FromWorker = (
    Online
    | Ready
    | BootFailed
    | ReportMetrics
    | DrainRequest
    | Drained
    | Subscribe
    | Unsubscribe
    | Listen
    | Serving
    | Unlisten
    | RoomAgain
    | UserMessage
    | Credit
)
ToWorker = (
    Accept
    | Unready
    | Lead
    | GiveBack
    | Drain
    | SnapshotFor
    | Listening
    | ListenFailed
    | UserMessage
    | Credit
)
ToZygote = Fork | Watch
FromZygote = Prepared | PrepareFailed | Forked | ForkFailed | Exited
Message = FromWorker | ToWorker | ToZygote | FromZygote

"""Every message that crosses a wire, and who may send it.

channel, worker to primary:  Online, Ready, BootFailed, ReportMetrics, DrainRequest, Drained,
                             Subscribe, Unsubscribe, Listen, Serving, Unlisten, RoomAgain,
                             UserMessage, Credit
channel, primary to worker:  Accept, Unready, Lead, GiveBack, Drain, SnapshotFor, Listening,
                             ListenFailed, UserMessage, Credit
zygote socket, primary to zygote:  Fork (carries the worker's fds), Watch (carries a pidfd)
zygote socket, zygote to primary:  Prepared, PrepareFailed, Forked (carries a pidfd),
                                   ForkFailed, Exited

Servers of a worker's own: Listen ▶ Listening (or ListenFailed) ▶ Serving … ▶ Unlisten. A listener
is the number that comes with each connection on the handoff. The primary gives a worker no
connection of one before its Serving, and none after it has read its Unlisten; what was under way
comes back on the handoff. A Drain, and a worker's death, unlisten all it had.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from aiocluster.config.run_app import RunAppCall
from aiocluster.metrics.snapshot import Report

# Changes when a program with this file could not talk to workers, or to a zygote, of one with
# another: an upgrade goes from one program to the next, and its workers stay as they are.
PROTOCOL = 12

# What listen(2) takes; the kernel has a limit of its own below that (somaxconn).
MAX_BACKLOG = 2**31 - 1

DrainReason = Literal["drain", "max_requests", "finished", "exit", "crash"]


# Seconds between two snapshots at most: no timer takes any number.
LONGEST_INTERVAL = 1e9

# Of one worker at one time, each with another interval. Every one has the primary make snapshots.
MAX_SUBSCRIPTIONS = 16

# Far beyond all that is counted here.
_Count = Annotated[int, Meta(ge=0, le=2**53)]


class _Wire(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """On the wire a message is an array: its tag, then its fields in order."""


# ---- channel, worker to primary


class Online(_Wire, frozen=True, tag=1):
    """My loop runs; the app is being started."""


class Ready(_Wire, frozen=True, tag=2):
    """My app has started: send connections. Or, unless it `serves`, my job has: send none."""

    serves: bool = True


class BootFailed(_Wire, frozen=True, tag=3):
    """My app could not be started; I am about to exit. See BootError for the fields."""

    cause: str
    traceback: str
    exit_code: int | None = None


class ReportMetrics(_Wire, frozen=True, tag=4):
    """What I measured since my last report."""

    report: Report


class DrainRequest(_Wire, frozen=True, tag=5):
    """I want to finish: send me nothing new, then tell me to drain.

    `reason` is "drain" when my own code or a signal asked, "max_requests" when it is time
    for me to be replaced: a successor may come first; "finished" when my job has returned;
    "exit" when my own code exits with 0, "crash" when I shall exit with another code.
    """

    reason: DrainReason


class Drained(_Wire, frozen=True, tag=6):
    """I finished, and `cut` names the requests that had to be given up."""

    cut: Annotated[list[str], Meta(max_length=1000)]


class Subscribe(_Wire, frozen=True, tag=7):
    """Send me a snapshot every `interval` seconds until Unsubscribe."""

    subscription_id: _Count
    interval: Annotated[float, Meta(gt=0, le=LONGEST_INTERVAL)]


class Unsubscribe(_Wire, frozen=True, tag=8):
    """No more snapshots for this subscription."""

    subscription_id: _Count


class Endpoint(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a socket is bound: an address that was looked up, not a name."""

    family: Annotated[int, Meta(ge=0, le=255)]
    host: Annotated[str, Meta(max_length=255)]
    port: Annotated[int, Meta(ge=0, le=65535)]
    scope: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0  # of an IPv6 address: which interface


class Listen(_Wire, frozen=True, tag=9):
    """Bind all of these; whoever asks for the same shares them. Answer with the same number.

    Port 0 is any that is free, and the same for all who ask with the same `nth`: a worker that
    wants a second one counts on.
    """

    request_id: _Count
    endpoints: Annotated[list[Endpoint], Meta(max_length=254)]
    nth: _Count
    backlog: Annotated[int, Meta(ge=0, le=MAX_BACKLOG)]


class Serving(_Wire, frozen=True, tag=10):
    """I know what to do with connections of this listener from now on: send them."""

    listener: _Count


class Unlisten(_Wire, frozen=True, tag=11):
    """No more connections of this listener for me; close it when nobody else has it."""

    listener: _Count


class RoomAgain(_Wire, frozen=True, tag=12):
    """You wanted to know (see ROOM_WANTED): a connection has ended."""


# ---- channel, both ways


class UserMessage(_Wire, frozen=True, tag=20):
    """Something the user's code sends to the user's code on the other side."""

    payload: Any


class Credit(_Wire, frozen=True, tag=21):
    """My user has read `size` bytes of your messages: you may send as many more."""

    size: Annotated[int, Meta(ge=0, le=2**26)]  # far more than the largest message


# ---- channel, primary to worker


class Drain(_Wire, frozen=True, tag=40):
    """Take nothing new, finish what is open, exit; cut what is left after `timeout` seconds.

    If `moving`, others serve: give idle keep-alive connections back on the handoff, and they
    go on there. Otherwise close those that are not used for `idle_grace` seconds. If `stopping`,
    the whole service ends: a client that is told to go need not come back.
    """

    timeout: float
    moving: bool
    stopping: bool = False
    idle_grace: float = 0.0


class SnapshotFor(_Wire, frozen=True, tag=41):
    """The snapshot one of your subscriptions asked for, as plain data."""

    subscription_id: int
    snapshot: dict[str, Any]


class Bound(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A socket that is bound, and as which listener its connections will come."""

    listener: Annotated[int, Meta(ge=0, le=254)]  # a byte of the handoff
    endpoint: Endpoint  # with the real port


class Listening(_Wire, frozen=True, tag=42):
    """These are bound, and yours: nobody connects to you before you say Serving."""

    request_id: int
    bound: list[Bound]


class ListenFailed(_Wire, frozen=True, tag=43):
    """They cannot be bound, none of them is: what the kernel said."""

    request_id: int
    errno: int
    text: str


class Lead(_Wire, frozen=True, tag=44):
    """You lead your role now, if your row of the scoreboard still says so."""


class GiveBack(_Wire, frozen=True, tag=45):
    """Give at most `count` idle keep-alive connections back on the handoff: others have fewer."""

    count: Annotated[int, Meta(ge=1)]


class Unready(_Wire, frozen=True, tag=49):
    """The cluster is about to stop: serve on, and say that you are not ready to who asks."""


class Accept(_Wire, frozen=True, tag=50):
    """Accept from the listening sockets that you share (`on`), or leave that to others.

    You are one of `workers` who do: about that share of what waits is yours.
    """

    on: bool
    workers: int = 1


# ---- zygote socket


class Fork(_Wire, frozen=True, tag=60):
    """Fork a worker. It carries its handoff, its channel, the scoreboard, its stack file.

    `row` is its row there, `families` the address family of each listener; `env` is set
    before any of the user's code runs. `shared` are the indexes of the listeners from which it
    may accept by itself, and whose sockets are carried behind the others; `cpu` is the one
    that it is to run on, -1 for any.
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
    """A worker that another zygote forked: kill it too when the primary is gone."""

    worker_id: int


class Prepared(_Wire, frozen=True, tag=80):
    """The app is imported (or must be imported in each worker: see `note`).

    `call` is what the code gave to aiohttp's run_app, if it has called that; `is_job` is True when
    the app is known to be a job.
    """

    preloaded: bool
    note: str
    folder: str = ""  # the real path of the one it was imported from
    call: RunAppCall | None = None
    is_job: bool = False


# Why code did not come up: it failed; it asks for what cannot be had; or, given as a script, it
# calls aiocluster.run, and so is the program itself.
FailureKind = Literal["failed", "refused", "calls_run"]


class PrepareFailed(_Wire, frozen=True, tag=81):
    """The app cannot be imported; I am about to exit. See BootError for the fields."""

    cause: str
    traceback: str
    exit_code: int | None = None
    kind: FailureKind = "failed"


class Forked(_Wire, frozen=True, tag=82):
    """The worker runs as process `pid`."""

    worker_id: int
    pid: Annotated[int, Meta(ge=1, le=2**31 - 1)]


class ForkFailed(_Wire, frozen=True, tag=83):
    """The kernel would not fork."""

    worker_id: int
    error: Annotated[str, Meta(max_length=1000)]  # of one line in the log


class Exited(_Wire, frozen=True, tag=84):
    """The worker is gone; `status` is what waitpid gave."""

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

"""The events that a subscriber gets.

The events of one worker come in this order and end with WorkerExited:

WorkerForked ▶ WorkerOnline ▶ WorkerListening ▶ WorkerMessage … ▶ WorkerDisconnected ▶ WorkerExited

WorkerBlocked, and WorkerAtFdLimit ▶ WorkerBelowFdLimit, may come while the worker serves.

If a worker dies early, the events that it did not reach are left out. WorkerDisconnected (once the
channel was open) and WorkerExited always come, each once. A reload is ReloadBegan, and then either
Reloaded or ReloadFailed. A stop begins with StopBegan. Upgraded is the first event in a new
program; UpgradeFailed comes in the old program.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from aiocluster.errors import ProtocolError


class WorkerView(Protocol):
    """The part of a worker that an event shows; the object is the cluster's handle."""

    @property
    def id(self) -> int: ...
    @property
    def slot(self) -> int: ...
    @property
    def role(self) -> str: ...
    @property
    def generation(self) -> int: ...
    @property
    def pid(self) -> int: ...

    async def send(self, message: Any) -> None:
        """Send a message to the worker."""
        ...


class Parcel:
    """A message as it came. It is unpacked at its first read, which costs memory and time.

    `unpack(parts)` returns the message, or raises ProtocolError; `on_nonsense` is then called with
    the error, once.
    """

    __slots__ = ("_parts", "_payload", "_unpack", "on_nonsense")

    def __init__(self, parts: list[bytes], unpack: Callable[[list[bytes]], Any]) -> None:
        self.on_nonsense: Callable[[ProtocolError], None] | None = None
        self._parts = parts
        self._unpack = unpack
        self._payload: Any = None

    def read(self) -> Any:
        """Return the message. Raises ProtocolError if the parts are no message."""
        if self._parts:
            parts, self._parts = self._parts, []
            try:
                self._payload = self._unpack(parts)
            except ProtocolError as error:
                self._payload = error
                if self.on_nonsense is not None:
                    self.on_nonsense(error)
        if isinstance(self._payload, ProtocolError):
            raise self._payload.with_traceback(None)  # each read would make it longer
        return self._payload


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the cluster; the base of all others."""


@dataclass(frozen=True, slots=True)
class WorkerEvent(Event):
    """An event of one worker."""

    worker: WorkerView


@dataclass(frozen=True, slots=True)
class WorkerForked(WorkerEvent):
    """The process of the worker exists."""


@dataclass(frozen=True, slots=True)
class WorkerOnline(WorkerEvent):
    """The worker's loop runs and its channel is open; its app is being started."""


@dataclass(frozen=True, slots=True)
class WorkerListening(WorkerEvent):
    """The worker's app has started: the worker gets connections that come to `addresses`.

    The first workers of a reload get no connections until they have lasted `min_uptime`. If the
    worker runs a job, the job has started; there are no connections and no addresses.

    Each address is (host, port) with the real port, also if port 0 was asked for.
    """

    addresses: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class WorkerMessage(WorkerEvent):
    """The worker sent `message`: None, bool, int, float, str, bytes, list, dict or datetime.

    The message is unpacked at its first read. If what the worker sent is no message, the read
    raises ProtocolError, and the worker is replaced.
    """

    message: Any

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        return value.read() if type(value) is Parcel else value


@dataclass(frozen=True, slots=True)
class WorkerBlocked(WorkerEvent):
    """The worker's loop has been blocked for `seconds`: at `lag_warning`, and at `hang_timeout`.

    `stack` is the text of the stacks of all its threads and tasks; "" if the worker could not
    write them, as a stopped process cannot.
    """

    seconds: float
    stack: str


@dataclass(frozen=True, slots=True)
class WorkerAtFdLimit(WorkerEvent):
    """The worker is at its limit of open files: it gets a connection only if another has ended."""


@dataclass(frozen=True, slots=True)
class WorkerBelowFdLimit(WorkerEvent):
    """The worker was at its limit of open files, and is below it again."""


@dataclass(frozen=True, slots=True)
class WorkerDisconnected(WorkerEvent):
    """The worker's channel is closed: it sends and receives nothing more."""

    voluntary: bool


@dataclass(frozen=True, slots=True)
class WorkerExited(WorkerEvent):
    """The process of the worker is gone.

    `code` is its exit code, None if a signal ended it (or if its status is unknown); `signal` is
    that signal's number, else None. `voluntary` is True if the worker was asked to exit, or asked
    to drain itself. `reason` is one of "crash" (an exit code that is not 0), "exit" (0; voluntary
    when its code drained it by GracefulExit, KeyboardInterrupt or `sys.exit`), "signal",
    "boot_failed", "boot_timeout", "disconnected" (the worker had lost a wire to the primary, and
    finished what it had, or was killed when that took too long), "hang" (its loop was blocked for
    `hang_timeout`, and it was killed), "memory_limit" (it was too large; voluntary unless it was
    killed for that), "reload", "scale_down", "max_requests", "max_age", "drain", "finished" (its
    job has returned), "kill", "stop". `stack` is that of the WorkerBlocked if the worker
    hung, else "".
    """

    code: int | None
    signal: int | None
    voluntary: bool
    reason: str
    stack: str = ""


@dataclass(frozen=True, slots=True)
class StopBegan(Event):
    """The cluster is about to stop: for `pre_drain_wait` seconds more it serves as before."""


@dataclass(frozen=True, slots=True)
class ReloadBegan(Event):
    """The app of `role` is being imported anew; its workers will be of `generation`."""

    generation: int
    role: str


@dataclass(frozen=True, slots=True)
class Reloaded(Event):
    """The slots of `role` all have workers of `generation`; the old workers finish and exit."""

    generation: int
    role: str


@dataclass(frozen=True, slots=True)
class ReloadFailed(Event):
    """The `generation` of `role` did not come up, and the one before it serves on.

    `cause` is one line; `traceback` its text, or "".
    """

    generation: int
    cause: str
    traceback: str
    role: str


@dataclass(frozen=True, slots=True)
class Scaled(Event):
    """The number of workers of `role` changes from `before` to `workers`, for `reason`.

    New workers are being started, or the workers in the highest slots drain. If new workers do not
    come up, another Scaled follows, which takes the change back.
    """

    role: str
    before: int
    workers: int
    reason: str


@dataclass(frozen=True, slots=True)
class Upgraded(Event):
    """An upgrade has succeeded: this program has the workers of the one before, and serves."""


@dataclass(frozen=True, slots=True)
class UpgradeFailed(Event):
    """The program as it is now does not start, and the one that runs goes on.

    `cause` is one line; `traceback` its text, or "".
    """

    cause: str
    traceback: str


@dataclass(frozen=True, slots=True)
class RoleDegraded(Event):
    """A role keeps failing: its workers are started again more slowly, one at a time.

    `failures` is the number that counts now; each failure counts less as time goes by.
    """

    role: str
    failures: float


@dataclass(frozen=True, slots=True)
class RoleRecovered(Event):
    """The failures of `role` have faded."""

    role: str


@dataclass(frozen=True, slots=True)
class EventsMissed:
    """A note that this subscriber was too slow: `count` events before it were dropped."""

    count: int

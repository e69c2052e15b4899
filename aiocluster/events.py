"""What a subscriber may hear.

For each worker they come in this order, and end with WorkerExited:

WorkerForked ▶ WorkerOnline ▶ WorkerListening ▶ WorkerMessage … ▶ WorkerDisconnected ▶ WorkerExited

WorkerBlocked, and WorkerAtFdLimit ▶ WorkerBelowFdLimit, may come at any time while it serves.

A worker that dies early leaves out what it did not reach; WorkerDisconnected (once its channel
was open) and WorkerExited always come, and each once. A reload is ReloadBegan, and then either
Reloaded or ReloadFailed. A stop begins with StopBegan. Upgraded is the first event that a new
program hears; UpgradeFailed is heard by the old one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from aiocluster.errors import ProtocolError


class WorkerView(Protocol):
    """What an event tells of its worker; the object itself is the cluster's handle for it."""

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
    """A message as it came; unpacked when somebody reads it, which costs memory and time.

    `unpack(parts)` returns it, or raises ProtocolError: then `on_nonsense(error)` hears that, once.
    """

    __slots__ = ("_parts", "_payload", "_unpack", "on_nonsense")

    def __init__(self, parts: list[bytes], unpack: Callable[[list[bytes]], Any]) -> None:
        self.on_nonsense: Callable[[ProtocolError], None] | None = None
        self._parts = parts
        self._unpack = unpack
        self._payload: Any = None

    def read(self) -> Any:
        """Return the message; ProtocolError when it is none."""
        if self._parts:
            parts, self._parts = self._parts, []
            try:
                self._payload = self._unpack(parts)
            except ProtocolError as error:
                self._payload = error
                if self.on_nonsense is not None:
                    self.on_nonsense(error)
        if isinstance(self._payload, ProtocolError):
            raise self._payload
        return self._payload


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened."""


@dataclass(frozen=True, slots=True)
class WorkerEvent(Event):
    """Something happened to `worker`."""

    worker: WorkerView


@dataclass(frozen=True, slots=True)
class WorkerForked(WorkerEvent):
    """The process exists."""


@dataclass(frozen=True, slots=True)
class WorkerOnline(WorkerEvent):
    """Its loop runs and its channel is open; its app is being started."""


@dataclass(frozen=True, slots=True)
class WorkerListening(WorkerEvent):
    """Its app has started: it is given connections that come to `addresses`.

    The first workers of a reload are given none until they have lasted `min_uptime`.

    A job has started: it takes no connections, and has no addresses.

    Each address is (host, port) with the real port, also where port 0 was asked for.
    """

    addresses: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class WorkerMessage(WorkerEvent):
    """It sent `message`: None, bool, int, float, str, bytes, list, dict or datetime.

    It is unpacked when it is first read. That raises ProtocolError if the worker has sent what is
    no message; then it is replaced, too.
    """

    message: Any

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        return value.read() if type(value) is Parcel else value


@dataclass(frozen=True, slots=True)
class WorkerBlocked(WorkerEvent):
    """Its loop has not turned for `seconds`: once at `lag_warning`, once at `hang_timeout`.

    `stack` has the stacks of all its threads and tasks, as text; "" when it could not tell, as
    a stopped process cannot.
    """

    seconds: float
    stack: str


@dataclass(frozen=True, slots=True)
class WorkerAtFdLimit(WorkerEvent):
    """It is at its limit of open files: it is given a connection only where others have ended."""


@dataclass(frozen=True, slots=True)
class WorkerBelowFdLimit(WorkerEvent):
    """It was full, and is not any more."""


@dataclass(frozen=True, slots=True)
class WorkerDisconnected(WorkerEvent):
    """Its channel is closed: it sends and receives nothing more."""

    voluntary: bool


@dataclass(frozen=True, slots=True)
class WorkerExited(WorkerEvent):
    """The process is gone.

    `code` is its exit code, None when a signal ended it (or when nobody could tell);
    `signal` is that signal's number, else None. `voluntary` is true when it was told to go,
    or asked to. `reason` is one of "crash" (an exit code that is not 0), "exit" (0; voluntary
    when its code drained it by GracefulExit, KeyboardInterrupt or `sys.exit`), "signal",
    "boot_failed", "boot_timeout", "disconnected" (it had lost a wire to the primary, and
    finished what it had, or was killed when that took too long), "hang" (its loop did not turn
    for `hang_timeout`, and it was killed),
    "memory_limit" (it was too large; voluntary unless it was killed for that), "reload",
    "scale_down", "max_requests", "max_age", "drain", "finished" (its job has returned), "kill",
    "stop". `stack` is what a WorkerBlocked told of one that hung; "" for others.
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
    """All slots of `role` have workers of `generation`; the old ones finish what they have."""

    generation: int
    role: str


@dataclass(frozen=True, slots=True)
class ReloadFailed(Event):
    """`generation` of `role` did not come up, and the one before it serves on.

    `cause` is one line; `traceback` its text, or "".
    """

    generation: int
    cause: str
    traceback: str
    role: str


@dataclass(frozen=True, slots=True)
class Scaled(Event):
    """`role` is to have `workers` workers, and had `before`; `reason` says who wants that, and why.

    The new ones are being started; or those in the highest slots drain. When new ones do not come
    up another one follows, which takes it back.
    """

    role: str
    before: int
    workers: int
    reason: str


@dataclass(frozen=True, slots=True)
class Upgraded(Event):
    """This program has taken the place of another, with its workers and all they have."""


@dataclass(frozen=True, slots=True)
class UpgradeFailed(Event):
    """The program as it is now does not start, and the one that runs goes on.

    `cause` is one line; `traceback` its text, or "".
    """

    cause: str
    traceback: str


@dataclass(frozen=True, slots=True)
class RoleDegraded(Event):
    """Workers of `role` keep failing: they are started again more slowly, one at a time.

    `failures` is how many count at this moment; each counts less as time goes by.
    """

    role: str
    failures: float


@dataclass(frozen=True, slots=True)
class RoleRecovered(Event):
    """The failures of `role` have faded."""

    role: str


@dataclass(frozen=True, slots=True)
class EventsMissed:
    """This subscriber was too slow: `count` events before this one were dropped for it."""

    count: int

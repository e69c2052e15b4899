"""What a program leaves to the one that takes its place, by exec, in the same process.

Descriptors are numbers: exec keeps them. Times are those of the monotonic clock, which goes
on; only `started_at` is the calendar's.
"""

from collections.abc import Iterator

import msgspec
from msgspec import Struct

from aiocluster.config.run_app import RunAppCall
from aiocluster.errors import BootError
from aiocluster.ipc.messages import BootFailed, Bound, Endpoint
from aiocluster.metrics.role_aggregators import RoleAggregatorsState
from aiocluster.metrics.snapshot import Dispatch

# Changes when a program with this file could not read the estate of one with another.
RECORD = 8


class _Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of it."""


class ChannelState(_Record, frozen=True):
    """One of our ends of a channel; nothing that was to be sent is left unsent."""

    fd: int
    half: bytes  # the start of a message whose end has not come
    window: int  # bytes that our user may send
    owed: int  # bytes that our user has read, or will, and the other side was not told of


class BackendState(_Record, frozen=True):
    """The primary's side of a handoff."""

    sender: int
    receiver: int
    sent: int
    untaken: list[tuple[int, float]]


class WorkerState(_Record, frozen=True):
    """A worker that lives, or died unnoticed."""

    worker_id: int
    slot: int
    role: str
    generation: int
    restarts: int
    env: dict[str, str]
    row: int
    pid: int
    pidfd: int
    stacks: int
    backend: BackendState
    channel: ChannelState | None  # None: it is disconnected
    phase: str
    started_at: float
    born: float
    ready_at: float
    was_ready: bool
    serves: bool
    boot_failure: BootFailed | None
    has_drained: bool
    cut: list[str]
    killed: bool
    reason: str | None
    sent_signal: int | None
    stack: str  # what it did when it was killed
    deadline: tuple[float, str] | None  # when it is killed, and for which reason
    shared: list[int]  # listeners from which it can accept by itself


class SlotState(_Record, frozen=True):
    """A place for a worker; `incumbent` is the id of the one in it."""

    number: int
    env: dict[str, str]
    generation: int
    restarts: int
    current: int | None
    not_before: float  # when it may be filled if its worker is dead


class ZygoteState(_Record, frozen=True):
    """A zygote that has imported the app."""

    pid: int
    fd: int


class GenerationState(_Record, frozen=True):
    """One import of the code; without a `zygote` a new one is to be started."""

    number: int
    is_retired: bool
    zygote: ZygoteState | None
    zygote_pids: list[int]


class GenerationsState(_Record, frozen=True):
    """All that have workers or may get some."""

    begun: int
    current: int
    past_zygotes: list[int]
    living: list[GenerationState]


class ListenerState(_Record, frozen=True):
    """A listening socket, bound for the address `asked`.

    `is_shared` when somebody else has it too, who handed it down; then it was asked for none.
    """

    fd: int
    is_shared: bool
    asked: str


class ConnectionState(_Record, frozen=True):
    """A connection that no worker was given yet, since none had room or it `is_held`.

    Held is one of which it is not known yet whose it is: with `awaits_proxy` its PROXY header
    has not been read.
    """

    fd: int
    listener: int
    affinity: bytes
    slot: int
    client: tuple[str, int] | None
    is_held: bool
    awaits_proxy: bool


class ServerState(_Record, frozen=True):
    """Sockets that workers share for servers of their own.

    `workers` are those that have it, and the listeners of which each has said Serving.
    """

    endpoints: list[Endpoint]  # what was asked for
    nth: int
    backlog: int
    bound: list[Bound]
    fds: list[int]  # one for each that is bound
    workers: dict[int, list[int]]


class SubscriptionState(_Record, frozen=True):
    """A worker wants a snapshot every `interval` seconds."""

    worker_id: int
    subscription_id: int
    interval: float


class FailuresState(_Record, frozen=True):
    """How many failures counted at `last`, and whether the role is degraded for them."""

    count: float
    last: float
    is_degraded: bool


class SupervisionState(_Record, frozen=True):
    """The workers and their places."""

    workers: list[WorkerState]
    slots: list[SlotState]
    due: list[tuple[int, str]]  # workers that are to be replaced, and why
    unread: list[tuple[int, bytes]]  # messages of workers: id, frame
    failures: FailuresState
    reload_wanted: bool


class RoleState(_Record, frozen=True):
    """All that one role has."""

    bind: list[str]  # what the listeners were asked for
    workers: str  # how many were asked for
    call: RunAppCall | None  # what the code gave to aiohttp's run_app
    listeners: list[ListenerState]
    generations: GenerationsState
    crew: SupervisionState
    waiting: list[ConnectionState]
    dispatch: Dispatch
    servers: list[ServerState]
    free_numbers: list[int]  # of listeners of servers, in the order in which they are used

    def descriptors(self) -> Iterator[int]:
        """Iterate over the descriptors that belong to it."""
        yield from (listener.fd for listener in self.listeners)
        yield from (connection.fd for connection in self.waiting)
        for server in self.servers:
            yield from server.fds
        for worker in self.crew.workers:
            yield from (worker.pidfd, worker.stacks)
            yield from (worker.backend.sender, worker.backend.receiver)
            if worker.channel is not None:
                yield worker.channel.fd
        for generation in self.generations.living:
            if generation.zygote is not None:
                yield generation.zygote.fd


class HandoverState(_Record, frozen=True):
    """All of it."""

    scoreboard: int
    next_worker_id: int
    aggregators: RoleAggregatorsState
    subscriptions: list[SubscriptionState]
    roles: dict[str, RoleState]

    @property
    def workers(self) -> Iterator[WorkerState]:
        """Those of all roles."""
        return (worker for role in self.roles.values() for worker in role.crew.workers)

    def descriptors(self) -> Iterator[int]:
        """Iterate over the descriptors that belong to it."""
        yield self.scoreboard
        for role in self.roles.values():
            yield from role.descriptors()


def to_bytes(handover_state: HandoverState) -> bytes:
    """Write it down."""
    return msgspec.msgpack.encode((RECORD, handover_state))


def from_bytes(data: bytes) -> HandoverState:
    """Read what `to_bytes` wrote; BootError when that was another version."""
    try:
        record, raw = msgspec.msgpack.decode(data, type=tuple[int, msgspec.Raw])
        if record != RECORD:
            raise BootError(f"an estate of version {record}; this program reads {RECORD}")
        return msgspec.msgpack.decode(raw, type=HandoverState)
    except msgspec.DecodeError as error:
        raise BootError(f"not an estate: {error}") from None

"""The state that a program hands to the next one, which replaces it by exec in the same process.

Descriptors are numbers, since exec keeps them. Times are of the monotonic clock, which exec does
not reset; only `started_at` is calendar time.
"""

from collections.abc import Iterator

import msgspec
from msgspec import Struct

from aiocluster.config.run_app import RunAppCall
from aiocluster.errors import BootError
from aiocluster.ipc.messages import BootFailed, Bound, Endpoint
from aiocluster.metrics.role_aggregators import RoleAggregatorsState
from aiocluster.metrics.snapshot import Dispatch

# The version of this file's records. It changes when a program could not read another's state.
RECORD = 8


class _Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the handover state."""


class ChannelState(_Record, frozen=True):
    """The primary's end of a channel; it has no unsent bytes."""

    fd: int
    half: bytes  # the received start of an incomplete message
    window: int  # bytes that the user may send
    owed: int  # bytes that the user has read or will read, and for which no Credit went


class BackendState(_Record, frozen=True):
    """The primary's side of one worker's handoff."""

    sender: int
    receiver: int
    sent: int
    untaken: list[tuple[int, float]]


class WorkerState(_Record, frozen=True):
    """A worker that runs, or has ended without the primary having noticed."""

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
    channel: ChannelState | None  # None: the worker is disconnected
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
    stack: str  # the stack of the worker when it was killed
    deadline: tuple[float, str] | None  # when the worker is killed, and for which reason
    shared: list[int]  # listeners from which the worker can accept by itself


class SlotState(_Record, frozen=True):
    """A slot of a role; `current` is the id of the worker in it."""

    number: int
    env: dict[str, str]
    generation: int
    restarts: int
    current: int | None
    not_before: float  # the earliest time at which a dead worker may be replaced


class ZygoteState(_Record, frozen=True):
    """A zygote that has imported the app."""

    pid: int
    fd: int


class GenerationState(_Record, frozen=True):
    """A generation; if it has no `zygote`, a new one must be started."""

    number: int
    is_retired: bool
    zygote: ZygoteState | None
    zygote_pids: list[int]


class GenerationsState(_Record, frozen=True):
    """The generations that have workers or may get some."""

    begun: int
    current: int
    past_zygotes: list[int]
    living: list[GenerationState]


class ListenerState(_Record, frozen=True):
    """A listening socket, bound for the address `asked`.

    `is_shared` is True if it was inherited from another process, which may still have it. Then
    `asked` is the address of the socket itself.
    """

    fd: int
    is_shared: bool
    asked: str


class ConnectionState(_Record, frozen=True):
    """A connection that no worker has got yet: all were full, or it `is_held`.

    `is_held` is True while the connection is still being inspected; with `awaits_proxy` its PROXY
    header has not been read.
    """

    fd: int
    listener: int
    affinity: bytes
    slot: int
    client: tuple[str, int] | None
    is_held: bool
    awaits_proxy: bool


class ServerState(_Record, frozen=True):
    """A server that workers opened: listening sockets that they share.

    `workers` has the workers that share them, each with the listeners it has said Serving for.
    """

    endpoints: list[Endpoint]  # the addresses that were asked for
    nth: int
    backlog: int
    bound: list[Bound]
    fds: list[int]  # one for each of `bound`
    workers: dict[int, list[int]]


class SubscriptionState(_Record, frozen=True):
    """A worker's request for a snapshot every `interval` seconds."""

    worker_id: int
    subscription_id: int
    interval: float


class FailuresState(_Record, frozen=True):
    """The failure count of a role at the time `last`, and if the role is degraded for it."""

    count: float
    last: float
    is_degraded: bool


class SupervisionState(_Record, frozen=True):
    """The workers of a role and its slots."""

    workers: list[WorkerState]
    slots: list[SlotState]
    due: list[tuple[int, str]]  # workers to be replaced, and why
    unread: list[tuple[int, bytes]]  # messages of workers: id, frame
    failures: FailuresState
    reload_wanted: bool


class RoleState(_Record, frozen=True):
    """The state of one role."""

    bind: list[str]  # the addresses that were asked for
    workers: str  # the number that was asked for
    call: RunAppCall | None  # the arguments that the code gave to aiohttp's run_app
    listeners: list[ListenerState]
    generations: GenerationsState
    crew: SupervisionState
    waiting: list[ConnectionState]
    dispatch: Dispatch
    servers: list[ServerState]
    free_numbers: list[int]  # for listeners of servers, in the order of their use

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
    """The state of the whole cluster."""

    scoreboard: int
    next_worker_id: int
    aggregators: RoleAggregatorsState
    subscriptions: list[SubscriptionState]
    roles: dict[str, RoleState]

    @property
    def workers(self) -> Iterator[WorkerState]:
        """The workers of all roles."""
        return (worker for role in self.roles.values() for worker in role.crew.workers)

    def descriptors(self) -> Iterator[int]:
        """Iterate over the descriptors that belong to it."""
        yield self.scoreboard
        for role in self.roles.values():
            yield from role.descriptors()


def to_bytes(handover_state: HandoverState) -> bytes:
    """Return the state as bytes, with its version."""
    return msgspec.msgpack.encode((RECORD, handover_state))


def from_bytes(data: bytes) -> HandoverState:
    """Return the state that `to_bytes` encoded; BootError if its version is another one."""
    try:
        record, raw = msgspec.msgpack.decode(data, type=tuple[int, msgspec.Raw])
        if record != RECORD:
            raise BootError(f"a handover state of version {record}; this program reads {RECORD}")
        return msgspec.msgpack.decode(raw, type=HandoverState)
    except msgspec.DecodeError as error:
        raise BootError(f"not a handover state: {error}") from None

"""The user's code's view of its worker."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import ContextVar
from typing import Any, Literal, Protocol, Unpack

from aiocluster.ipc.messages import DrainReason
from aiocluster.metrics.snapshot import Snapshot
from aiocluster.worker.api.leading import Leading
from aiocluster.worker.api.readiness import Readiness
from aiocluster.worker.api.server import ClusterServer, ProtocolFactory, ServerOptions


class PrimaryLink(Protocol):
    """The part of the worker's runtime that the user's code reaches through the context."""

    async def send(self, payload: Any) -> None: ...
    def messages(self) -> AsyncIterator[Any]: ...
    def snapshots(self, interval: float) -> AsyncIterator[Snapshot]: ...
    def ask_to_drain(self, reason: DrainReason) -> None: ...


class StartsServers(Protocol):
    """A starter of servers for the user's code."""

    async def create_server(
        self,
        protocol_factory: ProtocolFactory,
        host: str | Sequence[str] | None,
        port: int | None,
        **options: Unpack[ServerOptions],
    ) -> ClusterServer: ...

    async def start_server(
        self,
        client_connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
        host: str | Sequence[str] | None,
        port: int | None,
        limit: int,
        **options: Unpack[ServerOptions],
    ) -> ClusterServer: ...


class WorkerContext:
    """The worker that runs this code: its identity and its line to the primary.

    See `current_worker`.
    """

    def __init__(  # noqa: PLR0913 (its identity, and its ways to the runtime)
        self,
        worker_id: int,
        slot: int,
        role: str,
        generation: int,
        link: PrimaryLink,
        readiness: Readiness,
        servers: StartsServers,
        leading: Leading,
    ) -> None:
        self.id = worker_id
        self.slot = slot
        self.role = role
        self.generation = generation
        self._link = link
        self._readiness = readiness
        self._leading = leading
        self._servers = servers

    def __repr__(self) -> str:
        return f"<WorkerContext id={self.id} slot={self.slot} role={self.role!r}>"

    async def send(self, message: Any) -> None:
        """Send `message` to the primary, where it becomes a WorkerMessage event.

        A message is None, bool, int, float, str, bytes, list, tuple, dict or datetime with a time
        zone, nested to any depth; a tuple arrives as a list. The call waits while the channel is
        full. MessageError names a part that cannot be sent; ChannelClosed is raised when the
        primary is gone.
        """
        await self._link.send(message)

    def messages(self) -> AsyncIterator[Any]:
        """Iterate over the primary's messages; end when the worker is disconnected.

        Messages that arrive before the first reader are kept. While too much is unread, the
        primary's `send` waits. If there are several readers, one of them gets each message.
        """
        return self._link.messages()

    def subscribe(self, interval: float = 1.0) -> AsyncIterator[Snapshot]:
        """Iterate over snapshots of the whole cluster's metrics, one every `interval` seconds.

        A reader that is too slow gets the newest snapshot; `missed` counts the ones it skipped.
        """
        return self._link.snapshots(interval)

    def drain(self) -> None:
        """Ask for a drain: no new connections, running requests end, then the process exits.

        The call returns at once. Idempotent. With `restart="always"` a new worker takes the slot.
        """
        self._link.ask_to_drain("drain")

    def ready(self) -> None:
        """Declare, with `ready="explicit"`, that this worker may get connections from now on.

        Any thread may call this, even in the app's factory: the cluster still waits for the rest
        of the start. Idempotent. With `ready="auto"` the call changes nothing.
        """
        self._readiness.declare_ready()

    @property
    def is_ready(self) -> bool:
        """True while this worker is ready, and neither it nor the cluster is stopping.

        A health check should answer this. A stop first makes it False; then the worker keeps
        serving for `pre_drain_wait` seconds.
        """
        return self._readiness.is_ready

    @property
    def is_stopping(self) -> bool:
        """True once this worker drains: a job should come to its end."""
        return self._readiness.is_stopping

    async def stopping(self) -> None:
        """Return when this worker begins to drain, for any reason; at once if it drains already.

        From then on a job has `graceful_timeout` seconds. A job that still runs afterwards is
        cancelled.
        """
        await self._readiness.stopping()

    @property
    def is_leader(self) -> bool:
        """True while this worker leads its role: the leader is the ready worker in the lowest slot.

        It is for work that must run once, such as a cron job. At every moment a role has one
        leader, or none while the death of a leader is noticed, which takes well below a second.
        A check costs next to nothing and is right in any thread: check again before each action.
        """
        return self._leading.is_leader

    async def leading(self) -> bool:
        """Wait until this worker leads its role, and return True; return False if it drains.

        A leader may stop leading: see `is_leader`.
        """
        return await self._leading.begun()

    def on_drain(self, callback: Callable[[], Any]) -> Callable[[], None]:
        """Call `callback()` when this worker begins to drain; return a function that removes it.

        A callback is sync or async. It runs once, before WebSockets are closed, so the app may
        send their clients a last message. Its exceptions are logged. A callback has the time of
        the drain and no more; one that is registered during the drain is not called.
        """
        return self._readiness.on_drain(callback)

    async def create_server(
        self,
        protocol_factory: ProtocolFactory,
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        **options: Unpack[ServerOptions],
    ) -> ClusterServer:
        """Create a server as `loop.create_server` does, shared by all workers with this address.

        The primary binds, and gives each connection to one of the workers. Port 0 is the same port
        in all workers. OSError, with its errno, is raised if the address cannot be bound, and
        ClusterStopping once this worker drains. A drain also closes the server.
        """
        return await self._servers.create_server(protocol_factory, host, port, **options)

    async def start_server(
        self,
        client_connected_cb: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        limit: int = 2**16,
        **options: Unpack[ServerOptions],
    ) -> ClusterServer:
        """Start a server as asyncio's `start_server` does; see `create_server`."""
        return await self._servers.start_server(client_connected_cb, host, port, limit, **options)


class _Process:
    """The kind of this process; set once, right after the fork."""

    kind: Literal["primary", "zygote", "worker"] = "primary"
    worker: WorkerContext | None = None


# The worker of the running task, if workers and primary share a process: see single_process.py.
_of_task: ContextVar[WorkerContext | None] = ContextVar("aiocluster.worker")


def enter(
    kind: Literal["primary", "zygote", "worker"], worker: WorkerContext | None = None
) -> None:
    """Make this process a zygote, a worker, or a primary with a worker in it, from now on."""
    _Process.kind = kind
    _Process.worker = worker


def share_process(worker: WorkerContext | None) -> None:
    """Assign the running task, and what it starts, to this worker; None: to the primary."""
    _of_task.set(worker)


def current_worker() -> WorkerContext | None:
    """Return this process's worker; None in other processes, such as the primary."""
    return _of_task.get(_Process.worker)


def is_primary() -> bool:
    """True in the process that called `run` or made the Cluster (and before that call)."""
    return _Process.kind == "primary" and current_worker() is None


def is_worker() -> bool:
    """True in a worker, from before the app's factory is called."""
    return _Process.kind == "worker" or current_worker() is not None

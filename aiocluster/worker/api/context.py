"""The worker, as the user's code sees it."""

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
    """Who starts servers for the user's code."""

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
    """This worker: who it is, and its line to the primary. See `current_worker`."""

    def __init__(  # noqa: PLR0913 (who it is, and its ways to the runtime)
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

        None, bool, int, float, str, bytes, list, tuple, dict and datetime with a time zone,
        nested as you like; a tuple arrives as a list. Waits while the channel is full.
        Raises MessageError, naming the part that cannot be sent; ChannelClosed when the
        primary is gone.
        """
        await self._link.send(message)

    def messages(self) -> AsyncIterator[Any]:
        """Iterate over what the primary sends; ends when the worker is disconnected.

        What came before the first reader is kept. While too much is unread the primary's
        `send` waits. Of several readers each message reaches one.
        """
        return self._link.messages()

    def subscribe(self, interval: float = 1.0) -> AsyncIterator[Snapshot]:
        """Iterate over snapshots of the whole cluster's metrics, one every `interval` seconds.

        A reader that is too slow gets the newest, and in `missed` how many it did not see.
        """
        return self._link.snapshots(interval)

    def drain(self) -> None:
        """Ask to finish: no new connections, running requests end, then the process exits.

        Returns at once. Idempotent. With `restart="always"` a successor takes the slot.
        """
        self._link.ask_to_drain("drain")

    def ready(self) -> None:
        """With `ready="explicit"`: this worker may be given connections from now on.

        From any thread, and as early as in the app's factory: what has not started yet is
        waited for. Idempotent. With `ready="auto"` it changes nothing.
        """
        self._readiness.declare_ready()

    @property
    def is_ready(self) -> bool:
        """True while this worker is ready and neither it nor the cluster is on its way out.

        What a health check should answer: a stop begins with this, and the worker serves on
        for `pre_drain_wait` seconds.
        """
        return self._readiness.is_ready

    @property
    def is_stopping(self) -> bool:
        """True once this worker was told to drain: a job should come to its end."""
        return self._readiness.is_stopping

    async def stopping(self) -> None:
        """Return when this worker is told to drain, for whatever reason; at once if it was.

        From then on a job has `graceful_timeout` seconds; if it still runs then it is
        cancelled.
        """
        await self._readiness.stopping()

    @property
    def is_leader(self) -> bool:
        """True while this worker leads its role: the one in the lowest slot that is ready.

        For what must run once, as a cron. At every moment one worker of a role has it, or none
        for the time, well below a second, in which a leader's death is noticed. Costs next to
        nothing, and is right from any thread: ask again before each thing that you do.
        """
        return self._leading.is_leader

    async def leading(self) -> bool:
        """Wait until this worker leads its role, and return True; False when it drains instead.

        It may stop leading: see `is_leader`.
        """
        return await self._leading.begun()

    def on_drain(self, callback: Callable[[], Any]) -> Callable[[], None]:
        """Call `callback()` when this worker begins to drain; return what takes it off again.

        Sync or async, and once: before WebSockets are closed, so that the app may say goodbye
        to their clients. What it raises is logged. It has the drain's time and no more; what
        is registered once the drain has begun is not called.
        """
        return self._readiness.on_drain(callback)

    async def create_server(
        self,
        protocol_factory: ProtocolFactory,
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        **options: Unpack[ServerOptions],
    ) -> ClusterServer:
        """As asyncio's `loop.create_server`, with all workers that ask for the same address.

        The primary binds, and gives each connection to one of them. Port 0 is the same port in
        all. Raises OSError, with its errno, when the address cannot be had; ClusterStopping
        once this worker drains, which closes the server too.
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
        """As asyncio's `start_server`, in the way of `create_server`."""
        return await self._servers.start_server(client_connected_cb, host, port, limit, **options)


class _Process:
    """Which kind of process this is; set once, right after the fork."""

    kind: Literal["primary", "zygote", "worker"] = "primary"
    worker: WorkerContext | None = None


# The worker of the running task, where workers and primary share a process: see single_process.py.
_of_task: ContextVar[WorkerContext | None] = ContextVar("aiocluster.worker")


def enter(
    kind: Literal["primary", "zygote", "worker"], worker: WorkerContext | None = None
) -> None:
    """This process is a zygote or a worker from now on; or a primary that has a worker in it."""
    _Process.kind = kind
    _Process.worker = worker


def share_process(worker: WorkerContext | None) -> None:
    """The running task, and what it starts, is of this worker from now on; None: of the primary."""
    _of_task.set(worker)


def current_worker() -> WorkerContext | None:
    """Return this process's worker; None anywhere else, as in the primary."""
    return _of_task.get(_Process.worker)


def is_primary() -> bool:
    """True in the process that called `run` or made the Cluster (and before it did)."""
    return _Process.kind == "primary" and current_worker() is None


def is_worker() -> bool:
    """True in a worker, from before the app's factory is called."""
    return _Process.kind == "worker" or current_worker() is not None

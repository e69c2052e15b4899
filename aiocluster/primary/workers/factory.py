"""Creates workers, with handoff, channel, row of the scoreboard, handle and process."""

import socket
from collections.abc import Callable, Mapping, Sequence

from aiocluster.errors import WorkerGone
from aiocluster.ipc.channel import open_channel
from aiocluster.ipc.forks import keep_from_children
from aiocluster.ipc.handoff import handoff_pair
from aiocluster.ipc.handover import WorkerState
from aiocluster.ipc.messages import Fork
from aiocluster.ipc.scoreboard import Scoreboard
from aiocluster.ipc.stacks import StackFile
from aiocluster.primary.dispatch.backend import Backend
from aiocluster.primary.dispatch.capacity import Limits
from aiocluster.primary.processes.process import Process
from aiocluster.primary.processes.spawner import Spawner
from aiocluster.primary.sockets.connection import Connection
from aiocluster.primary.workers.handle import Owner, WorkerHandle, WorkerSpec
from aiocluster.shortage import shortage


class WorkerFactory:
    """A factory of workers: it makes each whole or not at all."""

    def __init__(
        self,
        scoreboard: Scoreboard,
        owner: Owner,
        limits: Limits,
        on_room: Callable[[], None],
        on_returned: Callable[[list[Connection]], None],
    ) -> None:
        """Call `on_room` when a full worker has capacity again, `on_returned` with connections."""
        self.families: list[int] = []  # the address family of each listener
        self.cpus: Sequence[int] = ()  # one for each of the first slots
        # The descriptors, by index, of the listeners from which workers accept.
        self.shared: Callable[[], Mapping[int, int]] = dict
        self._scoreboard = scoreboard
        self._owner = owner
        self._on_room = on_room
        self._on_returned = on_returned
        self._limits = limits

    async def spawn(self, spec: WorkerSpec, spawner: Spawner) -> tuple[WorkerHandle, Process]:
        """Fork a worker as `spec` says; WorkerGone if that failed this time."""
        row = self._scoreboard.claim()
        try:
            return await self._spawn(spec, row, spawner)
        except BaseException as error:
            # The worker may exist although its caller waits no more, and may write to its row.
            spawner.when_gone(spec.worker_id, lambda: self._scoreboard.release(row))
            if isinstance(error, OSError):
                # A shortage of descriptors or memory, mostly: it passes, so the slot tries again.
                raise WorkerGone(
                    f"cannot fork: {shortage(error, 'what a worker needs')}"
                ) from error
            raise

    async def adopt(self, state: WorkerState, process: Process) -> WorkerHandle:
        """Take over a worker of the previous program, with the same descriptors."""
        ends = (
            socket.socket(fileno=state.backend.sender),
            socket.socket(fileno=state.backend.receiver),
        )
        keep_from_children(*ends)
        board = (self._scoreboard, state.row)
        backend = Backend(state.slot, ends, board, self._limits, self._on_room, self._on_returned)
        spec = WorkerSpec(
            state.worker_id, state.slot, state.role, state.generation, state.restarts, state.env
        )
        worker = WorkerHandle(spec, backend, state.row, StackFile(state.stacks), self._owner)
        worker.adopt(state, process)
        if state.channel is not None:
            await open_channel(socket.socket(fileno=state.channel.fd), worker.channel)
            worker.channel.consumed(0)  # credit for earlier messages may be due
        return worker

    async def _spawn(
        self, spec: WorkerSpec, row: int, spawner: Spawner
    ) -> tuple[WorkerHandle, Process]:
        stacks = StackFile()
        try:
            return await self._fork(spec, row, stacks, spawner)
        except BaseException:
            stacks.close()
            raise

    async def _fork(
        self, spec: WorkerSpec, row: int, stacks: StackFile, spawner: Spawner
    ) -> tuple[WorkerHandle, Process]:
        handoff, channel = _wires()
        board = (self._scoreboard, row)
        backend = Backend(spec.slot, handoff, board, self._limits, self._on_room, self._on_returned)
        worker = WorkerHandle(spec, backend, row, stacks, self._owner)
        shared = self.shared()
        worker.shared = frozenset(shared)
        try:
            await open_channel(channel[0], worker.channel)
            process = await spawner.spawn(
                self._order(spec, row, [*shared]),
                handoff[1].fileno(),
                channel[1],
                (self._scoreboard.fd, stacks.fd, *shared.values()),
            )
        except BaseException:
            channel[1].close()
            worker.channel.abort()
            backend.close()
            raise
        return worker, process

    def _order(self, spec: WorkerSpec, row: int, shared: list[int]) -> Fork:
        env = {
            **spec.env,
            "AIOCLUSTER_WORKER_ID": str(spec.worker_id),
            "AIOCLUSTER_SLOT": str(spec.slot),
            "AIOCLUSTER_ROLE": spec.role,
        }
        return Fork(
            spec.worker_id,
            spec.slot,
            spec.role,
            spec.generation,
            row,
            self.families,
            env,
            shared,
            self.cpus[spec.slot] if spec.slot < len(self.cpus) else -1,
        )


def _wires() -> tuple[tuple[socket.socket, socket.socket], tuple[socket.socket, socket.socket]]:
    """Return a handoff and a channel, each with the primary's end first; open both or none."""
    handoff = handoff_pair()
    try:
        return handoff, socket.socketpair()
    except OSError:
        for end in handoff:
            end.close()
        raise

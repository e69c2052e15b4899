"""One zygote, seen from the primary: its process, and the primary's end of its socket.

When the primary gives a zygote up, it kills the zygote *before* it closes the socket. A zygote
takes a closed socket for the death of the primary, and would then kill its healthy workers.
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
from collections.abc import Callable, Sequence

from aiocluster.errors import BootError, ChannelClosed, ProtocolError, WorkerGone
from aiocluster.ipc.handover import ZygoteState
from aiocluster.ipc.messages import (
    Exited,
    Fork,
    Forked,
    ForkFailed,
    FromZygote,
    Message,
    Prepared,
    PrepareFailed,
    Watch,
)
from aiocluster.ipc.packets import receive_packet, send_packet
from aiocluster.launch.interpreter import STOP_IMPORT_TIMEOUT, StartedZygote
from aiocluster.primary.processes.process import WorkerProcess
from aiocluster.timeouts import EXIT_TIMEOUT, Countdown, running_timeout

log = logging.getLogger("aiocluster.spawner")

# A fork takes milliseconds. A zygote that has not answered after this many seconds is stopped
# (SIGSTOP), or hangs in a hook that the app's module runs around forks.
_ANSWER_TIMEOUT = 10.0

# Seconds that a zygote may take to die after SIGKILL: only the kernel can delay it.
_DEATH_TIMEOUT = 5.0


class ZygoteHandle:
    """The handle of a zygote, which imports the app and then forks workers, until it is lost."""

    def __init__(
        self,
        started: StartedZygote,
        on_forked: Callable[[int, WorkerProcess], None],
        on_exited: Callable[[int, int], None],
    ) -> None:
        """`on_forked(worker_id, process)` and `on_exited(worker_id, status)` report on workers."""
        pid, sock = started.pid, started.sock
        sock.setblocking(False)
        self.pid = pid
        self._tail = started.tail
        self.lost = asyncio.Event()
        self._sock = sock
        self._on_forked = on_forked
        self._on_exited = on_exited
        self._loop = asyncio.get_running_loop()
        self._prepared: asyncio.Future[Prepared] = self._loop.create_future()
        self._forks: dict[int, asyncio.Future[WorkerProcess]] = {}
        self._pidfd = _pidfd(pid)
        self._loop.add_reader(sock.fileno(), self._on_readable)

    async def prepare(self, boot_timeout: float) -> Prepared:
        """Wait until the app is imported; return what the zygote reports of it.

        If the import fails, raise BootError with the cause.
        """
        try:
            async with running_timeout(boot_timeout):
                return await asyncio.shield(self._prepared)
        except TimeoutError:
            raise BootError(
                f"importing the app took longer than {boot_timeout:g} s (boot_timeout)"
            ) from None

    @property
    def is_forking(self) -> bool:
        """True while the zygote has not answered an order to fork."""
        return any(not forked.done() for forked in self._forks.values())

    def state(self) -> ZygoteState | None:
        """Return what the next program must know of the zygote; None if it is lost."""
        if self.lost.is_set():
            return None
        return ZygoteState(pid=self.pid, fd=self._sock.fileno())

    def adopt(self) -> None:
        """Mark the app as imported: the zygote has reported that to the previous program."""
        self._prepared.set_result(Prepared(True, ""))

    def order(self, fork: Fork, fds: Sequence[int]) -> "asyncio.Future[WorkerProcess]":
        """Order a worker that gets duplicates of `fds`, which may be closed on return."""
        if self.lost.is_set():
            raise WorkerGone("the zygote died")
        try:
            send_packet(self._sock, fork, fds)
        except (ChannelClosed, OSError) as error:
            raise WorkerGone(f"the zygote takes no more orders: {error}") from error
        forked = self._forks[fork.worker_id] = self._loop.create_future()
        unanswered = Countdown(_ANSWER_TIMEOUT, self._on_no_answer)
        forked.add_done_callback(lambda _: unanswered.cancel())
        return forked

    def watch(self, worker_id: int, pidfd: int) -> bool:
        """Have the zygote watch a worker of an earlier zygote; False if its queue is full now."""
        try:
            send_packet(self._sock, Watch(worker_id), [pidfd])
        except BlockingIOError:
            return False
        return True

    def give_up(self) -> None:
        """Kill the zygote; its workers live on. Idempotent."""
        if not self.lost.is_set():
            self._signal(signal.SIGKILL)
            self._disconnect()

    async def close(self) -> None:
        """End and reap the zygote; it or all of its workers must be gone already. Idempotent."""
        importing = not self._prepared.done()
        self._disconnect()
        if self._pidfd >= 0:
            await self._reap(STOP_IMPORT_TIMEOUT if importing else EXIT_TIMEOUT)
            os.close(self._pidfd)
            self._pidfd = -1

    async def _reap(self, seconds: float) -> None:
        dead = asyncio.Event()
        self._loop.add_reader(self._pidfd, dead.set)
        try:
            if not await _is_set(dead, seconds):
                self._signal(signal.SIGKILL)
                await _is_set(dead, _DEATH_TIMEOUT)
        finally:
            self._loop.remove_reader(self._pidfd)
        with contextlib.suppress(ChildProcessError):
            # A zygote that is still not dead is stuck in the kernel; reaper.py reaps it later.
            os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222 (it does not block)

    def _signal(self, number: int) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    # ---- what the zygote sends

    def _on_readable(self) -> None:
        try:
            received = receive_packet(self._sock, FromZygote)
            if received is not None:
                self._on_message(*received)
        except BlockingIOError:
            return
        except ProtocolError as error:
            log.error("the zygote sent nonsense: %s", error)
            self.give_up()
        else:
            if received is None:
                self.give_up()

    def _on_message(self, message: Message, fds: list[int]) -> None:
        asked = isinstance(message, Forked | ForkFailed) and message.worker_id in self._forks
        match message, fds:
            case Forked(worker_id=worker_id, pid=pid), [pidfd] if asked and _is_pidfd(pidfd):
                process = WorkerProcess(pid, pidfd)
                self._on_forked(worker_id, process)
                self._answered(worker_id).set_result(process)
            case Forked(worker_id=worker_id), [] if asked:
                # The worker's channel will be closed, so it ends by itself.
                lost = WorkerGone("its descriptor was lost: too many open files")
                self._answered(worker_id).set_exception(lost)
            case ForkFailed(worker_id=worker_id, error=error), [] if asked:
                self._answered(worker_id).set_exception(WorkerGone(f"cannot fork: {error}"))
            case Exited(worker_id=worker_id, status=status), [] if _is_an_end(status):
                self._on_exited(worker_id, status)
            case (Prepared() | PrepareFailed()) as outcome, []:
                self._on_import_over(outcome)
            case _:
                for fd in fds:
                    os.close(fd)
                raise ProtocolError(f"a zygote may not send {message!r:.80} with {len(fds)} fds")

    def _on_import_over(self, outcome: Prepared | PrepareFailed) -> None:
        if self._prepared.done():  # the message came after the timeout
            return
        self._close_tail()
        if isinstance(outcome, Prepared):
            self._prepared.set_result(outcome)
        else:
            error = BootError(
                outcome.cause, outcome.traceback, outcome.exit_code, kind=outcome.kind
            )
            self._prepared.set_exception(error)

    def _answered(self, worker_id: int) -> "asyncio.Future[WorkerProcess]":
        forked = self._forks.pop(worker_id)
        # A future that is done was cancelled: no task waits for it any more.
        return forked if not forked.done() else self._loop.create_future()

    def _on_no_answer(self) -> None:
        log.error("the zygote (pid %d) has not forked for %g s", self.pid, _ANSWER_TIMEOUT)
        self.give_up()

    def _why_not_prepared(self) -> BootError:
        if self._tail is None or not self._tail.cause:
            return BootError("the zygote died while importing the app")
        return BootError(self._tail.cause, self._tail.text, is_shown=True)

    def _close_tail(self) -> None:
        if self._tail is not None:
            self._tail.close()

    def _disconnect(self) -> None:
        if self.lost.is_set():
            return
        self.lost.set()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        self._close_tail()
        if not self._prepared.done():
            self._prepared.set_exception(self._why_not_prepared())
            self._prepared.exception()  # retrieved, as `prepare` may have been cancelled
        for forked in self._forks.values():
            if not forked.done():
                forked.set_exception(WorkerGone("the zygote died"))
        self._forks.clear()


def _pidfd(pid: int) -> int:
    """Return a pidfd; -1 if the process is gone and was reaped, as when SIGCHLD is ignored."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return -1


def _is_pidfd(fd: int) -> bool:
    try:
        signal.pidfd_send_signal(fd, 0)
    except OSError as error:
        return error.errno != errno.EBADF  # the process may be dead, or another user's
    return True


def _is_an_end(status: int) -> bool:
    return os.WIFEXITED(status) or os.WIFSIGNALED(status)


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()

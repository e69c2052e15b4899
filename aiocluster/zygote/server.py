"""Forks workers on request, reaps them, and outlives the primary until they have ended.

When the primary is gone, its workers drain by themselves. The zygote waits `grace` seconds, then
kills the workers that are left, so that a blocked worker cannot outlive the cluster. The same
holds for workers that an earlier zygote forked (see Watch).
"""

import contextlib
import errno
import gc
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass

from aiocluster.errors import ChannelClosed, ProtocolError
from aiocluster.ipc.hangup import is_hung_up
from aiocluster.ipc.messages import Exited, Fork, Forked, ForkFailed, FromZygote, ToZygote, Watch
from aiocluster.ipc.packets import receive_packet, send_packet
from aiocluster.ipc.signals import FOR_THE_PRIMARY, STOPPING
from aiocluster.log_limit import tell_what_was_left_out
from aiocluster.private_apis import multiprocessing_children, note_exit_code
from aiocluster.shortage import shortage
from aiocluster.zygote.groups import Groups

# Seconds of the longest poll: poll() counts milliseconds in 32 bits.
_LONGEST_POLL = 3600.0


@dataclass(frozen=True, slots=True)
class Order:
    """The order for a new worker, and the descriptors that the worker owns."""

    fork: Fork
    handoff: socket.socket
    channel: socket.socket
    scoreboard_fd: int
    stacks_fd: int
    shared: list[socket.socket]


class ZygoteServer:
    """The zygote's side of its socket."""

    def __init__(self, sock: socket.socket, grace: float) -> None:
        self._sock = sock
        self._grace = grace
        self._workers: dict[int, int] = {}  # pid to worker id
        self._watched: dict[int, int] = {}  # worker id to pidfd
        self._poll = select.poll()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._primary_alive = True
        self._groups = Groups()

    def serve(self) -> Order | None:
        """Serve until the primary is gone, and return None; return its order in each new worker."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._poll.register(self._sock, select.POLLIN)
        self._poll.register(self._wake_read, select.POLLIN)
        while self._primary_alive:
            timeout = self._groups.timeout
            ready = {fd for fd, _ in self._poll.poll(None if timeout is None else timeout * 1000)}
            if self._wake_read in ready:
                self._drain_wake_ups()
            self._reap()
            self._groups.kill_due()
            self._forget_dead(ready)
            if self._sock.fileno() in ready and (order := self._obey()) is not None:
                return order
        self._outlive()
        # Later steps may need a descriptor, and this process may be at its fd limit.
        self._sock.close()
        return None

    def _obey(self) -> Order | None:
        """Read one command. If it forks a worker, return the worker's order there."""
        received = receive_packet(self._sock, ToZygote)
        if received is None:
            if not is_hung_up(self._sock):
                # The app's code has shut down this end: the primary lives, and so may its workers.
                os.kill(os.getpid(), signal.SIGKILL)
            self._primary_alive = False
            return None
        match received:
            case Fork() as fork, [handoff, channel, scoreboard_fd, stacks_fd, *shared] if len(
                shared
            ) == len(fork.shared):
                return self._fork(
                    Order(
                        fork,
                        socket.socket(fileno=handoff),
                        socket.socket(fileno=channel),
                        scoreboard_fd,
                        stacks_fd,
                        [socket.socket(fileno=fd) for fd in shared],
                    )
                )
            case Fork(worker_id=worker_id), []:
                lost = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                self._send(ForkFailed(worker_id, shortage(lost, "what a worker is given")))
                return None
            case Watch(worker_id=worker_id), [pidfd]:
                self._watched[worker_id] = pidfd
                self._poll.register(pidfd, select.POLLIN)
                return None
            case Watch(), []:
                # The pidfd was lost at the fd limit, so this worker cannot be watched.
                return None
            case message, fds:
                raise ProtocolError(f"the primary may not send {message!r} with {len(fds)} fds")

    def _fork(self, order: Order) -> Order | None:
        # Parent and child would both write the buffered output.
        flush_output()
        # A TERM between the fork and the worker's own handlers would be lost.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
        try:
            try:
                pid = os.fork()
            except OSError as error:
                self._send(ForkFailed(order.fork.worker_id, shortage(error, "the fork")))
                _close(order)
                return None
            if pid == 0:
                self._become_worker()
                return order
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _close(order)
        self._workers[pid] = order.fork.worker_id
        # Only this process reaps its children, so the pid still means this worker.
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            # Without a pidfd the primary would never notice the worker's death.
            del self._workers[pid]
            os.kill(pid, signal.SIGKILL)
            self._send(ForkFailed(order.fork.worker_id, shortage(error, "a pidfd")))
            return None
        self._send(Forked(order.fork.worker_id, pid), pidfd)
        os.close(pidfd)
        return None

    def _become_worker(self) -> None:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        # The other signals stay ignored: they reach every process of a terminal, and the primary
        # handles them.
        for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for fd in (self._wake_read, self._wake_write, *self._watched.values()):
            os.close(fd)
        self._sock.close()
        gc.enable()

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            if ended.si_pid in self._workers:
                self._groups.end(ended.si_pid)
            pid, status = os.waitpid(ended.si_pid, 0)
            if (worker_id := self._workers.pop(pid, None)) is not None:
                self._send(Exited(worker_id, status))
            else:
                _tell_multiprocessing(pid, status)

    def _forget_dead(self, ready: set[int]) -> None:
        """Stop watching dead workers that another zygote forked."""
        for worker_id, pidfd in [*self._watched.items()]:
            if pidfd in ready:
                self._poll.unregister(pidfd)
                os.close(pidfd)
                del self._watched[worker_id]

    def _send(self, message: FromZygote, *fds: int) -> None:
        try:
            send_packet(self._sock, message, fds)
        except ChannelClosed:
            self._primary_alive = False

    def _outlive(self) -> None:
        """Wait for the workers to finish, then kill them; each wait here has a timeout."""
        self._wait_for_workers(self._grace)
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)
        for pidfd in self._watched.values():
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except OSError:  # the worker is dead, or this is no pidfd; the others still count
                continue
        # After SIGKILL only the kernel can take time.
        self._wait_for_workers(5.0)

    def _wait_for_workers(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        watched = set(self._watched.values())
        for pidfd in watched:
            poll.register(pidfd, select.POLLIN)
        while (self._workers or watched) and (left := deadline - time.monotonic()) > 0:
            for fd, _ in poll.poll(min(left, _LONGEST_POLL) * 1000):
                if fd in watched:
                    poll.unregister(fd)
                    watched.discard(fd)
            self._drain_wake_ups()
            self._reap()

    def _drain_wake_ups(self) -> None:
        try:
            while os.read(self._wake_read, 512):
                pass
        except BlockingIOError:
            return


def _tell_multiprocessing(pid: int, status: int) -> None:
    """Note the end of a child that the import started, or of an orphan.

    Otherwise multiprocessing's exit hooks would signal the process that has its pid by then.
    """
    for process in multiprocessing_children():
        if process.pid == pid:
            note_exit_code(process, os.waitstatus_to_exitcode(status))


def flush_output() -> None:
    """Write buffered output if possible: a program may have closed its output."""
    tell_what_was_left_out()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


def freeze() -> None:
    """Hide all objects of the import from the garbage collector.

    Otherwise its first run in each worker would write to, and so copy, every shared page.
    The zygote itself makes no garbage worth collecting; workers enable the collector again.
    """
    gc.collect()
    gc.disable()
    gc.freeze()


def take_signals() -> None:
    """Leave all signals to the primary from now on, also during the import of the app."""
    # The zygote lives until its socket shows that the primary is gone; a timer that the module has
    # set must not end it either. The handler is not SIG_IGN: each program that a worker starts
    # would inherit that, and could not be interrupted.
    for number in (*FOR_THE_PRIMARY, signal.SIGALRM):
        signal.signal(number, lambda number, frame: None)
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


def _close(order: Order) -> None:
    order.handoff.close()
    order.channel.close()
    for sock in order.shared:
        sock.close()
    os.close(order.scoreboard_fd)
    os.close(order.stacks_fd)

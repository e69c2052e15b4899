"""The bootstrap of a worker: from the fork to a running loop, and then to an exit code."""

import asyncio
import contextlib
import logging
import mmap
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from aiocluster.config.elsewhere import on_linux
from aiocluster.config.settings import Settings
from aiocluster.fds import check_fds_left, open_fds
from aiocluster.ipc.forks import hear_alone, keep_from_children
from aiocluster.ipc.framing import encode
from aiocluster.ipc.hangup import die_of, stopped_by_hangup
from aiocluster.ipc.messages import BootFailed, Fork
from aiocluster.ipc.scoreboard import DRAIN_ORDERED, open_row
from aiocluster.ipc.signals import FOR_THE_PRIMARY, signals_of
from aiocluster.ipc.stacks import STACKS_SIGNAL
from aiocluster.private_apis import forget_multiprocessing_children
from aiocluster.shortage import is_shortage, shortage
from aiocluster.worker.api.context import WorkerContext, enter
from aiocluster.worker.app_exit import exit_code, is_exit
from aiocluster.worker.process_exit import end_tasks, end_threads, run_to_the_end
from aiocluster.worker.runtime import EXIT_BOOT_FAILED, EXIT_CUT, Runtime
from aiocluster.worker.stacks import show_stacks_on_request

if on_linux():  # imported before the fork: once for all workers
    import uvloop

log = logging.getLogger("aiocluster.worker")

# Descriptors that a loop opens when it is made, when it starts, and to accept and resolve. If
# libuv cannot have one of them, it prints a message and ends the process.
_LOOP_FDS = 12

# Seconds after a TERM in which the loop must handle it; else the worker dies of the signal.
_TERM_GRACE = 1.0

# Bytes of address space that are kept for a TERM. At the limit of `ulimit -v` the loop needs them
# to handle it: it reads its wake-ups into 64 KiB. No page of these bytes is ever touched.
_RESERVE = 1 << 20

# The signals for which a worker has handlers of ours.
_HEARD = {*FOR_THE_PRIMARY, *signals_of("SIGALRM"), STACKS_SIGNAL}

# The packages with signal handlers that act on this process alone.
_OURS = ("aiocluster.", "asyncio.", "uvloop.")


class Worker:
    """A worker from its fork until it is drained: first without a loop, then in its own."""

    def __init__(
        self,
        fork: Fork,
        sockets: tuple[socket.socket, socket.socket],
        files: tuple[int, int],
        shared: Sequence[socket.socket] = (),
    ) -> None:
        """`fork` describes the worker.

        `sockets` are its handoff and its channel, `files` the scoreboard and the file for its
        stacks, `shared` the listening sockets from which it may accept by itself.
        """
        os.environ.update(fork.env)
        _run_on(fork.cpu)
        # Processes started by the zygote's import are the zygote's children, not this worker's.
        forget_multiprocessing_children()
        # A TERM before there is a loop waits for the loop; for one in an import see `importing`.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self._files = files
        self._fork = fork
        self._sockets = sockets
        self._ingress = [*zip(fork.shared, shared, strict=True)]
        keep_from_children(*sockets, *shared)

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Raise ImportStopped inside at a TERM, or when the primary is gone.

        At that time the worker has begun no work.
        """
        with stopped_by_hangup(self._sockets[1], term=True):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            try:
                yield
            finally:
                # From here on a TERM waits for the handler that asks for a drain.
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def run(
        self,
        load: Callable[[], object],
        settings: Settings,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> int:
        """Serve until drained, in this loop or a new one; return the exit code.

        `load()` returns the app or its factory; its exception is why the worker cannot boot.
        """
        life = _Life(self._fork, settings, self._ingress)
        try:
            seed_generators()
            board, stacks = self._files
            row = open_row(board, self._fork.row)
            os.close(board)
            check_fds_left(_LOOP_FDS, stacks)
            before = open_fds()
            loop = loop or uvloop.new_event_loop()
            living = life.live(load, self._sockets, row, stacks, before)
            code = run_to_the_end(loop, living, life.leave)
        except BaseException as error:
            code = self._code_after(error, life)
        # The worker is ending already, and its loop is closed.
        heard_by = signal.signal(signal.SIGTERM, lambda number, frame: None)
        if isinstance(heard_by, _TermHandler):
            heard_by.stop_waiting()
        if loop is not None and not loop.is_running():  # a loop that failed to start still does
            loop.close()
        for sock in self._sockets:  # the handoff may never have been used
            with contextlib.suppress(OSError):  # the app has closed the socket
                sock.close()
        if not end_threads(life.time_left):
            code = code or EXIT_CUT
        return code

    def _code_after(self, error: BaseException, life: "_Life") -> int:
        """Report the error that ended the worker's life, and return the exit code."""
        if is_exit(error):
            return exit_code(error)
        if not life.is_booting or not isinstance(error, OSError) or not is_shortage(error):
            log.exception("worker %d crashed", self._fork.worker_id)
            return exit_code(error)
        # The primary logs it once for all workers. There may be no loop to send it.
        failed = BootFailed(shortage(error, "what a worker needs"), "")
        self._sockets[1].setblocking(False)
        with suppress(OSError):  # the primary is gone
            self._sockets[1].send(encode(failed))
        return EXIT_BOOT_FAILED


def seed_generators() -> None:
    """Seed the random generators, so that forks of one zygote draw different numbers."""
    random.seed()
    # Not imported: a program that has not imported numpy does not use its generator.
    numpy = sys.modules.get("numpy.random")
    if (seed := getattr(numpy, "seed", None)) is not None:
        seed()


def _is_ours(handler: object) -> bool:
    """Return True if this is a handler of our code or the loop's, and not the app's own."""
    module = getattr(handler, "__module__", None)
    return isinstance(module, str) and module.startswith(_OURS)


class _Life:
    """A worker's life in its loop."""

    def __init__(
        self,
        fork: Fork,
        settings: Settings,
        ingress: Sequence[tuple[int, socket.socket]],
    ) -> None:
        self._fork = fork
        self._settings = settings
        self._ingress = ingress
        self._runtime: Runtime | None = None

    async def live(
        self,
        load: Callable[[], object],
        sockets: tuple[socket.socket, socket.socket],
        row: memoryview,
        stacks: int,
        fds_before: set[int],
    ) -> int:
        """Run until drained, and end the remaining tasks; return the exit code.

        `fds_before` were open before the loop was made: those that are new are the loop's.
        """
        of_loop = open_fds() - fds_before
        self._runtime = runtime = Runtime(self._settings, self._fork.families, row, self._ingress)
        enter("worker", _context(self._fork, runtime))
        signal.signal(signal.SIGTERM, _TermHandler(runtime, row))
        hear_alone(_HEARD, _is_ours)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        show_stacks_on_request(stacks)
        handoff, channel = sockets
        try:
            code = await runtime.run(load, handoff, channel, of_loop)
        except BaseException:
            await end_tasks(0.0)
            raise
        ended = await end_tasks(self.time_left)
        # One of these tasks may have raised an exit, as it may under aiohttp.
        code = code or runtime.exit_code
        return code if ended else code or EXIT_CUT

    def leave(self, error: BaseException) -> None:
        """See Runtime.leave."""
        if self._runtime is None:
            raise error
        self._runtime.leave(error)

    @property
    def is_booting(self) -> bool:
        """True until the app or job has started."""
        return self._runtime is None or self._runtime.is_booting

    @property
    def time_left(self) -> float:
        """See Runtime.time_left."""
        return 0.0 if self._runtime is None else self._runtime.time_left


def _context(fork: Fork, runtime: Runtime) -> WorkerContext:
    return WorkerContext(
        fork.worker_id,
        fork.slot,
        fork.role,
        fork.generation,
        runtime.messaging,
        runtime.readiness,
        runtime.servers,
        runtime.leading,
    )


def _run_on(cpu: int) -> None:
    """Run on this CPU alone, unless the number is negative."""
    if cpu < 0:
        return
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError as error:  # the CPU is no longer available to this process
        log.warning("cannot run on CPU %d alone: %s", cpu, error)


class _TermHandler:
    """A handler of TERM: it asks for a drain, or the worker dies if its loop is blocked.

    With a handler of the loop alone, a blocked worker would be immune to TERM. But if the primary
    has ordered a drain, the deadline of the drain holds: at a stop, a service manager sends TERM to
    all processes, and a request that blocks the loop for a while should be finished like any other.
    The kernel's timer ends the worker, since it may be impossible to start a thread.
    """

    def __init__(self, runtime: Runtime, row: memoryview) -> None:
        self._runtime = runtime
        self._row = row
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._unheard_since: float | None = None  # on the monotonic clock
        self._reserve = mmap.mmap(-1, _RESERVE)
        self._apps: tuple[Any, float, float] | None = None  # the app's handler and timer

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a process that the app forked has inherited the handler
            die_of(number)
        if self._unheard_since is not None:
            # The app may have set the timer for itself.
            if time.monotonic() >= self._unheard_since + _TERM_GRACE:
                self._die_unheard()
            return
        self._unheard_since = time.monotonic()
        self._reserve.close()
        self._loop.call_soon_threadsafe(self._hear)
        handler = signal.signal(signal.SIGALRM, lambda number, frame: self._die_unheard())
        self._apps = handler, *signal.setitimer(signal.ITIMER_REAL, _TERM_GRACE)

    def _die_unheard(self) -> None:
        if not self._row[DRAIN_ORDERED]:
            die_of(signal.SIGTERM)

    def stop_waiting(self) -> None:
        """Give the timer back to the app: the loop handles the signal, or the worker ends."""
        if self._apps is not None:
            handler, delay, interval = self._apps
            signal.setitimer(signal.ITIMER_REAL, delay, interval)
            signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
            self._apps = None
        # Last: a TERM before this line changes nothing, and takes no timer of the app's.
        self._unheard_since = None

    def _hear(self) -> None:
        self.stop_waiting()
        if not self._runtime.is_draining:
            self._runtime.ask_to_drain("drain")

"""From the fork to a running loop, and from there to an exit code."""

import asyncio
import atexit
import logging
import multiprocessing.process
import os
import random
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from types import FrameType

from aiocluster.config.elsewhere import on_linux
from aiocluster.config.settings import Settings
from aiocluster.ipc.messages import Fork
from aiocluster.ipc.scoreboard import DRAIN_ORDERED, open_row
from aiocluster.worker.context import WorkerContext, enter
from aiocluster.worker.runtime import Runtime
from aiocluster.worker.stacks import show_stacks_on_request

if on_linux():  # imported before the fork: once for all workers
    import uvloop

log = logging.getLogger("aiocluster.worker")

# Seconds that a worker told to TERM may leave the signal unheard before it dies of it.
_TERM_GRACE = 1.0


def run_worker(
    fork: Fork,
    sockets: tuple[socket.socket, socket.socket],
    files: tuple[int, int],
    load: Callable[[], object],
    settings: Settings,
    shared: Sequence[socket.socket] = (),
) -> int:
    """Run the worker `fork` asks for until it is drained; return its exit code.

    `sockets` are its handoff and its channel, `files` the scoreboard and where it writes its
    stacks when it is asked, `shared` the listening sockets from which it may accept by itself.
    `load()` returns the app or its factory; what it raises is why the worker cannot boot.
    """
    os.environ.update(fork.env)
    random.seed()
    _run_on(fork.cpu)
    # Those of the module that the zygote imported are the zygote's, not ours to end.
    multiprocessing.process._children.clear()  # type: ignore[attr-defined]
    board, stacks = files
    row = open_row(board, fork.row)
    os.close(board)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            doors = [*zip(fork.shared, shared, strict=True)]
            code = runner.run(_main(fork, sockets, (row, stacks), load, settings, doors))
    except SystemExit as exit_:
        code = _exit_code(exit_)
    except BaseException:
        log.exception("worker %d crashed", fork.worker_id)
        code = 1
    # It is ending already, and its loop is closed.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    for sock in sockets:
        sock.close()  # the handoff of one that never came to use it
    _run_exit_hooks()
    return code


async def _main(
    fork: Fork,
    sockets: tuple[socket.socket, socket.socket],
    files: tuple[memoryview, int],
    load: Callable[[], object],
    settings: Settings,
    doors: Sequence[tuple[int, socket.socket]],
) -> int:
    row, stacks = files
    runtime = Runtime(settings, fork.families, row, doors)
    context = WorkerContext(
        fork.worker_id,
        fork.slot,
        fork.role,
        fork.generation,
        runtime.mail,
        runtime.standing,
        runtime.servers,
        runtime.leading,
    )
    enter("worker", context)
    signal.signal(signal.SIGTERM, _TermHandler(runtime, row))
    show_stacks_on_request(stacks)
    handoff, channel = sockets
    return await runtime.run(load, handoff, channel)


def _run_on(cpu: int) -> None:
    """Run on this CPU alone, if it is one."""
    if cpu < 0:
        return
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError as error:  # it was taken from us since
        log.warning("cannot run on CPU %d alone: %s", cpu, error)


class _TermHandler:
    """TERM asks for a drain; a worker whose loop does not even hear it dies of it.

    A handler of the loop alone would make a blocked worker immune to TERM. But when the
    primary has ordered a drain, its deadline holds: a service manager sends TERM to all
    processes at a stop, and a request that blocks its loop for a while has begun like any
    other.
    """

    def __init__(self, runtime: Runtime, row: memoryview) -> None:
        self._runtime = runtime
        self._row = row
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._unheard: threading.Timer | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a process that the app forked has the handler from us
            self._die(number)
        if self._unheard is not None:
            if not self._row[DRAIN_ORDERED]:
                self._die(number)
            return
        self._unheard = threading.Timer(_TERM_GRACE, os.kill, (os.getpid(), number))
        self._unheard.daemon = True
        self._unheard.start()
        self._loop.call_soon_threadsafe(self._hear)

    def _die(self, number: int) -> None:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _hear(self) -> None:
        if self._unheard is not None:
            self._unheard.cancel()
            self._unheard = None
        if not self._runtime.is_draining:
            self._runtime.ask_to_drain("drain")


def _exit_code(exit_: SystemExit) -> int:
    """Return the code that `sys.exit` would have ended the interpreter with."""
    if exit_.code is None or isinstance(exit_.code, int):
        return exit_.code or 0
    log.error("%s", exit_.code)
    return 1


def _run_exit_hooks() -> None:
    """What the interpreter does at its end; a forked child has to do it by itself."""
    # Pools of threads and of processes end here, before the hooks of the user's.
    for end_pool in reversed(getattr(threading, "_threading_atexits", ())):
        end_pool()
    atexit._run_exitfuncs()
    logging.shutdown()

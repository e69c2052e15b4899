"""run(): the life of a whole program that is a cluster. Signals, what it prints, exit codes."""

import asyncio
import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, cast

import click
import uvloop
from aiohttp import web

from aiocluster.children import (
    become_zygote,
    fork_zygote,
    zygote_call_from_environment,
    zygote_socket_from_environment,
)
from aiocluster.cluster import Cluster, raise_fd_limit, refuse_in_child
from aiocluster.config.settings import Address, Settings, settings_from
from aiocluster.config.target import check_target, import_target
from aiocluster.errors import BootError, ConfigError
from aiocluster.ipc.failures import describe
from aiocluster.primary.interpreter import this_program
from aiocluster.primary.scheduling import prefer_workers

log = logging.getLogger("aiocluster")

EXIT_OK = 0
EXIT_CUT = 1  # something had to be killed or given up
EXIT_BOOT_FAILED = 3

# A fault of the primary itself: a handler would only return to the faulting instruction.
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}

# Job control and harmless ones: what they do by default hurts nobody. SIGCHLD and SIGPIPE
# are taken care of by the loop and by Python.
_LEFT_ALONE = {
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGPIPE,
    signal.SIGTSTP,
    signal.SIGURG,
    signal.SIGWINCH,
}

# One Ctrl-C often arrives twice: from the terminal, and passed on by whatever started us.
# Seconds in which a further INT counts as the same.
_SAME_INT = 0.1

# The program's calls of `run` so far: its zygote may have to be the same one.
_calls = itertools.count(1)

OnStart = Callable[[Cluster], Awaitable[None]]


def run(
    app: object,
    *,
    workers: int | str = "auto",
    bind: str | list[str] = "127.0.0.1:8000",
    on_start: OnStart | str | None = None,
    **settings: Any,
) -> None:
    """Serve `app` from `workers` processes until the program is told to stop.

    `app` is an aiohttp Application, a factory of one (sync or async), or an import string
    "pkg.module:name" of either. `workers` is a number, "auto" (the CPUs this process may
    use), "cpu" (the same) or "io" (twice as many). `bind` is "host:port", "[v6]:port" or
    ":port", or a list of them; port 0 takes a free one. `on_start(cluster)`, a coroutine
    function or the import string of one, runs beside the cluster, in the primary's loop, once
    it serves. The README lists the other settings.

    Blocks until stopped by a signal. Returns when all went well; otherwise raises SystemExit:
    1 when something had to be cut, 3 when nothing came up. Raises ConfigError for a setting
    that makes no sense.
    """
    given = {"workers": workers, "bind": bind, **settings}
    code = main_run(app, on_start=on_start, settings=given)
    if code != EXIT_OK:
        sys.exit(code)
    # The program may go on, and signals mean to it again what they did before.
    while signal.sigtimedwait(_handled_signals(), 0) is not None:
        pass
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _handled_signals())


def main_run(
    app: object, *, on_start: OnStart | str | None = None, settings: Mapping[str, Any]
) -> int:
    """Do what `run` does, and return the exit code; the process should end with it.

    Once it has run, the signals it handled stay blocked, so that a late one cannot turn a
    clean end into another.
    """
    refuse_in_child("aiocluster.run was called")
    checked = settings_from(settings)
    _check_place()
    _open_standard_files()
    _set_up_logging(checked)
    again = this_program(next(_calls))
    if wanted := zygote_call_from_environment():
        if again.call < wanted:
            return EXIT_OK  # as it ended when the program itself came here
        become_zygote(zygote_socket_from_environment(), app, checked, again)
    try:
        _check_app(app)
    except ConfigError as error:
        return _boot_failed(error)
    raise_fd_limit()
    # From here to the loop's own handlers a signal waits: neither the zygote nor we may meet
    # it unprepared.
    signal.pthread_sigmask(signal.SIG_BLOCK, _handled_signals())
    pid, sock = fork_zygote(app, checked, again)
    try:
        # Imported here, after the fork, which no thread may precede, and before the loop,
        # which must not wait.
        hook = _on_start_from(on_start)
    except Exception as error:
        sock.close()
        # It may be importing, for ever perhaps, and has no workers yet.
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return _boot_failed(BootError(*describe(error)))
    prefer_workers()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        cluster = Cluster.of_program(checked, (pid, sock), again)
        code = runner.run(_Program(cluster, hook).serve())
    _discard_unwritable_output()
    return code


class _Program:
    """One cluster and the signals that steer it."""

    def __init__(self, cluster: Cluster, on_start: OnStart | None) -> None:
        self._cluster = cluster
        self._on_start = on_start
        self._stop = asyncio.Event()
        self._timeout = cluster.settings.graceful_timeout
        self._interrupted_at = 0.0

    async def serve(self) -> int:
        """Start, say so, run until told to stop, stop; return the exit code."""
        self._handle_signals()
        try:
            if not await self._start():
                return EXIT_OK
        except (BootError, ConfigError) as error:
            return _boot_failed(error)
        else:
            _say_where(self._cluster)
            return await self._run_until_stopped()
        finally:
            # The loop is about to take its handlers away: what still comes changes nothing.
            signal.pthread_sigmask(signal.SIG_BLOCK, _handled_signals())

    async def _start(self) -> bool:
        """Start the cluster; False when told to stop before it was up."""
        starting = asyncio.ensure_future(self._cluster.start())
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
        if starting.cancelled():
            return False
        await starting
        return True

    async def _run_until_stopped(self) -> int:
        hook = asyncio.create_task(self._run_on_start())
        await self._stop.wait()
        log.info("stopping, within %g s", self._timeout)
        cut = await self._cluster.stop(self._timeout)
        hook.cancel()
        await asyncio.wait({hook})
        for name in cut:
            log.warning("%s could not finish what it had begun", name)
        log.info("stopped")
        return EXIT_CUT if cut else EXIT_OK

    async def _run_on_start(self) -> None:
        if self._on_start is None:
            return
        try:
            await self._on_start(self._cluster)
        except Exception:
            log.exception("on_start raised; the cluster goes on without it")

    # ---- signals

    def _handle_signals(self) -> None:
        """Handle every signal that could end us by default and leave the workers behind."""
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: self._on_term,
            signal.SIGINT: self._on_int,
            signal.SIGQUIT: self._on_quit,
        }
        for number in _handled_signals():
            known = handlers.get(signal.Signals(number)) if number < signal.SIGRTMIN else None
            loop.add_signal_handler(number, known or partial(_ignore, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _handled_signals())

    def _on_term(self) -> None:
        self._stop.set()

    def _on_int(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self._stop.is_set():
            self._interrupted_at = now
            self._stop.set()
        elif now - self._interrupted_at > _SAME_INT:
            log.warning("second INT: killing every worker")
            self._cluster.kill()

    def _on_quit(self) -> None:
        if self._stop.is_set():
            self._cluster.kill()
        self._timeout = 0.0
        self._stop.set()


def _handled_signals() -> set[int]:
    uncatchable = {signal.SIGKILL, signal.SIGSTOP}
    return {int(number) for number in signal.valid_signals() - uncatchable - _FAULTS - _LEFT_ALONE}


def _ignore(number: int) -> None:
    log.warning("got %s (signal %d), which changes nothing", signal.strsignal(number), number)


def _check_place() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError("aiocluster.run must be called in the main thread: it handles signals")
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigError(
        "aiocluster.run was called inside a running event loop; there, use"
        " `async with aiocluster.Cluster(...)`"
    )


def _open_standard_files() -> None:
    """Put /dev/null where standard input, output or error was closed.

    A socket that got such a number would be printed to, and libuv refuses to close it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one


def _discard_unwritable_output() -> None:
    """What is buffered and can never be written would turn a clean end's exit code into 120."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def _check_app(app: object) -> None:
    if isinstance(app, str):
        check_target(app)
    elif not isinstance(app, web.Application) and not callable(app):
        raise ConfigError(
            f"the app: {app!r:.80} is a {type(app).__name__}; expected an aiohttp.web.Application,"
            " a factory of one, or an import string 'pkg.module:name'"
        )


def _on_start_from(given: OnStart | str | None) -> OnStart | None:
    """Return the hook itself; import it when it is named by an import string."""
    hook: Any = import_target(given) if isinstance(given, str) else given
    if hook is not None and not callable(hook):
        raise ConfigError(f"on_start: {given!r:.80} is not a function that takes the cluster")
    return cast(OnStart | None, hook)


def _boot_failed(error: BootError | ConfigError) -> int:
    if isinstance(error, BootError) and error.traceback:
        log.error("%s", error.traceback.rstrip())
    log.error("could not start: %s", error)
    return EXIT_BOOT_FAILED


def _say_where(cluster: Cluster) -> None:
    urls = " and ".join(Address(host, port).url() for host, port in cluster.addresses)
    count = len(cluster.workers)
    line = (
        f"aiocluster: serving on {urls} with {count} worker{'s' if count != 1 else ''}"
        f" (pid {os.getpid()}); stop with Ctrl-C or `kill {os.getpid()}`"
    )
    try:
        click.echo(line)
    except OSError as error:
        log.warning("cannot print (%s): %s", error, line)


def _set_up_logging(settings: Settings) -> None:
    """Log to standard error, unless the program has set up its own logging."""
    logging.getLogger("aiocluster").setLevel(settings.log_level.upper())
    if settings.access_log:
        logging.getLogger("aiohttp.access").setLevel(logging.INFO)
    if logging.getLogger().hasHandlers() or logging.getLogger("aiocluster").handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s [%(process)d] %(levelname)s %(message)s"))
    for name in ("aiocluster", "aiohttp"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False

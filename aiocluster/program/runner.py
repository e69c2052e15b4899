"""The main coroutine of the program: it starts the cluster, serves until a stop, and stops."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial

from aiocluster.cluster import Cluster
from aiocluster.errors import BootError, ClusterStopping, ConfigError
from aiocluster.ipc.forks import leave_if_forked
from aiocluster.ipc.signals import signals_of
from aiocluster.program.output import say_where, warn_of_loopback
from aiocluster.program.signals import handle_signals, hold_signals
from aiocluster.program.stop_watchdog import StopWatchdog, end_in
from aiocluster.timeouts import EXIT_TIMEOUT, KILL_GRACE, Countdown

log = logging.getLogger("aiocluster")

EXIT_OK = 0
EXIT_CUT = 1  # a worker had to be killed or a request cut
EXIT_REFUSED = 2  # a setting of the code was refused
EXIT_BOOT_FAILED = 3

# One Ctrl-C often arrives twice: from the terminal, and passed on by the parent process. A further
# INT within these seconds counts as the same. The seconds are counted while the loop turns, in so
# many steps: on a busy machine the second INT waits until this process runs again.
_SAME_INT = 0.1
_SAME_INT_LOOKS = 5

# Seconds that `on_start` has to end once it is cancelled, and after that the tasks and threads of
# the loop's pool that it has left running.
_HOOK_TIMEOUT = 2.0
_LEFTOVER_TIMEOUT = 5.0

# Seconds that the last lines of output may take: perhaps no process reads them.
_LAST_LINES_TIMEOUT = 1.0

# Seconds after its time in which a stop is over, if the primary is well but workers must be killed.
# The process does not wait longer for a blocked loop.
_OVERTIME = KILL_GRACE + 2.0

# Seconds that the processes of a start may take to end in a stop: a worker until it is killed, and
# after that its zygote. An import that goes on is killed sooner.
_EARLY_STOP = KILL_GRACE + EXIT_TIMEOUT

OnStart = Callable[[Cluster], Awaitable[None]]


class ProgramRunner:
    """The main coroutine of the program, with its cluster and the signals that control it."""

    def __init__(self, cluster: Cluster, on_start: OnStart | None, guard: StopWatchdog) -> None:
        self._cluster = cluster
        self._on_start = on_start
        self._guard = guard
        self._stop = asyncio.Event()
        self._serving = False
        self._wanted: list[Callable[[], Awaitable[object]]] = []
        self._replacements: set[asyncio.Task[None]] = set()
        self._hurried = False
        self._same_int: Countdown | None = None  # since the last INT
        self._exit_code = EXIT_OK

    async def live(self) -> int:
        """Run the program from its start to its end; return the exit code."""
        meanings: dict[str, Callable[[], None]] = {
            "SIGTERM": self._stop.set,
            "SIGINT": self._on_int,
            "SIGBREAK": self._on_int,  # of Windows: Ctrl-Break
            "SIGQUIT": self._on_quit,
            "SIGHUP": self._on_reload,
            "SIGUSR2": self._on_reload,
            "SIGRTMIN": self._on_upgrade,
            "SIGTTIN": partial(self._on_scale, "+1"),
            "SIGTTOU": partial(self._on_scale, "-1"),
        }
        handle_signals({number: meanings[name] for name in meanings for number in signals_of(name)})
        self._be_guarded()
        try:
            if not await self._start():
                cut = await self._cluster.stop(0.0)
                log.info("stopped")
                return self._code_after(cut)
            self._be_guarded()  # the code may have set another graceful_timeout
            if not self._cluster.is_upgrade:
                say_where(self._cluster)
                warn_of_loopback(self._cluster, os.getpid())
            return await self._serve()
        except (BootError, ConfigError) as error:
            if isinstance(error, BootError) and error.kind == "calls_run":
                raise  # the script is the program itself
            return boot_failed(error)
        except BaseException:
            await self._cluster.stop(0.0)
            raise
        finally:
            # The loop is about to remove its handlers: later signals must have no effect.
            hold_signals()

    async def _start(self) -> bool:
        """Start the cluster; return False if a stop came first."""
        if self._cluster.is_upgrade:
            await self._take_over()
            return True
        starting = asyncio.ensure_future(self._cluster.start())
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            log_early_stop()
            starting.cancel()
            await asyncio.wait({starting})
        if starting.cancelled():
            return False
        await starting
        return True

    async def _take_over(self) -> None:
        """Take over from the previous program; a stop waits until that is done, which is quick."""
        try:
            await self._cluster.start()
        except BaseException:
            # The workers drain when this process ends; the zygotes kill those that do not.
            log.exception("could not go on after the upgrade: leaving")
            logging.shutdown()
            os._exit(EXIT_BOOT_FAILED)
        log.info("upgrade: this program goes on with %d workers", len(self._cluster.workers))

    async def _serve(self) -> int:
        self._serving = True
        wanted, self._wanted = self._wanted, []
        for what in wanted:
            self._begin(what)
        hook = asyncio.create_task(self._run_on_start())
        await asyncio.sleep(0)
        # The hook has reached its first await, and may have subscribed to events before.
        self._cluster.announce()
        emptied = asyncio.create_task(self._wait_until_empty(hook))
        await self._stop.wait()
        emptied.cancel()
        self._guard.watch(self._whole_stop())
        self._say_how_long()
        cut = await self._cluster.stop(0.0 if self._hurried else None)
        hook.cancel()
        await asyncio.wait({hook, emptied}, timeout=_HOOK_TIMEOUT)
        if not hook.done():
            log.error("on_start does not end though it was cancelled: leaving without it")
        log.info("stopped")
        return self._code_after(cut)

    def exit(self, exit_: SystemExit) -> None:
        """Stop, and return at the end the exit code of `exit_`."""
        self._exit_code = _code_of(exit_)
        self._stop.set()

    def _stop_times(self) -> tuple[float, float]:
        """Return the seconds for which a stop serves on, and those of the drain after it."""
        if self._hurried:
            return 0.0, 0.0
        return self._cluster.settings.pre_drain_wait, self._cluster.graceful_timeout

    def _say_how_long(self) -> None:
        wait, timeout = self._stop_times()
        log.info(
            "stopping, within %g s (pre_drain_wait %g, graceful_timeout %g, and %g until what is"
            " left is killed)",
            wait + timeout + KILL_GRACE,
            wait,
            timeout,
            KILL_GRACE,
        )

    def _whole_stop(self) -> float:
        """Return the seconds that a stop may take from the first signal to the end."""
        return sum(self._stop_times()) + _OVERTIME

    def _be_guarded(self) -> None:
        whole = self._whole_stop()
        times = {"SIGTERM": whole, "SIGINT": whole, "SIGQUIT": _OVERTIME}
        self._guard.listen({number: times[name] for name in times for number in signals_of(name)})

    def _code_after(self, cut: list[str]) -> int:
        for name in cut:
            log.warning("%s could not finish what it had begun", name)
        return EXIT_CUT if cut else self._exit_code or self._cluster.exit_code

    async def _run_on_start(self) -> None:
        if self._on_start is None:
            return
        process, code = os.getpid(), EXIT_CUT
        try:
            await self._on_start(self._cluster)
            code = EXIT_OK
        except SystemExit as exit_:
            if os.getpid() != process:
                leave_if_forked(process, _code_of(exit_))
            self.exit(exit_)
            log.info("on_start exits the program with code %d", self._exit_code)
        except ClusterStopping as error:
            # The stop may come between any two lines of the hook, so this is no fault of the hook.
            log.info("on_start ends: %s", error)
        except (Exception, KeyboardInterrupt):
            log.exception("on_start raised; the cluster goes on without it")
        leave_if_forked(process, code)

    async def _wait_until_empty(self, hook: "asyncio.Task[None]") -> None:
        """Stop when no worker is left nor will start, and `on_start`, which may fork, has ended."""
        await self._cluster.wait_empty()
        await asyncio.wait({hook})
        await self._cluster.wait_empty()
        if self._cluster.all_finished:
            log.info("all jobs have finished")
        else:
            restarts = {role.settings.restart for role in self._cluster.plan.roles.values()}
            named = " and ".join(map(repr, sorted(restarts)))
            log.error("no worker is left, and with restart=%s none will come", named)
            self._exit_code = self._exit_code or EXIT_CUT
        self._stop.set()

    def _on_reload(self) -> None:
        self._ask_for(self._cluster.reload, "reload")

    def _on_upgrade(self) -> None:
        self._ask_for(self._cluster.upgrade, "upgrade")

    def _on_scale(self, change: str) -> None:
        """Scale the first role, since a signal cannot name one."""
        role = next(iter(self._cluster.plan.roles))
        self._ask_for(partial(self._cluster.scale, change, role=role), f"scale by {change}")

    def _ask_for(self, replace: Callable[[], Awaitable[object]], name: str) -> None:
        if self._stop.is_set():
            log.warning("cannot %s while stopping: the signal is ignored", name)
            return
        if self._serving:
            self._begin(replace)
            return
        # The code may have changed since it was imported.
        log.info("will %s after the start", name)
        if replace not in self._wanted:
            self._wanted.append(replace)

    def _begin(self, replace: Callable[[], Awaitable[object]]) -> None:
        task = asyncio.create_task(_without_failure(replace))
        self._replacements.add(task)
        task.add_done_callback(self._replacements.discard)

    def _on_int(self) -> None:
        self._stop.set()
        self._cluster.end_idle_grace()  # the user waits for the end
        if self._same_int is not None and self._same_int.left():
            return
        first = self._same_int is None
        look = _SAME_INT / _SAME_INT_LOOKS
        self._same_int = Countdown(_SAME_INT, lambda: None, tick=look, late=0.0)
        if self._cluster.skip_pre_drain_wait():
            log.info("INT: the pre_drain_wait is over")
        elif not first:
            log.warning("second INT: killing every worker")
            self._cluster.kill()

    def _on_quit(self) -> None:
        self._hurried = True
        self._cluster.stop_now()
        self._stop.set()


def log_early_stop() -> None:
    """Log that the program stops before it serves, and what it waits for."""
    log.info(
        "stopping before anything serves: waiting up to %g s for the import, and for workers that"
        " have begun, to end",
        _EARLY_STOP,
    )


async def _without_failure(replace: Callable[[], Awaitable[object]]) -> None:
    # The reason of a failure is logged already.
    with contextlib.suppress(BootError, ClusterStopping):
        try:
            await replace()
        except ConfigError as error:  # a signal asked for what is not possible
            log.warning("%s", error)


def boot_failed(error: BootError | ConfigError) -> int:
    """Log why the start failed, and return the exit code for it."""
    code = _code_of_failure(error)
    if code == EXIT_OK:  # the app has ended the program by itself
        log.info("%s", error)
        return code
    if isinstance(error, BootError) and error.traceback and not error.is_shown:
        log.error("%s", error.traceback.rstrip())
    log.error("could not start: %s", error)
    return code


def _code_of_failure(error: BootError | ConfigError) -> int:
    match error:
        case BootError(exit_code=int(code)):
            return code
        case BootError(kind="refused"):
            return EXIT_REFUSED
    return EXIT_BOOT_FAILED


def close(runner: asyncio.Runner) -> None:
    """Close the loop; if its tasks or threads do not end, end the process.

    The process is also ended if its watchdog is not closed soon after.
    """
    runner.get_loop().call_later(_LEFTOVER_TIMEOUT, _leave)
    end_in(_LEFTOVER_TIMEOUT + _LAST_LINES_TIMEOUT)
    try:
        runner.close()
    except RuntimeError as error:
        # At the limit of processes asyncio cannot start the thread that waits for the loop's pool.
        # The interpreter waits for the pool's threads at its own end.
        if "new thread" not in str(error):
            raise
    finally:
        end_in(_LAST_LINES_TIMEOUT)


def _leave() -> None:
    log.error("tasks or threads that on_start left do not end: leaving without them")
    logging.shutdown()
    os._exit(EXIT_CUT)


def _code_of(exit_: SystemExit) -> int:
    """Return the exit code with which `exit_` would have ended the interpreter."""
    if exit_.code is None or isinstance(exit_.code, int):
        return exit_.code or EXIT_OK
    log.error("%s", exit_.code)
    return EXIT_CUT

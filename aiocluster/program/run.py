"""run(): its forks and starts, and their order."""

import asyncio
import gc
import inspect
import itertools
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from aiocluster.children.call import try_app
from aiocluster.children.start import (
    become_zygote,
    fork_zygote,
    zygote_call_from_environment,
    zygote_from_environment,
)
from aiocluster.cluster import Cluster, refuse_in_child
from aiocluster.config.elsewhere import on_linux
from aiocluster.config.roles import Plan, Role, plan_from
from aiocluster.config.script import Script
from aiocluster.errors import BootError, ConfigError
from aiocluster.fds import raise_fd_limit
from aiocluster.ipc.error_text import describe
from aiocluster.launch.interpreter import InterpreterSpec, StartedZygote
from aiocluster.launch.scheduling import workers_preferred
from aiocluster.launch.this_program import this_program
from aiocluster.log_limit import tell_what_was_left_out
from aiocluster.primary.launch_spec import LaunchSpec
from aiocluster.primary.lifecycle.preflight import check_roles
from aiocluster.primary.role import check_fds
from aiocluster.primary.sockets.activation import take_inherited
from aiocluster.program.again import interpreters_of, log_what_will_not_work
from aiocluster.program.checks import check_apps, check_place, on_start_from, warn_of_threads
from aiocluster.program.lone_script import serve_script
from aiocluster.program.output import (
    discard_unwritable_output,
    open_standard_files,
    say,
    set_up_logging,
)
from aiocluster.program.runner import (
    EXIT_BOOT_FAILED,
    EXIT_OK,
    EXIT_REFUSED,
    OnStart,
    ProgramRunner,
    boot_failed,
    close,
    log_early_stop,
)
from aiocluster.program.signals import (
    Interrupted,
    hold_signals,
    interruptible,
    release_signals,
)
from aiocluster.program.single_process import run_in_one_process
from aiocluster.program.stop_watchdog import StopWatchdog
from aiocluster.program.upgrade_exec import (
    ExecNextProgram,
    UpgradeRequest,
    answer,
    inherit,
    upgrade_request_from_environment,
)
from aiocluster.shortage import shortage
from aiocluster.worker.app_exit import describe_start
from aiocluster.zygote.run_app import note_call_of_run

log = logging.getLogger("aiocluster")

# The number of the program's calls of `run`: a zygote may have to be the same call.
_calls = itertools.count(1)


@dataclass(slots=True)
class Typed:
    """The settings of the command line, which override those of the script that it runs."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    on_start: OnStart | str | None = None


typed = Typed()


def run(
    app: object = None,
    *,
    roles: Mapping[str, Role] | None = None,
    workers: int | str = "auto",
    bind: str | list[str] | None = None,
    on_start: OnStart | str | None = None,
    **settings: Any,
) -> None:
    """Serve `app` from `workers` processes until the program stops.

    `app` is an aiohttp Application, a factory of one (sync or async), a coroutine that returns
    one, or an import string "pkg.module:name" of these; or a job, `async def job(worker)`, which
    takes no connections. `workers` is a number, "auto" (the CPUs this process may
    use), "cpu" (the same) or "io" (twice as many). `bind` is "host:port", "[v6]:port" or
    ":port", or a list of them; port 0 takes a free one; by default "127.0.0.1:8000". `roles`,
    in the place of `app`, are several apps and jobs under one primary: see Role.
    `on_start(cluster)`, a coroutine
    function or the import string of one, runs beside the cluster, in the primary's loop, once
    it serves. The manual (docs/settings.md) lists the other settings.

    Blocks until a signal or `sys.exit` in `on_start` stops the program, or until no worker is left
    that `restart` would replace. Returns if all went well; otherwise raises SystemExit. Its code
    is 1 if a request or a worker had to be cut; 2 if a setting, or an argument of aiohttp's
    run_app, is refused; 3 if the start failed; the app's own code if the app exits before any
    worker serves, or at the end of a worker in the stop. Raises ConfigError if it is called in a
    thread, or in a running event loop.
    """
    given = {"workers": workers, **settings} | ({} if bind is None else {"bind": bind})
    first = typed.on_start or on_start
    try:
        code = main_run(app, roles=roles, on_start=first, settings={**given, **typed.settings})
    finally:
        if inspect.iscoroutine(app):
            app.close()  # only the workers await it, and Python would warn of it here
        # The program may go on, and signals have their former effects again.
        release_signals()
    if code != EXIT_OK:
        sys.exit(code)


def main_run(
    app: object,
    *,
    roles: Mapping[str, Role] | None = None,
    on_start: OnStart | str | None = None,
    settings: Mapping[str, Any],
) -> int:
    """Do what `run` does, and return the exit code, with which the process should end.

    The signals it handled stay blocked afterwards, so that a late signal cannot spoil a clean end.
    """
    note_call_of_run()
    refuse_in_child("aiocluster.run was called")
    call = next(_calls)
    check_place()
    try:
        plan = _planned(app, roles, settings, call)
    except ConfigError as error:
        log.error("could not start: %s", error)
        return EXIT_REFUSED
    open_standard_files()
    set_up_logging(plan)
    if not on_linux():
        return _run_in_one_process(plan, on_start, settings)
    again = this_program(call)
    if wanted := zygote_call_from_environment():
        if again.call < wanted:
            return EXIT_OK  # as this call ended in the program itself
        _become_zygote(plan, again)
    if upgrade_request := upgrade_request_from_environment():
        return _succeed(upgrade_request, plan, on_start, again)
    try:
        check_apps(plan)
        inherited = take_inherited(os.environ)
    except ConfigError as error:
        return boot_failed(error)
    return _begin(plan, on_start, again, inherited)


def _run_in_one_process(
    plan: Plan, on_start: OnStart | str | None, settings: Mapping[str, Any]
) -> int:
    try:
        check_apps(plan)
        hook = on_start_from(on_start)
    except ConfigError as error:
        return boot_failed(error)
    except Exception as error:
        return boot_failed(BootError(*describe(error)))
    for spec in plan.roles.values():
        if isinstance(spec.app, Script):
            # The script may call `run` itself, and has entered its folder by then.
            typed.settings = {name: value for name, value in settings.items() if name != "chdir"}
            typed.on_start = on_start
            return serve_script(spec.app, spec, hook)
    return run_in_one_process(plan, hook)


def _planned(app: object, roles: object, settings: Mapping[str, Any], call: int) -> Plan:
    try:
        return plan_from(app, roles, settings)
    except ConfigError as error:
        upgrade_request = upgrade_request_from_environment()
        if upgrade_request is not None and (upgrade_request.kind, upgrade_request.call) == (
            "trial",
            call,
        ):
            refused = error
            answer(upgrade_request, lambda: _refuse(refused))
        raise


def _refuse(error: ConfigError) -> NoReturn:
    raise error


def _become_zygote(plan: Plan, again: InterpreterSpec) -> NoReturn:
    role, sock = zygote_from_environment()
    if (spec := plan.roles.get(role)) is None:
        raise ConfigError(f"the program has no role {role!r} any more")
    become_zygote(sock, spec, again.of(role))


def _begin(
    plan: Plan,
    on_start: OnStart | str | None,
    again: InterpreterSpec,
    inherited: list[socket.socket],
) -> int:
    _set_up_process()
    try:
        check_fds(plan)
        interpreters = interpreters_of(plan, again)
    except BootError as error:
        return boot_failed(error)
    log_what_will_not_work(interpreters.values(), again)
    zygotes: dict[str, StartedZygote] = {}
    try:
        _fork_zygotes(zygotes, plan, interpreters, inherited)
        # The hook is imported after the fork, since no thread may be there before it, and before
        # the loop, which the import would block.
        with interruptible():
            hook = on_start_from(on_start)
        runner = _new_runner()
    except Interrupted:
        log_early_stop()
        _drop(zygotes.values(), inherited, interpreters)
        return EXIT_OK
    except BaseException as error:
        _drop(zygotes.values(), inherited, interpreters)
        if not isinstance(error, BootError):
            error = BootError(*describe_start(error, "the module of on_start"))
        return boot_failed(error)
    origin = LaunchSpec(
        interpreters,
        zygotes,
        successor=ExecNextProgram(again, plan.roles),
        inherited=inherited,
        say=say,
    )
    return _live(runner, Cluster.of_program(plan, origin), hook)


def _fork_zygotes(
    zygotes: dict[str, StartedZygote],
    plan: Plan,
    interpreters: Mapping[str, InterpreterSpec],
    inherited: list[socket.socket],
) -> None:
    """Fork a zygote for each role, into `zygotes`; BootError if the kernel refuses a fork."""
    for name, spec in plan.roles.items():
        others = [one for role, one in interpreters.items() if role != name]
        sockets = [zygote.sock for zygote in zygotes.values()]
        zygotes[name] = fork_zygote(spec, interpreters[name], [*inherited, *sockets, *others])


def _check(plan: Plan, on_start: OnStart | str | None) -> None:
    """Check a start without serving: raise the error that it would end with."""
    check_apps(plan)
    for spec in plan.roles.values():
        try_app(spec)
    on_start_from(on_start)


def _succeed(
    upgrade_request: UpgradeRequest,
    plan: Plan,
    on_start: OnStart | str | None,
    again: InterpreterSpec,
) -> int:
    """Be the next program: test whether it would start, or take over from the previous one."""
    if again.call < upgrade_request.call:
        return EXIT_OK  # as this call ended in the previous program
    if upgrade_request.kind == "trial":
        answer(upgrade_request, lambda: _check(plan, on_start), plan.roles)
    return _inherit(upgrade_request, plan, again, on_start)


def _inherit(
    upgrade_request: UpgradeRequest,
    plan: Plan,
    again: InterpreterSpec,
    on_start: OnStart | str | None,
) -> int:
    """Take over from the previous program."""
    _set_up_process(is_upgrade=True)
    try:
        handover_state = inherit(upgrade_request)
        check_roles(plan.roles, handover_state.roles)  # changed since the preflight?
        hook = on_start_from(on_start)
        origin = LaunchSpec(
            interpreters_of(plan, again),
            handover_state=handover_state,
            successor=ExecNextProgram(again, plan.roles),
        )
        cluster = Cluster.of_program(plan, origin)
        runner = _new_runner()
    except BaseException:
        # The workers drain when this process ends.
        log.exception("could not go on after the upgrade: leaving")
        return EXIT_BOOT_FAILED
    return _live(runner, cluster, hook)


def _set_up_process(*, is_upgrade: bool = False) -> None:
    """Set up what the primary and all processes forked from it share."""
    raise_fd_limit()
    warn_of_threads()
    # The end of a child must reach this process, even if its parent has ignored SIGCHLD.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # From here until the loop has its handlers, signals are blocked: neither the zygote nor the
    # primary has handlers for them yet.
    hold_signals(by_us=is_upgrade)


def _new_runner() -> asyncio.Runner:
    """Return a runner that has its loop; BootError if the kernel refuses the loop."""
    import uvloop  # Windows has none; a zygote has imported it before its fork

    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        runner.get_loop()
    except OSError as error:
        raise BootError(shortage(error, "an event loop")) from None
    return runner


def _live(runner: asyncio.Runner, cluster: Cluster, on_start: OnStart | None) -> int:
    guard = StopWatchdog()

    async def live() -> int:
        # Imported objects stay: a collection that visits all of them blocks a turn for 10 ms.
        if gc.isenabled():
            gc.freeze()
        return await ProgramRunner(cluster, on_start, guard).live()

    with workers_preferred():
        try:
            return runner.run(live())
        finally:
            try:
                close(runner)
                tell_what_was_left_out()
                discard_unwritable_output()
            finally:
                guard.close()


def _drop(
    zygotes: Iterable[StartedZygote],
    inherited: Sequence[socket.socket],
    interpreters: Mapping[str, InterpreterSpec],
) -> None:
    """End the first zygotes, which may still import, perhaps for ever, and have no workers yet."""
    for sock in inherited:
        sock.close()
    for interpreter in interpreters.values():
        interpreter.close()
    for zygote in zygotes:
        zygote.end_import()

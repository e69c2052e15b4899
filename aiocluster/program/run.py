"""run(): what is checked, who is forked, and in which order."""

import asyncio
import inspect
import itertools
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, cast

from aiocluster.children import (
    become_zygote,
    fork_zygote,
    try_app,
    zygote_call_from_environment,
    zygote_from_environment,
)
from aiocluster.cluster import Cluster, refuse_in_child
from aiocluster.config.elsewhere import on_linux
from aiocluster.config.kinds import check_app
from aiocluster.config.roles import Plan, Role, RoleSpec, plan_from
from aiocluster.config.target import import_target
from aiocluster.errors import BootError, ConfigError
from aiocluster.fds import raise_fd_limit
from aiocluster.ipc.failures import describe
from aiocluster.primary.inherited import take_inherited
from aiocluster.primary.interpreter import Interpreter, StartedZygote
from aiocluster.primary.origin import Origin
from aiocluster.primary.pickled_app import unpickling
from aiocluster.primary.role import check_fds
from aiocluster.primary.scheduling import workers_preferred
from aiocluster.primary.this_program import this_program
from aiocluster.primary.trial import check_roles
from aiocluster.program.guard import Guard, leave
from aiocluster.program.life import (
    EXIT_BOOT_FAILED,
    EXIT_CUT,
    EXIT_OK,
    Life,
    OnStart,
    boot_failed,
    close,
)
from aiocluster.program.output import (
    discard_unwritable_output,
    open_standard_files,
    say,
    set_up_logging,
)
from aiocluster.program.signals import (
    Interrupted,
    hold_signals,
    interruptible,
    release_signals,
)
from aiocluster.program.single_process import run_in_one_process
from aiocluster.program.succession import (
    Heir,
    Summons,
    answer,
    inherit,
    summons_from_environment,
)
from aiocluster.shortage import shortage
from aiocluster.zygote.run_app import note_call_of_run

log = logging.getLogger("aiocluster")

# What a zygote that needs no program calls.
_NEW_ZYGOTE = "aiocluster.program.new_zygote:zygote_of_a_program"

# The program's calls of `run` so far: its zygote may have to be the same one.
_calls = itertools.count(1)


@dataclass(slots=True)
class Typed:
    """What was typed for a program that the command runs: it comes before what that gives."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    on_start: str | None = None


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
    """Serve `app` from `workers` processes until the program is told to stop.

    `app` is an aiohttp Application, a factory of one (sync or async), a coroutine that returns
    one, or an import string "pkg.module:name" of these; or a job, `async def job(worker)`, which
    takes no connections. `workers` is a number, "auto" (the CPUs this process may
    use), "cpu" (the same) or "io" (twice as many). `bind` is "host:port", "[v6]:port" or
    ":port", or a list of them; port 0 takes a free one; by default "127.0.0.1:8000". `roles`,
    in the place of `app`, are several apps and jobs under one primary: see Role.
    `on_start(cluster)`, a coroutine
    function or the import string of one, runs beside the cluster, in the primary's loop, once
    it serves. The README lists the other settings.

    Blocks until stopped by a signal, by `sys.exit` in `on_start`, or when no worker is left
    that `restart` would replace. Returns when all went well; otherwise raises SystemExit:
    1 when something had to be cut, 2 when the code calls aiohttp's run_app with what cannot be
    had, 3 when nothing came up. Raises ConfigError for a setting
    that makes no sense.
    """
    given = {"workers": workers, **settings} | ({} if bind is None else {"bind": bind})
    first = typed.on_start or on_start
    try:
        code = main_run(app, roles=roles, on_start=first, settings={**given, **typed.settings})
    finally:
        if inspect.iscoroutine(app):
            app.close()  # it is the workers who await it, and Python would warn of it here
    # The program may go on, and signals mean to it again what they did before.
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
    """Do what `run` does, and return the exit code; the process should end with it.

    Once it has run, the signals it handled stay blocked, so that a late one cannot turn a
    clean end into another.
    """
    note_call_of_run()
    refuse_in_child("aiocluster.run was called")
    call = next(_calls)
    plan = _planned(app, roles, settings, call)
    _check_place()
    open_standard_files()
    set_up_logging(plan)
    if not on_linux():
        return _run_in_one_process(plan, on_start)
    again = this_program(call)
    if wanted := zygote_call_from_environment():
        if again.call < wanted:
            return EXIT_OK  # as it ended when the program itself came here
        _become_zygote(plan, again)
    if summons := summons_from_environment():
        return _succeed(summons, plan, on_start, again)
    try:
        _check_apps(plan)
        inherited = take_inherited(os.environ)
    except ConfigError as error:
        return boot_failed(error)
    return _begin(plan, on_start, again, inherited)


def _run_in_one_process(plan: Plan, on_start: OnStart | str | None) -> int:
    try:
        _check_apps(plan)
        hook = _on_start_from(on_start)
    except ConfigError as error:
        return boot_failed(error)
    except Exception as error:
        return boot_failed(BootError(*describe(error)))
    return run_in_one_process(plan, hook)


def _planned(app: object, roles: object, settings: Mapping[str, Any], call: int) -> Plan:
    try:
        return plan_from(app, roles, settings)
    except ConfigError as error:
        summons = summons_from_environment()
        if summons is not None and (summons.kind, summons.call) == ("trial", call):
            refused = error
            answer(summons, lambda: _refuse(refused))
        raise


def _refuse(error: ConfigError) -> NoReturn:
    raise error


def _become_zygote(plan: Plan, again: Interpreter) -> NoReturn:
    role, sock = zygote_from_environment()
    if (spec := plan.roles.get(role)) is None:
        raise ConfigError(f"the program has no role {role!r} any more")
    become_zygote(sock, spec, again.of(role))


def _begin(
    plan: Plan,
    on_start: OnStart | str | None,
    again: Interpreter,
    inherited: list[socket.socket],
) -> int:
    _set_up_process()
    try:
        check_fds(plan)
        interpreters = _interpreters(plan, again)
    except BootError as error:
        return boot_failed(error)
    _tell_what_will_not_work(interpreters.values(), again)
    zygotes: dict[str, StartedZygote] = {}
    try:
        _fork_zygotes(zygotes, plan, interpreters, inherited)
        # Imported here, after the fork, which no thread may precede, and before the loop,
        # which must not wait.
        with interruptible():
            hook = _on_start_from(on_start)
        runner = _new_runner()
    except Interrupted:
        _drop(zygotes.values(), inherited, interpreters)
        return EXIT_OK
    except BaseException as error:
        _drop(zygotes.values(), inherited, interpreters)
        return boot_failed(error if isinstance(error, BootError) else BootError(*describe(error)))
    origin = Origin(
        interpreters, zygotes, successor=Heir(again, plan.roles), inherited=inherited, say=say
    )
    return _live(runner, Cluster.of_program(plan, origin), hook)


def _fork_zygotes(
    zygotes: dict[str, StartedZygote],
    plan: Plan,
    interpreters: Mapping[str, Interpreter],
    inherited: list[socket.socket],
) -> None:
    """Fork one for each role, into `zygotes`; BootError when the kernel refuses it."""
    for name, spec in plan.roles.items():
        others = [one for role, one in interpreters.items() if role != name]
        sockets = [zygote.sock for zygote in zygotes.values()]
        zygotes[name] = fork_zygote(spec, interpreters[name], [*inherited, *sockets, *others])


def _interpreters(plan: Plan, again: Interpreter) -> dict[str, Interpreter]:
    return {name: _interpreter(spec, again) for name, spec in plan.roles.items()}


def _interpreter(spec: RoleSpec, again: Interpreter) -> Interpreter:
    """Return what starts the next zygote of a role.

    An import string needs no program. An object is made by the program, run again; where that
    is not possible it is unpickled.
    """
    is_frozen = getattr(sys, "frozen", False)  # then there is no interpreter but the program
    if is_frozen or (not again.refusal and not isinstance(spec.app, str)):
        return again.of(spec.name)
    try:
        return unpickling(spec, _NEW_ZYGOTE)
    except ConfigError as error:
        return replace(again.of(spec.name), refusal=f"{again.refusal}; {error}")


def _tell_what_will_not_work(interpreters: Iterable[Interpreter], again: Interpreter) -> None:
    if refusals := [one.refusal for one in interpreters if one.refusal]:
        log.warning(
            "this program cannot be run again: %s. So a reload and an upgrade will fail, and when"
            " the zygote dies, workers that end are not replaced. Put the app into a module and"
            " give its name, 'pkg.module:name'",
            refusals[0],
        )
    elif again.refusal:
        log.info("an upgrade is not possible: this program cannot be run again: %s", again.refusal)


def _check(plan: Plan, on_start: OnStart | str | None) -> None:
    """Find out what a start would: raise what it would end with."""
    _check_apps(plan)
    for spec in plan.roles.values():
        try_app(spec)
    _on_start_from(on_start)


def _succeed(
    summons: Summons, plan: Plan, on_start: OnStart | str | None, again: Interpreter
) -> int:
    """Do what a program does that is to come, or has come, in the place of another."""
    if again.call < summons.call:
        return EXIT_OK  # as it ended when the program before us came here
    if summons.kind == "trial":
        answer(summons, lambda: _check(plan, on_start), plan.roles)
    return _inherit(summons, plan, again, on_start)


def _inherit(
    summons: Summons, plan: Plan, again: Interpreter, on_start: OnStart | str | None
) -> int:
    """Go on in the place of the program that was here before."""
    _set_up_process()
    try:
        estate = inherit(summons)
        check_roles(plan.roles, estate.roles)  # it may have changed since it was tried
        hook = _on_start_from(on_start)
        origin = Origin(
            _interpreters(plan, again), estate=estate, successor=Heir(again, plan.roles)
        )
        cluster = Cluster.of_program(plan, origin)
        runner = _new_runner()
    except BaseException:
        # Our end is what tells the workers to finish.
        log.exception("could not go on after the upgrade: leaving")
        return EXIT_BOOT_FAILED
    return _live(runner, cluster, hook)


def _set_up_process() -> None:
    """What holds for the primary and for all that is forked from it."""
    raise_fd_limit()
    _warn_of_threads()
    # A child's end must reach us, whatever the one who started us has ignored.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # From here to the loop's own handlers a signal waits: neither the zygote nor we may meet
    # it unprepared.
    hold_signals()


def _new_runner() -> asyncio.Runner:
    """Return one that has its loop; BootError when the kernel refuses that."""
    import uvloop  # which Windows does not have; a zygote has imported it before its fork

    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        runner.get_loop()
    except OSError as error:
        raise BootError(shortage(error, "an event loop")) from None
    return runner


def _live(runner: asyncio.Runner, cluster: Cluster, on_start: OnStart | None) -> int:
    guard = Guard(lambda: leave(cluster.abandon, EXIT_CUT))

    async def live() -> int:
        return await Life(cluster, on_start, guard).live()

    with workers_preferred():
        try:
            return runner.run(live())
        finally:
            close(runner)
            discard_unwritable_output()
            guard.close()


def _drop(
    zygotes: Iterable[StartedZygote],
    inherited: Sequence[socket.socket],
    interpreters: Mapping[str, Interpreter],
) -> None:
    """End the first zygotes: they may be importing, for ever perhaps, and have no workers yet."""
    for sock in inherited:
        sock.close()
    for interpreter in interpreters.values():
        interpreter.close()
    for zygote in zygotes:
        zygote.end_import()


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


def _check_apps(plan: Plan) -> None:
    for spec in plan.roles.values():
        check_app(spec)


def _warn_of_threads() -> None:
    others = [thread.name for thread in threading.enumerate()][1:]
    if others:
        log.warning(
            "threads run already (%s): they do not exist in the workers, and what they have"
            " locked stays locked there; start them in the app's start-up or in on_start",
            ", ".join(others),
        )


def _on_start_from(given: OnStart | str | None) -> OnStart | None:
    """Return the hook itself; import it when it is named by an import string."""
    hook: Any = import_target(given, "on_start") if isinstance(given, str) else given
    if hook is not None and not callable(hook):
        raise ConfigError(f"on_start: {given!r:.80} is not a function that takes the cluster")
    if hook is not None and not _takes_one_argument(hook):
        raise ConfigError(f"on_start: {given!r:.80} must take one argument, the cluster")
    return cast(OnStart | None, hook)


def _takes_one_argument(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # it has no signature to look at
        return True
    return True

"""How a child process begins: the zygote, and in it the workers it forks.

A zygote begins in one of three ways, and then does the same in all of them:

- forked from the program that calls `run`, before its loop exists: whatever object the app
  is, it is there already;
- as a new interpreter that runs that program again, whose call of `run` then becomes the
  zygote (when the first zygote has died, or must start again without importing the app);
- as a new interpreter that unpickles the app, for a Cluster made inside a running loop.
"""

import asyncio
import atexit
import contextlib
import gc
import io
import logging
import multiprocessing.process
import multiprocessing.util
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import msgspec
from aiohttp.web_log import AccessLogger

from aiocluster.config.kinds import is_job, kind_of
from aiocluster.config.roles import RoleSpec
from aiocluster.config.run_app import RunAppCall, read_call
from aiocluster.config.script import Script
from aiocluster.config.settings import Settings
from aiocluster.config.target import check_target, import_target
from aiocluster.errors import BootError, ChannelClosed, ConfigError
from aiocluster.ipc.failures import describe, users_part
from aiocluster.ipc.hangup import ImportStopped, stopped_by_hangup
from aiocluster.ipc.messages import FailureKind, Prepared, PrepareFailed
from aiocluster.ipc.packets import packet_pair, send_packet
from aiocluster.primary.handle import KILL_GRACE
from aiocluster.primary.interpreter import (
    NO_PRELOAD,
    ZYGOTE_CALL,
    ZYGOTE_CALLED,
    ZYGOTE_FD,
    ZYGOTE_ROLE,
    ZYGOTE_STDERR,
    Interpreter,
    StartedZygote,
)
from aiocluster.primary.orphans import become_subreaper
from aiocluster.primary.pickled_app import Preparation
from aiocluster.primary.zygote_handle import EXIT_TIMEOUT
from aiocluster.shortage import shortage
from aiocluster.worker.bootstrap import Worker
from aiocluster.worker.context import enter
from aiocluster.worker.ending import run_exit_hooks
from aiocluster.worker.event_loop import loop_after_import
from aiocluster.worker.exits import exit_code
from aiocluster.worker.http.runner import notes as aiohttp_notes
from aiocluster.zygote.ends import end_children, end_import
from aiocluster.zygote.holdings import running_children
from aiocluster.zygote.leftovers import (
    fallback_note,
    generators_note,
    insistence_note,
    program_note,
)
from aiocluster.zygote.preload import Before, Imported, inspected, prefer_uvloop
from aiocluster.zygote.run_app import CallsRun, RunApp, end_imports_under_way
from aiocluster.zygote.script import no_call, run_script
from aiocluster.zygote.server import ZygoteServer, flush_output, freeze, take_signals


def fork_zygote(
    spec: RoleSpec, again: Interpreter, not_its: Sequence[socket.socket | Interpreter] = ()
) -> StartedZygote:
    """Fork the zygote of a role from this process, which must have no loop yet.

    `again` is how to start it again, in case it must not import the app; `not_its` are sockets
    and the interpreters of others, which it closes, since they are the primary's.
    BootError when the kernel refuses it.
    """
    flush_output()
    with contextlib.ExitStack() as unused:
        try:
            ours, theirs = map(unused.enter_context, packet_pair())
            pid = os.fork()
        except OSError as error:
            raise BootError(shortage(error, "the fork of a zygote")) from None
        unused.pop_all()
    if pid == 0:
        for one in (ours, *not_its):
            one.close()
        become_zygote(theirs, spec, again)
    theirs.close()
    return StartedZygote(pid, ours)


def zygote_call_from_environment() -> int:
    """Return which call of `run` is to be a zygote; 0 when this is an ordinary program."""
    return int(os.environ.get(ZYGOTE_CALL, 0))


def zygote_from_environment() -> tuple[str, socket.socket]:
    """Return the role and the socket of the zygote that this interpreter was started to be."""
    fd = int(os.environ.pop(ZYGOTE_FD))
    del os.environ[ZYGOTE_CALL]
    os.set_inheritable(fd, False)
    return os.environ.pop(ZYGOTE_ROLE), socket.socket(fileno=fd)


def become_zygote(sock: socket.socket, spec: RoleSpec, again: Interpreter) -> NoReturn:
    """Be the zygote until the primary is gone; in each process it forks, be the worker."""
    code = 1
    try:
        _forget_the_program()
        _put_stderr_back()
        take_signals()
        code = _Offspring(sock, spec, again).live()
    except BaseException:
        traceback.print_exc()
    finally:
        # Whatever happens, the user's program does not go on in a child.
        try:
            flush_output()
        finally:
            os._exit(code)


def _put_stderr_back() -> None:
    """From here on we can say by ourselves what fails."""
    if (given := os.environ.pop(ZYGOTE_STDERR, None)) is not None:
        flush_output()
        os.dup2(int(given), 2)
        os.close(int(given))


def _forget_the_program() -> None:
    """What the program wanted at its own exit, and its children, are not ours."""
    atexit._clear()
    multiprocessing.process._children.clear()  # type: ignore[attr-defined]
    # Its own exit function went with the others.
    atexit.register(multiprocessing.util._exit_function)  # type: ignore[attr-defined]


def unpickled_zygote(fd: int, begin: Callable[[RoleSpec], object] = lambda spec: None) -> NoReturn:
    """The main function of the interpreter that `unpickling` starts.

    `begin(spec)` is called before anything of the app is imported.
    """
    os.set_inheritable(fd, False)
    os.lseek(fd, 0, os.SEEK_SET)
    with io.FileIO(fd, "r", closefd=False) as file:
        preparation, spec, pickled = pickle.loads(file.readall())
    begin(spec)
    role, sock = zygote_from_environment()
    again = Interpreter(sys.orig_argv, [fd], role=role)
    app = _Unpickled(preparation, pickled)
    become_zygote(sock, msgspec.structs.replace(spec, app=app), again)


class _Unpickled(NamedTuple):
    """An app that is still to be unpickled, and what that takes."""

    preparation: Preparation
    pickled: bytes

    def load(self) -> object:
        self.preparation.import_main()
        return pickle.loads(self.pickled)


def _enter_folder(spec: RoleSpec) -> None:
    """Enter the folder in which the app is imported; ConfigError when there is none.

    Each generation does so once: a link may lead elsewhere later, when a worker imports something.
    """
    try:
        if isinstance(spec.app, _Unpickled):
            spec.app.preparation.enter()
        if spec.settings.chdir is not None:
            os.chdir(spec.settings.chdir)
            sys.path.insert(0, os.getcwd())
    except OSError as error:
        raise ConfigError(f"the app's folder {error.filename!r}: {error.strerror}") from None


# ---- the life of a zygote: import, see what that left, serve; and be a worker in each fork


@dataclass(slots=True)
class _Import:
    """What an import has given, or raised."""

    app: object = None
    error: BaseException | None = None
    is_refused: bool = False  # it asks for what cannot be had

    def load(self) -> object:
        """Return the app, or raise why there is none."""
        if self.error is not None:
            raise self.error
        return self.app


class OwnImport:
    """What the import of the app by one worker for itself has left."""

    def __init__(self) -> None:
        self._children: set[int] = set()

    def over(self, loop: object = None) -> asyncio.AbstractEventLoop:
        """Return the loop that the worker is to run on: this one, or as the import has left it."""
        self._children = {*running_children()}
        # The module may have set handlers of its own. A terminal sends these to all processes,
        # and the primary decides what they mean.
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, lambda number, frame: None)
        return loop_after_import(loop)

    def end(self) -> None:
        """End the child processes that the import started."""
        end_children(self._children)


class _Offspring:
    """A process from its start as a zygote, and from its fork on as a worker.

    It forks when the app is imported; or, when the import calls aiohttp's run_app, inside of that
    call, which returns in each process when that has served.
    """

    def __init__(self, sock: socket.socket, spec: RoleSpec, again: Interpreter) -> None:
        self._sock = sock
        self._spec = spec
        self._settings = spec.settings
        self._again = again
        self._run_app = RunApp(
            self._serve_call, _name(spec.app), for_script=isinstance(spec.app, Script)
        )
        # Why it was started again to import nothing by itself, and what an import then gave.
        self._why_not_preloaded = os.environ.pop(NO_PRELOAD, None)
        self._call = _call_from_environment()
        self._before: Before | None = None  # there is an import of its own, which workers share
        self._worker: Worker | None = None  # the one that it is
        self._own_import = OwnImport()  # of a worker for which no other process imports
        self._importing = ExitStack()
        self._code: int | None = None  # once it has served
        self._served_call = False  # it did so inside of run_app

    def live(self) -> int:
        """Return the exit code of the zygote; in each process that it forks, of the worker."""
        enter("zygote")
        try:
            _enter_folder(self._spec)
        except ConfigError as error:
            send_packet(self._sock, PrepareFailed(*describe(error)))
            return 1
        # What its workers leave behind is reaped here, where nothing of the user's waits for it.
        become_subreaper()
        prefer_uvloop()
        self._run_app.install()
        try:
            return self._end(self._imported())
        except (ChannelClosed, ImportStopped):
            # The primary ended while the app was imported: there is nobody to serve.
            return self._end(_Import())

    def _imported(self) -> _Import:
        """Import and serve, or serve and import; return what the import gave or raised."""
        if self._imports_first:
            self._before = self._state_before()
            # A TERM was sent to all processes, and is for the primary alone.
            imported = self._import(stopped_by_hangup(self._sock, term=False))
            if self._code is None:
                self._serve_import(imported)
        elif self._fork():
            assert self._worker is not None
            imported = self._import(self._worker.importing())
            if self._code is None:
                self._work(imported.load)
        else:
            imported = _Import()
        return imported

    @property
    def _imports_first(self) -> bool:
        # What a script gives to run_app must be known before there is a place to listen at.
        wanted = _is_preloaded(self._spec.app, self._settings) or isinstance(self._spec.app, Script)
        return wanted and self._why_not_preloaded is None

    def _state_before(self) -> Before:
        return Before.the_program([self._sock.fileno()]) if _is_here(self._spec.app) else Before()

    def _import(self, importing: AbstractContextManager[None]) -> _Import:
        """Import the app, inside `importing` until that is over or has called run_app."""
        imported = _Import()
        with self._importing:
            self._importing.enter_context(importing)
            try:
                imported.app = _load(self._spec, self._run_app)
            except ImportStopped:
                raise
            except BaseException as error:
                imported.error = error
        self._run_app.imported()
        if self._code is None and (refusal := self._run_app.refusal) is not None:
            imported.error, imported.is_refused = refusal, True
        return imported

    def _serve_import(self, imported: _Import) -> None:
        """Serve an app whose import has not called run_app."""
        if imported.error is not None:
            send_packet(self._sock, self._failure(imported))
            self._code = 1
        elif self._fork(target=imported.app):
            self._work(imported.load)

    def _failure(self, imported: _Import) -> PrepareFailed:
        match imported.error:
            case CallsRun():
                text = f"{self._spec.app} calls aiocluster.run: that takes a stop and a start"
                return PrepareFailed(text, "", "calls_run")
            case BaseException() as error:
                kind: FailureKind = "refused" if imported.is_refused else "failed"
                return PrepareFailed(*describe(error), kind)
        raise AssertionError("an import that has not failed")

    # ---- run_app

    def _serve_call(self, app: object, arguments: Mapping[str, Any]) -> None:
        """Serve in the place of aiohttp's run_app: return once this process has served."""
        self._importing.close()
        self._settings, call = _settings_of(self._spec, arguments)
        served = self._named(app)
        _log_access_by(arguments.get("access_log"))
        loop = arguments.get("loop")
        if self._worker is None:
            self._call = call
            if not self._fork(loop):
                self._served_call = True
                _end_soon()
                return
        elif self._call is None and "bind" not in self._spec.given:
            raise ConfigError(
                f"{_name(self._spec.app)}: the import calls web.run_app, and preload=False leaves"
                " it to the workers: too late to say where to listen. Give bind, or serve the"
                " file as a script"
            )
        self._work(lambda: served, loop)
        self._served_call = True
        if self._code not in (0, 1):  # 1: it has served, and something was cut
            sys.exit(self._code)

    def _named(self, app: object) -> object:
        """Return what an import string names, where one was given; else the app of the call."""
        if not isinstance(self._spec.app, str):
            return app
        end_imports_under_way()
        try:
            target = import_target(self._spec.app)
        except ConfigError as error:
            raise ConfigError(f"{error} yet, where the import calls web.run_app") from None
        kind_of(target, is_role=self._spec.is_named)
        return target

    # ---- to fork, and to be what was forked

    def _fork(self, loop: object = None, target: object = None) -> bool:
        """Fork workers until the primary is gone, and return False; in each worker, True."""
        # The module may have set handlers of its own, which would end the zygote.
        take_signals()
        note = self._why_not_preloaded or ""
        if self._before is not None:
            note = self._note_of(inspected(None, self._before), self._before)
            if loop is not None:
                raise ConfigError(
                    f"{_name(self._spec.app)}: web.run_app was given a loop, and workers cannot"
                    " share one: leave it out, or let each worker import for itself (preload=False)"
                )
        if not is_job(target):
            note = "\n".join([*note.splitlines(), *aiohttp_notes(self._settings)])
        freeze()
        self._again.close()  # no worker needs what starts the next zygote
        is_preloaded = self._before is not None
        folder = imported_from(self._spec.app) if is_preloaded else os.getcwd()
        send_packet(self._sock, Prepared(is_preloaded, note, folder, self._call))
        grace = self._settings.graceful_timeout + KILL_GRACE
        order = ZygoteServer(self._sock, grace).serve()
        if order is None:
            self._code = 0
            return False
        sockets, files = (order.handoff, order.channel), (order.scoreboard_fd, order.stacks_fd)
        self._worker = Worker(order.fork, sockets, files, order.shared)
        self._run_app.forked()
        return True

    def _note_of(self, imported: Imported, before: Before) -> str:
        """Return what to tell of an import; where no fork survives it, start anew without it."""
        name, note = _name(self._spec.app), ""
        if imported.left and self._settings.preload == "auto" and not imported.by_program:
            note = fallback_note(name, imported.left, imported.grown)
        elif _is_preloaded(self._spec.app, self._settings):
            return "\n".join(_notes(name, imported))
        end_import(run_exit_hooks)
        before.prepare_exec()
        environ = {**before.environ, **self._call_text()}
        return self._again.replace_this_process(self._sock, note, environ)

    def _call_text(self) -> dict[str, str]:
        if self._call is None:
            return {}
        return {ZYGOTE_CALLED: msgspec.json.encode(self._call).decode()}

    def _work(self, load: Callable[[], object], loop: object = None) -> None:
        """Be a worker until it is drained."""
        assert self._worker is not None
        if self._before is not None:  # another process has imported it
            self._code = self._worker.run(load, self._settings)
            return
        try:
            own_loop: asyncio.AbstractEventLoop | None = self._own_import.over(loop)
        except ConfigError as error:
            load, own_loop = _Import(error=error).load, None
        self._code = self._worker.run(load, self._settings, own_loop)

    def _end(self, imported: _Import) -> int:
        """End what the import has started; return the exit code."""
        code = self._code or 0
        if self._served_call and imported.error is not None:
            code = _code_of_end(imported.error) or code
        if self._worker is None:
            end_import(run_exit_hooks)
        else:
            run_exit_hooks()
            self._own_import.end()
        return code


def _settings_of(spec: RoleSpec, arguments: Mapping[str, Any]) -> tuple[Settings, RunAppCall]:
    """Return the settings with what run_app was given; ConfigError for what cannot be had."""
    try:
        call = read_call(arguments, spec.given, AccessLogger)
        return spec.settings_with(call), call
    except ConfigError as error:
        raise ConfigError(f"{spec.app}: {error}") from None


def _code_of_end(error: BaseException) -> int:
    """Return the exit code of code that has ended so, after it had served."""
    if isinstance(error, SystemExit):
        return exit_code(error)
    sys.excepthook(type(error), error, users_part(error))
    return 1


def _end_soon() -> None:
    """Let the rest of the program end, in the seconds that the primary waits for a zygote."""
    gc.enable()
    # The primary may be gone, and with it what would end this process if it does not.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, EXIT_TIMEOUT)


def _call_from_environment() -> RunAppCall | None:
    text = os.environ.pop(ZYGOTE_CALLED, None)
    return None if text is None else msgspec.json.decode(text, type=RunAppCall)


def _log_access_by(logger: object) -> None:
    """Let the access log go to the logger that run_app was given."""
    if isinstance(logger, logging.Logger):
        logging.root.manager.loggerDict["aiohttp.access"] = logger


def _notes(name: str, imported: Imported) -> Iterator[str]:
    """Yield what the user should know of an import that all workers share."""
    if imported.left and imported.by_program:
        yield program_note(imported.left)
    elif imported.left:
        yield insistence_note(name, imported.left)
    if imported.generators:
        yield generators_note(imported.generators)


def imported_from(app: object) -> str:
    """Return the real path of the folder where the app's module, or the program's, was found."""
    name = "__main__"
    if isinstance(app, _Unpickled):
        app = pickle.loads(app.pickled)
        name = getattr(app, "__module__", name)
    if isinstance(app, str):
        name = app.partition(":")[0]
    module = sys.modules.get(name)
    name = getattr(getattr(module, "__spec__", None), "name", None) or name
    if (file := getattr(module, "__file__", None)) is None:
        return os.getcwd()
    depth = name.count(".") + (2 if hasattr(module, "__path__") else 1)
    folder: str = os.path.realpath(file)
    for _ in range(depth):
        folder = os.path.dirname(folder)
    return folder


def _load(spec: RoleSpec, run_app: RunApp) -> object:
    """Return the object to be served, unless run_app has served it; ConfigError if it is none."""
    app = spec.app.load() if isinstance(spec.app, _Unpickled) else spec.app
    if isinstance(app, Script):
        _run_script(app, run_app)
        return None
    target = import_target(app) if isinstance(app, str) else app
    kind_of(target, is_role=spec.is_named)
    return target


def _run_script(script: Script, run_app: RunApp) -> None:
    """Run a script; it must call run_app, wherever it ends."""
    try:
        run_script(script)
    except SystemExit as error:
        if run_app.was_called or isinstance(error, ImportStopped):
            raise
        run_app.refuse(no_call(script, f" with {error.code!r}" if error.code else ""))
    if not run_app.was_called:
        run_app.refuse(no_call(script))


class _Found(BaseException):
    """The code has called run_app, and so would serve."""


def try_app(spec: RoleSpec) -> None:
    """Import an app as a zygote does, but to serve it; raise why that would fail."""

    def find(app: object, arguments: Mapping[str, Any]) -> None:
        _settings_of(spec, arguments)
        raise _Found

    enter("zygote")
    run_app = RunApp(find, _name(spec.app), for_script=isinstance(spec.app, Script))
    run_app.install()
    try:
        _load(spec, run_app)
    except CallsRun:
        raise ConfigError(f"{spec.app} calls aiocluster.run: it takes a stop and a start") from None
    except BaseException as error:
        if not run_app.was_called or run_app.refusal is not None:
            raise run_app.refusal or error from None
    finally:
        run_app.imported()


def _is_preloaded(app: object, settings: Settings) -> bool:
    # An object is here already: there is nothing left to import.
    return settings.preload is not False or not isinstance(app, str | Script | _Unpickled)


def _is_here(app: object) -> bool:
    """Has the program imported the app before it called run?"""
    if isinstance(app, str):
        return check_target(app)[0] in sys.modules
    return not isinstance(app, Script | _Unpickled)


def _name(app: object) -> str:
    return str(app) if isinstance(app, str | Script) else "the app"

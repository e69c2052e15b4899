"""The life of a process from its start as a zygote, and from its fork on as a worker."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import msgspec

from aiocluster.children.app import (
    enter_folder,
    imported_from,
    is_here,
    is_preloaded,
    load_app,
    name_of,
)
from aiocluster.children.call import call_from_environment, log_access_by, settings_of
from aiocluster.children.imported import Import, OwnImport
from aiocluster.config.kinds import is_job, kind_of
from aiocluster.config.roles import RoleSpec
from aiocluster.config.script import Script
from aiocluster.config.target import import_target
from aiocluster.errors import BootError, ChannelClosed, ConfigError
from aiocluster.ipc.error_text import describe, users_part
from aiocluster.ipc.forks import keep_from_children
from aiocluster.ipc.hangup import ImportStopped, stopped_by_hangup
from aiocluster.ipc.messages import FailureKind, Prepared, PrepareFailed
from aiocluster.ipc.packets import send_packet
from aiocluster.launch.interpreter import (
    NO_PRELOAD,
    STOP_IMPORT_TIMEOUT,
    ZYGOTE_CALLED,
    ZYGOTE_JOB,
    InterpreterSpec,
)
from aiocluster.launch.subreaper import become_subreaper
from aiocluster.shortage import is_shortage, shortage
from aiocluster.timeouts import EXIT_TIMEOUT, KILL_GRACE
from aiocluster.worker.api.context import enter
from aiocluster.worker.app_exit import describe_start, exit_code
from aiocluster.worker.bootstrap import Worker
from aiocluster.worker.http.runner import notes as aiohttp_notes
from aiocluster.worker.process_exit import run_exit_hooks
from aiocluster.zygote.ends import end_import
from aiocluster.zygote.import_guard import ended_with_primary
from aiocluster.zygote.leftovers import (
    fallback_note,
)
from aiocluster.zygote.preload import Before, Imported, inspected, prefer_uvloop
from aiocluster.zygote.run_app import CallsRun, RunApp, end_imports_under_way
from aiocluster.zygote.server import ZygoteServer, freeze, take_signals

log = logging.getLogger("aiocluster.spawner")


# Seconds by which the guard of an import, which knows its children, is earlier than the primary.
_GUARD_LEAD = 0.25


class Offspring:
    """A process from its start as a zygote, and from its fork on as a worker.

    The zygote forks once the app is imported; if the import calls aiohttp's run_app, it forks
    inside that call, which returns in each process when the process has served.
    """

    def __init__(self, sock: socket.socket, spec: RoleSpec, again: InterpreterSpec) -> None:
        self._sock = sock
        keep_from_children(sock)
        self._spec = spec
        self._settings = spec.settings
        self._again = again
        self._run_app = RunApp(
            self._serve_call, name_of(spec.app), for_script=isinstance(spec.app, Script)
        )
        # Why this zygote was started again without an import, and the results of the first import.
        self._why_not_preloaded = os.environ.pop(NO_PRELOAD, None)
        self._call = call_from_environment()
        self._is_job = os.environ.pop(ZYGOTE_JOB, None) is not None
        self._before: Before | None = None  # set if workers share the zygote's import
        self._worker: Worker | None = None  # set in a worker
        self._own_import = OwnImport()  # of a worker that imports by itself
        self._importing = ExitStack()
        self._is_prepared = False  # Prepared was sent
        self._has_failed = False  # a failure was reported
        self._code: int | None = None  # the exit code, once it has served
        self._served_call = False  # it has served inside of run_app

    def live(self) -> int:
        """Run as the zygote, and as the worker in each fork; return the exit code."""
        enter("zygote")
        try:
            enter_folder(self._spec)
        except ConfigError as error:
            send_packet(self._sock, PrepareFailed(*describe(error)))
            return 1
        # Orphans of its workers are reaped here, since no code of the user's waits for them.
        become_subreaper()
        prefer_uvloop()
        self._run_app.install()
        try:
            return self._end(self._imported())
        except (ChannelClosed, ImportStopped):
            # The primary ended during the import, so there is nothing to serve.
            return self._end(Import())
        except (BootError, OSError) as error:
            self._tell_failure(PrepareFailed(*describe(_as_refusal(error))))
            self._code = 1
            return self._end(Import())

    def _imported(self) -> Import:
        """Import and fork, or fork and import; return the result of the import."""
        if self._imports_first:
            self._before = self._state_before()
            if not is_here(self._spec.app):
                guard = ended_with_primary(self._sock, STOP_IMPORT_TIMEOUT - _GUARD_LEAD)
                self._importing.enter_context(guard)
            # A TERM here was sent to all processes, and concerns only the primary.
            imported = self._import(stopped_by_hangup(self._sock, term=False))
            if self._code is None:
                self._serve_import(imported)
        elif self._fork():
            assert self._worker is not None
            imported = self._import(self._worker.importing())
            if self._code is None:
                self._work(imported.load)
        else:
            imported = Import()
        return imported

    @property
    def _imports_first(self) -> bool:
        # A script's arguments of run_app must be known before the primary can listen.
        wanted = is_preloaded(self._spec.app, self._settings) or isinstance(self._spec.app, Script)
        return wanted and self._why_not_preloaded is None

    def _state_before(self) -> Before:
        return Before.the_program([self._sock.fileno()]) if is_here(self._spec.app) else Before()

    def _import(self, importing: AbstractContextManager[None]) -> Import:
        """Import the app, inside `importing` until the import ends or calls run_app."""
        imported = Import()
        with self._importing:
            self._importing.enter_context(importing)
            try:
                imported.app = load_app(self._spec, self._run_app)
            except ImportStopped:
                raise
            except BaseException as error:
                imported.error = error
        self._run_app.imported()
        if self._code is None and (refusal := self._run_app.refusal) is not None:
            imported.error, imported.is_refused = refusal, isinstance(refusal, ConfigError)
        return imported

    def _serve_import(self, imported: Import) -> None:
        """Serve the app, after an import that has not called run_app."""
        if imported.error is not None:
            self._tell_failure(self._failure(imported))
            self._code = 1
        elif self._fork(target=imported.app):
            self._work(imported.load)

    def _failure(self, imported: Import) -> PrepareFailed:
        match imported.error:
            case CallsRun():
                text = f"{self._spec.app} calls aiocluster.run: that takes a stop and a start"
                return PrepareFailed(text, "", kind="calls_run")
            case BaseException() as error:
                kind: FailureKind = "refused" if imported.is_refused else "failed"
                told = describe_start(error, name_of(self._spec.app))
                return PrepareFailed(*told, kind=kind)
        raise AssertionError("an import that has not failed")

    def _tell_failure(self, failed: PrepareFailed) -> None:
        """Report the first failure to the primary, or log it if the primary no longer waits."""
        if self._has_failed:
            return
        self._has_failed = True
        if self._is_prepared:
            log.error("process %d ends: %s", os.getpid(), failed.cause)
        else:
            send_packet(self._sock, failed)

    # ---- run_app

    def _serve_call(self, app: object, arguments: Mapping[str, Any]) -> None:
        """Serve in place of aiohttp's run_app; return once this process has served."""
        self._importing.close()
        self._settings, call = settings_of(self._spec, arguments)
        served = self._named(app)
        log_access_by(arguments.get("access_log"))
        loop = arguments.get("loop")
        if self._worker is None:
            self._call = call
            if not self._fork(loop):
                self._served_call = True
                _end_soon()
                return
        elif self._call is None and "bind" not in self._spec.given:
            raise ConfigError(
                f"{name_of(self._spec.app)}: the import calls web.run_app, and preload=False leaves"
                " it to the workers: too late to say where to listen. Give bind, or serve the"
                " file as a script"
            )
        self._work(lambda: served, loop)
        self._served_call = True
        if self._code not in (0, 1):  # 1: it has served, and a request was cut
            sys.exit(self._code)

    def _named(self, app: object) -> object:
        """Return the app of the import string, if one was given; otherwise the app of the call."""
        if not isinstance(self._spec.app, str):
            return app
        end_imports_under_way()
        try:
            target = import_target(self._spec.app)
        except ConfigError as error:
            raise ConfigError(f"{error} yet, where the import calls web.run_app") from None
        kind_of(target, is_role=self._spec.is_named)
        return target

    # ---- the fork, and the worker after it

    def _fork(self, loop: object = None, target: object = None) -> bool:
        """Fork workers until the primary is gone, and return False; return True in each worker.

        BootError if the kernel refuses what that needs.
        """
        try:
            return self._fork_on_request(loop, target)
        except OSError as error:
            # A script must not take this error for one of its own.
            raise _as_refusal(error) from None

    def _fork_on_request(self, loop: object, target: object) -> bool:
        # The module may have set handlers of its own, which would end the zygote.
        take_signals()
        self._is_job = self._is_job or is_job(target)
        note = self._why_not_preloaded or ""
        if self._before is not None:
            note = self._note_of(inspected(None, self._before), self._before)
            if loop is not None:
                raise ConfigError(
                    f"{name_of(self._spec.app)}: web.run_app was given a loop, and workers cannot"
                    " share one: leave it out, or let each worker import for itself (preload=False)"
                )
        if not self._is_job:
            note = "\n".join([*note.splitlines(), *aiohttp_notes(self._settings)])
        freeze()
        self._again.close()  # no worker needs what starts the next zygote
        is_preloaded = self._before is not None
        folder = imported_from(self._spec.app) if is_preloaded else os.getcwd()
        server = ZygoteServer(self._sock, self._settings.graceful_timeout + KILL_GRACE)
        send_packet(self._sock, Prepared(is_preloaded, note, folder, self._call, self._is_job))
        self._is_prepared = True
        order = server.serve()
        if order is None:
            self._code = 0
            return False
        sockets, files = (order.handoff, order.channel), (order.scoreboard_fd, order.stacks_fd)
        self._worker = Worker(order.fork, sockets, files, order.shared)
        self._run_app.forked()
        return True

    def _note_of(self, imported: Imported, before: Before) -> str:
        """Return the notes on an import; if it breaks in a fork, start again without it."""
        name, note = name_of(self._spec.app), ""
        if imported.left and self._settings.preload == "auto" and not imported.by_program:
            note = fallback_note(name, imported.left, imported.grown)
        elif is_preloaded(self._spec.app, self._settings):
            return "\n".join(imported.notes(name))
        end_import(run_exit_hooks)
        before.prepare_exec()
        environ = {**before.environ, **self._known()}
        return self._again.replace_this_process(self._sock, note, environ)

    def _known(self) -> dict[str, str]:
        """Return the results of the import, as variables for the process that replaces this one."""
        known = {ZYGOTE_JOB: "1"} if self._is_job else {}
        if self._call is not None:
            known[ZYGOTE_CALLED] = msgspec.json.encode(self._call).decode()
        return known

    def _work(self, load: Callable[[], object], loop: object = None) -> None:
        """Run as the worker until it has drained."""
        assert self._worker is not None
        if self._before is not None:  # the zygote has imported the app
            self._code = self._worker.run(load, self._settings)
            return
        try:
            own_loop: asyncio.AbstractEventLoop | None = self._own_import.over(loop)
        except ConfigError as error:
            load, own_loop = Import(error=error).load, None
        self._code = self._worker.run(load, self._settings, own_loop)

    def _end(self, imported: Import) -> int:
        """End the hooks and children of the import; return the exit code."""
        code = self._code or 0
        if self._served_call and imported.error is not None:
            code = _code_of_end(imported.error) or code
        if self._worker is None:
            end_import(run_exit_hooks)
        else:
            run_exit_hooks()
            self._own_import.end()
        return code


def _as_refusal(error: BootError | OSError) -> BootError:
    """Return the error of a start that the kernel refuses; raise any other error."""
    if isinstance(error, BootError):
        return error
    if not is_shortage(error):
        raise error
    return BootError(shortage(error, "what a zygote needs"))


def _code_of_end(error: BaseException) -> int:
    """Return the exit code for an error that the code raised after it had served."""
    if isinstance(error, SystemExit):
        return exit_code(error)
    sys.excepthook(type(error), error, users_part(error))
    return 1


def _end_soon() -> None:
    """Let the rest of the code end, within the seconds that the primary waits for a zygote."""
    gc.enable()
    # The primary may be gone, and so could not kill this process.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, EXIT_TIMEOUT)

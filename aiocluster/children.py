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
import io
import multiprocessing.process
import multiprocessing.util
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, NoReturn

import msgspec

from aiocluster.config.elsewhere import on_linux
from aiocluster.config.kinds import is_job, kind_of
from aiocluster.config.roles import RoleSpec
from aiocluster.config.target import check_target, import_target
from aiocluster.errors import BootError, ChannelClosed, ConfigError
from aiocluster.ipc.failures import describe
from aiocluster.ipc.hangup import ImportStopped, stopped_by_hangup
from aiocluster.ipc.messages import Prepared, PrepareFailed
from aiocluster.ipc.packets import packet_pair, send_packet
from aiocluster.primary.handle import KILL_GRACE
from aiocluster.primary.interpreter import (
    NO_PRELOAD,
    ZYGOTE_CALL,
    ZYGOTE_FD,
    ZYGOTE_ROLE,
    ZYGOTE_STDERR,
    Interpreter,
    StartedZygote,
)
from aiocluster.primary.orphans import become_subreaper
from aiocluster.primary.pickled_app import Preparation
from aiocluster.shortage import shortage
from aiocluster.worker.bootstrap import run_worker
from aiocluster.worker.context import enter
from aiocluster.worker.ending import run_exit_hooks
from aiocluster.worker.event_loop import loop_after_import
from aiocluster.worker.http.runner import notes as aiohttp_notes
from aiocluster.zygote.ends import end_children, end_import
from aiocluster.zygote.holdings import running_children
from aiocluster.zygote.leftovers import (
    fallback_note,
    generators_note,
    insistence_note,
    program_note,
)
from aiocluster.zygote.preload import Before, Imported, import_once, prefer_uvloop
from aiocluster.zygote.server import ZygoteServer, flush_output, freeze, take_signals

if on_linux():
    import uvloop


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
        code = _live(sock, spec, again)
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


def _live(sock: socket.socket, spec: RoleSpec, again: Interpreter) -> int:
    """Return the exit code of the zygote; in each process that it forks, of the worker."""
    enter("zygote")
    try:
        _enter_folder(spec)
    except ConfigError as error:
        send_packet(sock, PrepareFailed(*describe(error)))
        return 1
    # What its workers leave behind is reaped here, where nothing of the user's waits for it.
    become_subreaper()
    prefer_uvloop()
    note = os.environ.pop(NO_PRELOAD, None)
    try:
        if note is not None or not _is_preloaded(spec):
            return _serve(sock, spec, again, OwnImport(lambda: _load(spec)), note or "")
        imported = _import(sock, spec, again)
        if isinstance(imported, PrepareFailed):
            send_packet(sock, imported)
            end_import(run_exit_hooks)
            return 1
        return _serve(sock, spec, again, imported, "\n".join(_notes(spec, imported)))
    except (ChannelClosed, ImportStopped):
        # The primary ended while the app was imported: there is nobody to serve.
        end_import(run_exit_hooks)
        return 0


def _import(sock: socket.socket, spec: RoleSpec, again: Interpreter) -> Imported | PrepareFailed:
    """Import the app; if no fork survives what that left, start this process anew without."""
    before = Before.the_program([sock.fileno()]) if _is_here(spec.app) else Before()
    # A TERM was sent to all processes, and is for the primary alone.
    with stopped_by_hangup(sock, term=False):
        imported = import_once(lambda: _load(spec), before)
    # The module may have set handlers of its own, which would end the zygote.
    take_signals()
    if isinstance(imported, PrepareFailed) or not imported.left:
        return imported
    # What the program itself has made would be there again, however often it is run.
    if spec.settings.preload == "auto" and not imported.by_program:
        end_import(run_exit_hooks)
        before.prepare_exec()
        note = fallback_note(_name(spec), imported.left, imported.grown)
        again.replace_this_process(sock, note, before.environ)
    return imported


def _notes(spec: RoleSpec, imported: Imported) -> Iterator[str]:
    """Yield what the user should know of an import that all workers share."""
    if imported.left and imported.by_program:
        yield program_note(imported.left)
    elif imported.left:
        yield insistence_note(_name(spec), imported.left)
    if imported.generators:
        yield generators_note(imported.generators)


def _serve(
    sock: socket.socket,
    spec: RoleSpec,
    again: Interpreter,
    app: "Imported | OwnImport",
    note: str,
) -> int:
    """Fork workers until the primary is gone; in each, be that worker."""
    settings = spec.settings
    freeze()
    again.close()  # no worker needs what starts the next zygote
    is_preloaded = isinstance(app, Imported)
    notes = [note] if note else []
    if not (isinstance(app, Imported) and is_job(app.app)):
        notes += aiohttp_notes(settings)
    folder = imported_from(spec.app) if is_preloaded else os.getcwd()
    send_packet(sock, Prepared(is_preloaded, "\n".join(notes), folder))
    order = ZygoteServer(sock, settings.graceful_timeout + KILL_GRACE).serve()
    if order is None:
        end_import(run_exit_hooks)
        return 0
    sockets, files = (order.handoff, order.channel), (order.scoreboard_fd, order.stacks_fd)
    if isinstance(app, Imported):
        return run_worker(order.fork, sockets, files, lambda: app.app, settings, order.shared)
    code = run_worker(order.fork, sockets, files, app.load, settings, order.shared, app.new_loop)
    app.end()
    return code


class OwnImport:
    """The import of the app by one worker for itself."""

    def __init__(self, load: Callable[[], object]) -> None:
        self._load = load
        self._loop: asyncio.AbstractEventLoop | None = None
        self._children: set[int] = set()

    def load(self) -> object:
        """Return the app."""
        try:
            loaded = self._load()
        finally:
            self._children = {*running_children()}
        self._loop = loop_after_import()
        # The module may have set handlers of its own. A terminal sends these to all processes,
        # and the primary decides what they mean.
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, lambda number, frame: None)
        return loaded

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop that the worker is to run on."""
        return self._loop or uvloop.new_event_loop()

    def end(self) -> None:
        """End the child processes that the import started."""
        end_children(self._children)


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


def _load(spec: RoleSpec) -> object:
    """Return the object to be served; ConfigError when it is no target."""
    app = spec.app.load() if isinstance(spec.app, _Unpickled) else spec.app
    target = import_target(app) if isinstance(app, str) else app
    kind_of(target, is_role=spec.is_named)
    return target


def _is_preloaded(spec: RoleSpec) -> bool:
    # An object is here already: there is nothing left to import.
    return spec.settings.preload is not False or not isinstance(spec.app, str | _Unpickled)


def _is_here(app: object) -> bool:
    """Has the program imported the app before it called run?"""
    if isinstance(app, str):
        return check_target(app)[0] in sys.modules
    return not isinstance(app, _Unpickled)


def _name(spec: RoleSpec) -> str:
    return spec.app if isinstance(spec.app, str) else "the app"

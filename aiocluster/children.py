"""How a child process begins: the zygote, and in it the workers it forks.

A zygote begins in one of three ways, and then does the same in all of them:

- forked from the program that calls `run`, before its loop exists: whatever object the app
  is, it is there already;
- as a new interpreter that runs that program again, whose call of `run` then becomes the
  zygote (when the first zygote has died, or must start again without importing the app);
- as a new interpreter that unpickles the app, for a Cluster made inside a running loop.
"""

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
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import msgspec

from aiocluster.config.kinds import is_job, kind_of
from aiocluster.config.roles import RoleSpec
from aiocluster.config.settings import Settings
from aiocluster.config.target import import_target
from aiocluster.errors import BootError, ChannelClosed, ConfigError
from aiocluster.ipc.failures import describe
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
from aiocluster.worker.http.runner import notes as aiohttp_notes
from aiocluster.zygote.preload import preload
from aiocluster.zygote.server import ZygoteServer, flush_output, freeze, take_signals

_THREADS_NOTE = (
    "importing the app started a thread, which no fork survives: each worker imports the app"
    " by itself (slower starts, no shared memory); preload=False says so without this try"
)


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
        code = _serve(sock, spec, again)
    except ChannelClosed:
        code = 0  # the primary ended while the app was imported: there is nobody to serve
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


def _serve(sock: socket.socket, spec: RoleSpec, again: Interpreter) -> int:
    app, settings = spec.app, spec.settings
    no_preload = os.environ.pop(NO_PRELOAD, None) is not None
    enter("zygote")
    try:
        _enter_folder(spec)
    except ConfigError as error:
        send_packet(sock, PrepareFailed(*describe(error)))
        return 1
    loaded = preload(lambda: _load(spec), False if no_preload else _preload_setting(app, settings))
    # The module may have set handlers of its own, which would end the zygote.
    take_signals()
    if isinstance(loaded, PrepareFailed):
        send_packet(sock, loaded)
        return 1
    if loaded is None and not no_preload and settings.preload == "auto":
        again.replace_this_process(sock)
    # What its workers leave behind is reaped here, where nothing of the user's waits for it.
    become_subreaper()
    freeze()
    again.close()  # no worker needs what starts the next zygote
    notes = [_THREADS_NOTE] * no_preload + ([] if is_job(loaded) else [*aiohttp_notes(settings)])
    folder = os.getcwd() if loaded is None else imported_from(app)
    send_packet(sock, Prepared(loaded is not None, "; ".join(notes), folder))
    order = ZygoteServer(sock, settings.graceful_timeout + KILL_GRACE).serve()
    if order is None:
        return 0
    sockets = (order.handoff, order.channel)
    load = (lambda: _load_in_worker(spec)) if loaded is None else (lambda: loaded)
    files = (order.scoreboard_fd, order.stacks_fd)
    return run_worker(order.fork, sockets, files, load, settings, order.shared)


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


def _load_in_worker(spec: RoleSpec) -> object:
    loaded = _load(spec)
    # The module may have set handlers of its own. A terminal sends these to all processes, and
    # the primary decides what they mean.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda number, frame: None)
    return loaded


def _preload_setting(app: object, settings: Settings) -> Any:
    # An object is here already: there is nothing left to import.
    return settings.preload if isinstance(app, str | _Unpickled) else True

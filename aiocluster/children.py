"""How a child process begins: the zygote, and in it the workers it forks.

A zygote begins in one of three ways, and then does the same in all of them:

- forked from the program that calls `run`, before its loop exists: whatever object the app
  is, it is there already;
- as a new interpreter that runs that program again, whose call of `run` then becomes the
  zygote (when the first zygote has died, or must start again without importing the app);
- as a new interpreter that unpickles the app, for a Cluster made inside a running loop.
"""

import atexit
import io
import multiprocessing.process
import multiprocessing.spawn
import multiprocessing.util
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec

from aiocluster.config.kinds import is_job, kind_of
from aiocluster.config.roles import RoleSpec
from aiocluster.config.settings import Settings
from aiocluster.config.target import import_target
from aiocluster.errors import ChannelClosed
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
    spec: RoleSpec, again: Interpreter, not_its: Sequence[socket.socket] = ()
) -> StartedZygote:
    """Fork the zygote of a role from this process, which must have no loop yet.

    `again` is how to start it again, in case it must not import the app; `not_its` are sockets
    that it closes, since they are the primary's.
    """
    ours, theirs = packet_pair()
    flush_output()
    pid = os.fork()
    if pid == 0:
        for sock in (ours, *not_its):
            sock.close()
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


def unpickled_zygote(fd: int) -> NoReturn:
    """The main function of the interpreter that `unpickling` starts."""
    os.set_inheritable(fd, False)
    os.lseek(fd, 0, os.SEEK_SET)
    with io.FileIO(fd, "r", closefd=False) as file:
        preparation, spec, pickled = pickle.loads(file.readall())
    role, sock = zygote_from_environment()
    again = Interpreter(sys.orig_argv, [fd], role=role)
    app = _Unpickled(preparation, pickled)
    become_zygote(sock, msgspec.structs.replace(spec, app=app), again)


class _Unpickled:
    """An app that is still to be unpickled, and the main module that takes."""

    def __init__(self, preparation: dict[str, Any], pickled: bytes) -> None:
        self._preparation = preparation
        self._pickled = pickled

    def load(self) -> object:
        # multiprocessing does the same for its children: sys.path, sys.argv, the folder, and
        # the program's main module under the name __mp_main__.
        multiprocessing.spawn.prepare(self._preparation)
        return pickle.loads(self._pickled)


def _serve(sock: socket.socket, spec: RoleSpec, again: Interpreter) -> int:
    app, settings = spec.app, spec.settings
    no_preload = os.environ.pop(NO_PRELOAD, None) is not None
    enter("zygote")
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
    notes = [_THREADS_NOTE] * no_preload + ([] if is_job(loaded) else [*aiohttp_notes(settings)])
    send_packet(sock, Prepared(loaded is not None, "; ".join(notes)))
    order = ZygoteServer(sock, settings.graceful_timeout + KILL_GRACE).serve()
    if order is None:
        return 0
    sockets = (order.handoff, order.channel)
    load = (lambda: _load_in_worker(spec)) if loaded is None else (lambda: loaded)
    files = (order.scoreboard_fd, order.stacks_fd)
    return run_worker(order.fork, sockets, files, load, settings, order.shared)


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

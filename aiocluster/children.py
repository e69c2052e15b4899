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
import multiprocessing.spawn
import os
import pickle
import socket
import subprocess
import sys
import traceback
from dataclasses import dataclass, field
from typing import Any, NoReturn

from aiohttp import web

from aiocluster.config.settings import Settings
from aiocluster.config.target import import_target
from aiocluster.errors import ChannelClosed, ConfigError
from aiocluster.ipc.messages import Prepared, PrepareFailed
from aiocluster.ipc.packets import packet_pair, send_packet
from aiocluster.primary.handle import KILL_GRACE
from aiocluster.primary.orphans import become_subreaper
from aiocluster.primary.scheduling import spawn_options
from aiocluster.worker.bootstrap import run_worker
from aiocluster.worker.context import enter
from aiocluster.zygote.preload import preload
from aiocluster.zygote.server import ZygoteServer, freeze, take_signals

# The descriptor of its socket, in the environment of an interpreter that is to be a zygote.
ZYGOTE_FD = "AIOCLUSTER_ZYGOTE_FD"

# Set beside it when the zygote must not import the app.
NO_PRELOAD = "AIOCLUSTER_ZYGOTE_NO_PRELOAD"

_THREADS_NOTE = (
    "importing the app started a thread, which no fork survives: each worker imports the app"
    " by itself (slower starts, no shared memory); preload=False says so without this try"
)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """How to start a new interpreter that becomes a zygote."""

    arguments: list[str]
    fds: list[int] = field(default_factory=list)
    # In a process group of its own, by which its orphans can be told from others; and a
    # terminal's Ctrl-C then reaches only the program, which knows what it means.
    own_group: bool = False

    async def start_zygote(self) -> tuple[int, socket.socket]:
        """Start it; return its pid and our end of its socket."""
        ours, theirs = packet_pair()
        with theirs:
            env = {**os.environ, ZYGOTE_FD: str(theirs.fileno())}
            keep = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in (theirs.fileno(), *self.fds)]
            # It returns once the kernel has the program: a millisecond, once a zygote.
            pid = os.posix_spawn(  # noqa: ASYNC221
                sys.executable,
                self.arguments,
                env,
                file_actions=keep,
                setpgroup=0 if self.own_group else os.getpgrp(),
                **spawn_options,
            )
        return pid, ours

    def close(self) -> None:
        """Start no more of them. Idempotent."""
        while self.fds:
            os.close(self.fds.pop())

    def replace_this_process(self, sock: socket.socket) -> NoReturn:
        """Start this zygote again, without importing the app."""
        for fd in (sock.fileno(), *self.fds):
            os.set_inheritable(fd, True)
        env = {**os.environ, ZYGOTE_FD: str(sock.fileno()), NO_PRELOAD: "1"}
        os.execve(sys.executable, self.arguments, env)


def this_program() -> Interpreter:
    """The program we are, once more: its call of `run` becomes the zygote."""
    return Interpreter([sys.executable, *sys.orig_argv[1:]])


def unpickling(app: object, settings: Settings) -> Interpreter:
    """An interpreter that unpickles `app`; ConfigError when it cannot be."""
    payload = pickle.dumps((_preparation(), settings, _pickled(app)))
    fd = os.memfd_create("aiocluster-app", os.MFD_CLOEXEC)
    with io.FileIO(fd, "w", closefd=False) as file:
        file.write(payload)
    code = f"from aiocluster.children import unpickled_zygote; unpickled_zygote({fd})"
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return Interpreter([sys.executable, *flags, "-c", code], [fd], own_group=True)


def fork_zygote(app: object, settings: Settings) -> tuple[int, socket.socket]:
    """Fork a zygote from this process, which must have no loop yet."""
    ours, theirs = packet_pair()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        ours.close()
        become_zygote(theirs, app, settings, this_program())
    theirs.close()
    return pid, ours


def zygote_socket_from_environment() -> socket.socket | None:
    """Return the socket when this interpreter was started to be a zygote."""
    fd = os.environ.pop(ZYGOTE_FD, None)
    if fd is None:
        return None
    os.set_inheritable(int(fd), False)
    return socket.socket(fileno=int(fd))


def become_zygote(
    sock: socket.socket, app: object, settings: Settings, again: Interpreter
) -> NoReturn:
    """Be the zygote until the primary is gone; in each process it forks, be the worker."""
    code = 1
    try:
        # What the primary's program wanted at its own exit is not for its children.
        atexit._clear()
        take_signals()
        code = _serve(sock, app, settings, again)
    except ChannelClosed:
        code = 0  # the primary ended while the app was imported: there is nobody to serve
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def unpickled_zygote(fd: int) -> NoReturn:
    """The main function of the interpreter that `unpickling` starts."""
    os.set_inheritable(fd, False)
    os.lseek(fd, 0, os.SEEK_SET)
    with io.FileIO(fd, "r", closefd=False) as file:
        preparation, settings, pickled = pickle.loads(file.readall())
    sock = zygote_socket_from_environment()
    assert sock is not None
    again = Interpreter(sys.orig_argv, [fd])
    become_zygote(sock, _Unpickled(preparation, pickled), settings, again)


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


def _serve(sock: socket.socket, app: object, settings: Settings, again: Interpreter) -> int:
    no_preload = os.environ.pop(NO_PRELOAD, None) is not None
    enter("zygote")
    loaded = preload(lambda: _load(app), False if no_preload else _preload_setting(app, settings))
    if isinstance(loaded, PrepareFailed):
        send_packet(sock, loaded)
        return 1
    if loaded is None and not no_preload and settings.preload == "auto":
        again.replace_this_process(sock)
    # What its workers leave behind is reaped here, where nothing of the user's waits for it.
    become_subreaper()
    freeze()
    send_packet(sock, Prepared(loaded is not None, _THREADS_NOTE if no_preload else ""))
    order = ZygoteServer(sock, settings.graceful_timeout + KILL_GRACE).serve()
    if order is None:
        return 0
    sockets = (order.handoff, order.channel)
    load = (lambda: _load(app)) if loaded is None else (lambda: loaded)
    return run_worker(order.fork, sockets, order.scoreboard_fd, load, settings)


def _load(app: object) -> object:
    if isinstance(app, _Unpickled):
        return _load(app.load())
    return import_target(app) if isinstance(app, str) else app


def _preload_setting(app: object, settings: Settings) -> Any:
    # An object is here already: there is nothing left to import.
    return settings.preload if isinstance(app, str | _Unpickled) else True


def _preparation() -> dict[str, Any]:
    preparation = multiprocessing.spawn.get_preparation_data("aiocluster-zygote")
    # It refuses to be pickled, and is for multiprocessing's own connections only.
    del preparation["authkey"]
    return preparation


def _pickled(app: object) -> bytes:
    if isinstance(app, web.Application):
        raise ConfigError(
            "a Cluster cannot serve a live Application, since its workers are other processes:"
            " pass a factory of it (a function at the top level of a module) or an import"
            " string 'pkg.module:name'; or use aiocluster.run, which can"
        )
    try:
        return pickle.dumps(app)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"the workers of a Cluster cannot import {app!r} ({error}): pass a function defined"
            " at the top level of a module, or an import string 'pkg.module:name'"
        ) from None

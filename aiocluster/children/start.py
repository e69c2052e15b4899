"""How a zygote starts.

It starts in one of three ways, and then does the same in all of them:

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
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

import msgspec

from aiocluster.children.app import UnpickledApp
from aiocluster.children.offspring import Offspring
from aiocluster.config.roles import RoleSpec
from aiocluster.errors import BootError
from aiocluster.fds import raise_fd_limit
from aiocluster.ipc.packets import packet_pair
from aiocluster.launch.interpreter import (
    ZYGOTE_CALL,
    ZYGOTE_FD,
    ZYGOTE_ROLE,
    ZYGOTE_STDERR,
    InterpreterSpec,
    StartedZygote,
)
from aiocluster.log_limit import limit_own_lines
from aiocluster.shortage import shortage
from aiocluster.zygote.server import flush_output, take_signals


def fork_zygote(
    spec: RoleSpec, again: InterpreterSpec, not_its: Sequence[socket.socket | InterpreterSpec] = ()
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


def become_zygote(sock: socket.socket, spec: RoleSpec, again: InterpreterSpec) -> NoReturn:
    """Be the zygote until the primary is gone; in each process it forks, be the worker."""
    code = 1
    try:
        _forget_the_program()
        _put_stderr_back()
        # The primary's may have been lowered since; workers have what their zygote has.
        raise_fd_limit()
        limit_own_lines()
        take_signals()
        code = Offspring(sock, spec, again).live()
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
    again = InterpreterSpec(sys.orig_argv, [fd], role=role)
    app = UnpickledApp(preparation, pickled)
    become_zygote(sock, msgspec.structs.replace(spec, app=app), again)

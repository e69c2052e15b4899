"""The start of a zygote, in one of three ways:

- forked from the program that calls `run`, before its loop exists: the app may be any object,
  since the fork has it;
- as a new interpreter that runs that program again: its call of `run` becomes the zygote (when
  the first zygote has died, or must start again without importing the app);
- as a new interpreter that unpickles the app, for a Cluster made inside a running loop.
"""

import contextlib
import io
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
from aiocluster.private_apis import forget_exit_hooks, forget_multiprocessing_children
from aiocluster.shortage import shortage
from aiocluster.zygote.server import flush_output, take_signals


def fork_zygote(
    spec: RoleSpec, again: InterpreterSpec, not_its: Sequence[socket.socket | InterpreterSpec] = ()
) -> StartedZygote:
    """Fork the zygote of a role from this process, which must have no loop yet.

    `again` starts the zygote again, if it must not import the app. The zygote closes `not_its`:
    sockets of the primary, and the interpreters of other roles.
    BootError if the kernel refuses the fork.
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
    """Return the number of the call of `run` that becomes a zygote; 0 in an ordinary program."""
    return int(os.environ.get(ZYGOTE_CALL, 0))


def zygote_from_environment() -> tuple[str, socket.socket]:
    """Return the role and the socket of the zygote that this interpreter becomes."""
    fd = int(os.environ.pop(ZYGOTE_FD))
    del os.environ[ZYGOTE_CALL]
    os.set_inheritable(fd, False)
    return os.environ.pop(ZYGOTE_ROLE), socket.socket(fileno=fd)


def become_zygote(sock: socket.socket, spec: RoleSpec, again: InterpreterSpec) -> NoReturn:
    """Be the zygote until the primary is gone, and the worker in each process it forks."""
    code = 1
    try:
        _forget_the_program()
        _put_stderr_back()
        # The primary's limit may have been lowered since; workers inherit the zygote's.
        raise_fd_limit()
        limit_own_lines()
        take_signals()
        code = Offspring(sock, spec, again).live()
    except BaseException:
        traceback.print_exc()
    finally:
        # The user's program must never go on in a child.
        try:
            flush_output()
        finally:
            os._exit(code)


def _put_stderr_back() -> None:
    """Restore the original standard error: from here on this process reports its own failures."""
    if (given := os.environ.pop(ZYGOTE_STDERR, None)) is not None:
        flush_output()
        os.dup2(int(given), 2)
        os.close(int(given))


def _forget_the_program() -> None:
    """Drop the program's exit hooks and its list of children, which are not this process's."""
    forget_exit_hooks()
    forget_multiprocessing_children()


def unpickled_zygote(fd: int, begin: Callable[[RoleSpec], object] = lambda spec: None) -> NoReturn:
    """Be the zygote: the main function of the interpreter that `unpickling` starts.

    `begin(spec)` is called before any module of the app is imported.
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

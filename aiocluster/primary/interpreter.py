"""New interpreters that become zygotes: how one is started, and what it is told.

Either it runs this program again, whose call of `run` then becomes the zygote, or it
unpickles the app.
"""

import contextlib
import io
import multiprocessing.spawn
import os
import pickle
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, NoReturn

import msgspec
from aiohttp import web

from aiocluster.config.kinds import check_app
from aiocluster.config.roles import ONLY_ROLE, RoleSpec
from aiocluster.errors import ConfigError
from aiocluster.ipc.packets import packet_pair
from aiocluster.ipc.signals import FOR_THE_PRIMARY
from aiocluster.primary.scheduling import spawn_options
from aiocluster.primary.stderr_tail import StderrTail

# The descriptor of its socket, in the environment of an interpreter that is to be a zygote.
ZYGOTE_FD = "AIOCLUSTER_ZYGOTE_FD"

# Which of the program's calls of `run` it is to be: the first is 1.
ZYGOTE_CALL = "AIOCLUSTER_ZYGOTE_CALL"

# Of which role it is to be.
ZYGOTE_ROLE = "AIOCLUSTER_ZYGOTE_ROLE"

# The descriptor of the standard error it is to have once it is one.
ZYGOTE_STDERR = "AIOCLUSTER_ZYGOTE_STDERR"

# Set beside them when the zygote must not import the app.
NO_PRELOAD = "AIOCLUSTER_ZYGOTE_NO_PRELOAD"


@dataclass(frozen=True, slots=True)
class StartedZygote:
    """A process that is to be a zygote: its pid, our end of its socket, what it writes."""

    pid: int
    sock: socket.socket
    tail: StderrTail | None = None


@dataclass(frozen=True, slots=True)
class Interpreter:
    """How to start a new interpreter that becomes a zygote."""

    arguments: list[str]
    fds: list[int] = field(default_factory=list)
    call: int = 1
    role: str = ONLY_ROLE
    # In a process group of its own, by which its orphans can be told from others; and a
    # terminal's Ctrl-C then reaches only the program, which knows what it means.
    own_group: bool = False

    async def start_zygote(self) -> StartedZygote:
        """Start it. Until it is a zygote we read its standard error, if we have one ourselves."""
        ours, theirs = packet_pair()
        with theirs, contextlib.ExitStack() as unused:
            unused.callback(ours.close)
            pid, tail = self.spawn([theirs.fileno(), *self.fds], self._variables(theirs))
            unused.pop_all()
        return StartedZygote(pid, ours, tail)

    def spawn(self, fds: list[int], variables: dict[str, str]) -> tuple[int, StderrTail | None]:
        """Start it with these descriptors and variables; return its pid and what it writes.

        Returns once the kernel has the program: within a millisecond.
        """
        with contextlib.ExitStack() as opened, contextlib.ExitStack() as unused:
            stderr, tail = _stderr_pipe(opened, unused)
            if stderr:
                variables = {**variables, ZYGOTE_STDERR: str(max(stderr))}
            actions = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in fds] + [
                (os.POSIX_SPAWN_DUP2, fd, number) for number, fd in stderr.items()
            ]
            pid = os.posix_spawn(
                sys.executable,
                self.arguments,
                {**os.environ, **variables},
                file_actions=actions,
                setpgroup=0 if self.own_group else os.getpgrp(),
                # None of them may end it before it knows that they are the primary's.
                setsigmask=FOR_THE_PRIMARY,
                **spawn_options,
            )
            unused.pop_all()
        return pid, StderrTail(tail) if tail >= 0 else None

    def replace_this_process(self, sock: socket.socket) -> NoReturn:
        """Start this zygote again, without importing the app."""
        for fd in (sock.fileno(), *self.fds):
            os.set_inheritable(fd, True)
        signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_PRIMARY)
        env = {**os.environ, **self._variables(sock), NO_PRELOAD: "1"}
        os.execve(sys.executable, self.arguments, env)

    def close(self) -> None:
        """Start no more of them. Idempotent."""
        while self.fds:
            os.close(self.fds.pop())

    def _variables(self, sock: socket.socket) -> dict[str, str]:
        return {
            ZYGOTE_FD: str(sock.fileno()),
            ZYGOTE_CALL: str(self.call),
            ZYGOTE_ROLE: self.role,
        }

    def of(self, role: str) -> "Interpreter":
        """Return the one that becomes a zygote of this role."""
        return replace(self, role=role)


def _stderr_pipe(
    opened: contextlib.ExitStack, unused: contextlib.ExitStack
) -> tuple[dict[int, int], int]:
    """Return what a child shall have as which descriptor, and our end of the pipe, or -1.

    Its standard error is the pipe; ours it gets under another number, to put back later.
    What only the child needs goes to `opened`, our end to `unused`.
    """
    try:
        real = os.dup(2)
    except OSError:  # somebody has closed it
        return {}, -1
    opened.callback(os.close, real)
    tail, pipe = os.pipe2(os.O_CLOEXEC)
    opened.callback(os.close, pipe)
    unused.callback(os.close, tail)
    return {2: pipe, real: real}, tail


def this_program(call: int = 1) -> Interpreter:
    """The program we are, once more: its `call`-th call of `run` becomes the zygote."""
    arguments = sys.orig_argv[1:]
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is not None and sys.argv[0] in arguments:
        # It was relative to a folder that the program may have left since.
        place = arguments.index(sys.argv[0])
        if os.path.basename(script) == os.path.basename(sys.argv[0]):
            arguments[place] = script
    return Interpreter([sys.executable, *arguments], call=call)


def unpickling(spec: RoleSpec) -> Interpreter:
    """An interpreter that unpickles the app of a role; ConfigError when it cannot be."""
    check_app(spec)
    # What only the primary goes by may be an object that nobody else can make.
    settings = msgspec.structs.replace(spec.settings, policy="round_robin", autoscale=None)
    bare = msgspec.structs.replace(spec, app=None, settings=settings)
    payload = pickle.dumps((_preparation(), bare, _pickled(spec.app)))
    fd = os.memfd_create("aiocluster-app", os.MFD_CLOEXEC)
    with io.FileIO(fd, "w", closefd=False) as file:
        file.write(payload)
    code = f"from aiocluster.children import unpickled_zygote; unpickled_zygote({fd})"
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    arguments = [sys.executable, *flags, "-c", code]
    return Interpreter(arguments, [fd], role=spec.name, own_group=True)


def _preparation() -> dict[str, Any]:
    """What multiprocessing tells its children: sys.path, sys.argv, the folder, __main__."""
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
    if getattr(app, "__module__", None) == "__main__" and not _can_be_run_again():
        raise ConfigError(
            f"the workers of a Cluster cannot import {app!r}: it is defined in a program that"
            " has no file of its own to run again (python -c, a notebook, standard input, a"
            " package's __main__); move it to a module and pass it from there, or an import"
            " string 'pkg.module:name'"
        )
    try:
        return pickle.dumps(app)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"the workers of a Cluster cannot import {app!r} ({error}): pass a function defined"
            " at the top level of a module, or an import string 'pkg.module:name'"
        ) from None


def _can_be_run_again() -> bool:
    """Would multiprocessing find our main module in a new interpreter?"""
    main: ModuleType = sys.modules["__main__"]
    name = getattr(main.__spec__, "name", None)
    if name is not None:
        return name != "__main__" and not name.endswith(".__main__")
    return os.path.isfile(getattr(main, "__file__", None) or "")

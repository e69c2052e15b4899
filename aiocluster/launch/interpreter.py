"""New interpreters that become zygotes: their start, and their environment variables.

Such an interpreter either runs this program again, and the call of `run` in it becomes the zygote
(this_program.py), or it imports or unpickles the app (pickled_app.py).
"""

import contextlib
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from errno import ENOTDIR
from typing import NoReturn

from aiocluster.config.roles import ONLY_ROLE
from aiocluster.errors import BootError
from aiocluster.ipc.child_ends import is_reaped_within
from aiocluster.ipc.forks import keep_from_children
from aiocluster.ipc.packets import packet_pair
from aiocluster.ipc.signals import FOR_THE_PRIMARY
from aiocluster.launch.scheduling import spawn_options
from aiocluster.launch.stderr_tail import StderrTail

# The descriptor of the zygote's socket.
ZYGOTE_FD = "AIOCLUSTER_ZYGOTE_FD"

# The number of the call of `run` that becomes the zygote: the first is 1.
ZYGOTE_CALL = "AIOCLUSTER_ZYGOTE_CALL"

# The zygote's role.
ZYGOTE_ROLE = "AIOCLUSTER_ZYGOTE_ROLE"

# The descriptor that becomes standard error once the interpreter is a zygote.
ZYGOTE_STDERR = "AIOCLUSTER_ZYGOTE_STDERR"

# Set if the zygote must not import the app: the reason, for the log.
NO_PRELOAD = "AIOCLUSTER_ZYGOTE_NO_PRELOAD"

# The arguments of aiohttp's run_app, if the code has called it.
ZYGOTE_CALLED = "AIOCLUSTER_ZYGOTE_CALLED"

# Set if the app is known to be a job.
ZYGOTE_JOB = "AIOCLUSTER_ZYGOTE_JOB"

# Seconds that a zygote which still imports has to end, once its socket is closed: a little more
# than the end of an import takes at most (zygote/ends.py). If the import is in C code, no signal
# interrupts it, and the zygote is killed.
STOP_IMPORT_TIMEOUT = 3.5


# A program that enters the folder of its first argument, and executes the others there.
_ENTER = "import os, sys; os.chdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"


class CannotStart(BootError):
    """The error of an interpreter that can never be started, now or later."""


@dataclass(frozen=True, slots=True)
class StartedZygote:
    """A process that becomes a zygote: its pid, the primary's end of its socket, its stderr."""

    pid: int
    sock: socket.socket
    tail: StderrTail | None = None

    def __post_init__(self) -> None:
        keep_from_children(self.sock)

    def end_import(self) -> None:
        """End the zygote while it may still import, perhaps for ever, and has no workers yet."""
        self.sock.close()
        if not is_reaped_within(self.pid, STOP_IMPORT_TIMEOUT):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@dataclass(frozen=True, slots=True)
class InterpreterSpec:
    """The command, descriptors and folder with which a new interpreter starts as a zygote."""

    arguments: list[str]
    fds: list[int] = field(default_factory=list)
    call: int = 1
    role: str = ONLY_ROLE
    # Start it in a process group of its own, by which its orphans are known. A terminal's Ctrl-C
    # then reaches only the program, which handles it.
    own_group: bool = False
    # The folder in which it is started; None: the current folder at that time.
    folder: str | None = None
    # Why it cannot be started; then each attempt raises CannotStart.
    refusal: str = ""

    async def start_zygote(self) -> StartedZygote:
        """Start it. Its standard error is read until it is a zygote, if this process has one.

        CannotStart if it can never start, OSError if it cannot start now.
        """
        ours, theirs = packet_pair()
        with theirs, contextlib.ExitStack() as unused:
            unused.callback(ours.close)
            pid, tail = self.spawn([theirs.fileno(), *self.fds], self._variables(theirs))
            unused.pop_all()
        return StartedZygote(pid, ours, tail)

    def spawn(self, fds: list[int], variables: dict[str, str]) -> tuple[int, StderrTail | None]:
        """Start it with these descriptors and variables; return its pid and its standard error.

        This returns once the kernel has loaded the program: within a millisecond.
        """
        command = self._command()
        with contextlib.ExitStack() as opened, contextlib.ExitStack() as unused:
            stderr, tail = _stderr_pipe(opened, unused)
            if stderr:
                variables = {**variables, ZYGOTE_STDERR: str(max(stderr))}
            actions = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in fds] + [
                (os.POSIX_SPAWN_DUP2, fd, number) for number, fd in stderr.items()
            ]
            pid = os.posix_spawn(
                command[0],
                command,
                self._environment(variables),
                file_actions=actions,
                setpgroup=0 if self.own_group else os.getpgrp(),
                # These signals must not end it before it leaves them to the primary.
                setsigmask=FOR_THE_PRIMARY,
                **spawn_options,
            )
            unused.pop_all()
        return pid, StderrTail(tail) if tail >= 0 else None

    def replace_this_process(
        self, sock: socket.socket, why: str, environ: Mapping[str, str]
    ) -> NoReturn:
        """Start this zygote again, in `environ`, without importing the app; `why` is logged."""
        for fd in (sock.fileno(), *self.fds):
            os.set_inheritable(fd, True)
        signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_PRIMARY)
        os.environ.clear()
        os.environ.update(environ)
        self.execute({**self._variables(sock), NO_PRELOAD: why})

    def execute(self, variables: dict[str, str]) -> NoReturn:
        """Replace this process by it; if that fails, raise OSError and change nothing."""
        self._command()  # raises if it cannot be started
        # A descriptor, since the folder may be gone. If none is free, no program could start.
        here = os.open(".", os.O_PATH)
        try:
            if self.folder is not None:
                os.chdir(self.folder)
            os.execve(self.arguments[0], self.arguments, self._environment(variables))
        finally:
            os.fchdir(here)
            os.close(here)

    def close(self) -> None:
        """Close the descriptors: it cannot be started any more. Idempotent."""
        while self.fds:
            os.close(self.fds.pop())

    def _variables(self, sock: socket.socket) -> dict[str, str]:
        return {
            ZYGOTE_FD: str(sock.fileno()),
            ZYGOTE_CALL: str(self.call),
            ZYGOTE_ROLE: self.role,
        }

    def _command(self) -> list[str]:
        """Return the arguments that start it in its folder."""
        if self.refusal:
            raise CannotStart(f"this program cannot be run again: {self.refusal}")
        if self.folder is None or _is_here(self.folder):
            return self.arguments
        if not os.path.isdir(self.folder):
            raise NotADirectoryError(ENOTDIR, "the program's folder is gone", self.folder)
        # -S leaves out the module site, which this does not need: 10 ms.
        return [self.arguments[0], "-I", "-S", "-c", _ENTER, self.folder, *self.arguments]

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        # PWD is set as a shell does: the real path alone does not show that a link leads there.
        folder = {} if self.folder is None else {"PWD": self.folder}
        return {**os.environ, **folder, **variables}

    def of(self, role: str) -> "InterpreterSpec":
        """Return the spec of an interpreter that becomes a zygote of this role."""
        return replace(self, role=role)


def _is_here(folder: str) -> bool:
    try:
        return os.path.samefile(folder, ".")
    except OSError:
        return False


def _stderr_pipe(
    opened: contextlib.ExitStack, unused: contextlib.ExitStack
) -> tuple[dict[int, int], int]:
    """Return the descriptors of a child, by their numbers there, and our end of the pipe, or -1.

    The pipe is the child's standard error. The child gets ours under another number, to restore it
    later. `opened` closes what only the child needs, `unused` our end.
    """
    try:
        real = os.dup(2)
    except OSError:  # standard error is closed
        return {}, -1
    opened.callback(os.close, real)
    tail, pipe = os.pipe2(os.O_CLOEXEC)
    opened.callback(os.close, pipe)
    unused.callback(os.close, tail)
    return {2: pipe, real: real}, tail

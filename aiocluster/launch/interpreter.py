"""New interpreters that become zygotes: how one is started, and with which variables.

Either it runs this program again, and the call of `run` in it becomes the zygote
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

# The descriptor of its socket, in the environment of an interpreter that is to be a zygote.
ZYGOTE_FD = "AIOCLUSTER_ZYGOTE_FD"

# Which of the program's calls of `run` it is to be: the first is 1.
ZYGOTE_CALL = "AIOCLUSTER_ZYGOTE_CALL"

# Of which role it is to be.
ZYGOTE_ROLE = "AIOCLUSTER_ZYGOTE_ROLE"

# The descriptor of the standard error it is to have once it is one.
ZYGOTE_STDERR = "AIOCLUSTER_ZYGOTE_STDERR"

# Set beside them when the zygote must not import the app: why, for the log.
NO_PRELOAD = "AIOCLUSTER_ZYGOTE_NO_PRELOAD"

# What the code has given to aiohttp's run_app, where that is so.
ZYGOTE_CALLED = "AIOCLUSTER_ZYGOTE_CALLED"

# Set when the app is known to be a job.
ZYGOTE_JOB = "AIOCLUSTER_ZYGOTE_JOB"

# Seconds that a zygote has to end, once its socket is closed, while it still imports: a little more
# than it takes at most to end what the import has started (zygote/ends.py). It may be deep in C,
# where no signal interrupts it, and is killed then.
STOP_IMPORT_TIMEOUT = 3.5


# Enters the folder of the first argument, and executes the others there.
_ENTER = "import os, sys; os.chdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"


class CannotStart(BootError):
    """A new interpreter that can never be started, now or later."""


@dataclass(frozen=True, slots=True)
class StartedZygote:
    """A process that is to be a zygote: its pid, our end of its socket, what it writes."""

    pid: int
    sock: socket.socket
    tail: StderrTail | None = None

    def __post_init__(self) -> None:
        keep_from_children(self.sock)

    def end_import(self) -> None:
        """End it while it may still import, for ever perhaps, and has no workers yet."""
        self.sock.close()
        if not is_reaped_within(self.pid, STOP_IMPORT_TIMEOUT):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@dataclass(frozen=True, slots=True)
class InterpreterSpec:
    """How to start a new interpreter that becomes a zygote."""

    arguments: list[str]
    fds: list[int] = field(default_factory=list)
    call: int = 1
    role: str = ONLY_ROLE
    # In a process group of its own, by which its orphans can be told from others; and a
    # terminal's Ctrl-C then reaches only the program, which knows what it means.
    own_group: bool = False
    # In which it is started; None: in whatever is the current one then.
    folder: str | None = None
    # Why it cannot be started; then every attempt is a CannotStart.
    refusal: str = ""

    async def start_zygote(self) -> StartedZygote:
        """Start it. Until it is a zygote we read its standard error, if we have one ourselves.

        CannotStart when it can never be, OSError when it cannot be now.
        """
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
                # None of them may end it before it knows that they are the primary's.
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
        """Put it in the place of this process; OSError, and nothing has changed, if that fails."""
        self._command()  # which says whether it can be started
        # By a descriptor: the folder may be gone. Where none is to be had no program could start.
        here = os.open(".", os.O_PATH)
        try:
            if self.folder is not None:
                os.chdir(self.folder)
            os.execve(self.arguments[0], self.arguments, self._environment(variables))
        finally:
            os.fchdir(here)
            os.close(here)

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

    def _command(self) -> list[str]:
        """Return the arguments that start it in its folder."""
        if self.refusal:
            raise CannotStart(f"this program cannot be run again: {self.refusal}")
        if self.folder is None or _is_here(self.folder):
            return self.arguments
        if not os.path.isdir(self.folder):
            raise NotADirectoryError(ENOTDIR, "the program's folder is gone", self.folder)
        # Without site, which no line of this needs: 10 ms.
        return [self.arguments[0], "-I", "-S", "-c", _ENTER, self.folder, *self.arguments]

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        # As a shell does: by its real path alone the folder is not known to lie behind a link.
        folder = {} if self.folder is None else {"PWD": self.folder}
        return {**os.environ, **folder, **variables}

    def of(self, role: str) -> "InterpreterSpec":
        """Return the one that becomes a zygote of this role."""
        return replace(self, role=role)


def _is_here(folder: str) -> bool:
    try:
        return os.path.samefile(folder, ".")
    except OSError:
        return False


def _stderr_pipe(
    opened: contextlib.ExitStack, unused: contextlib.ExitStack
) -> tuple[dict[int, int], int]:
    """Return what a child shall have as which descriptor, and our end of the pipe, or -1.

    Its standard error is the pipe; ours it gets under another number, to put back later.
    What only the child needs goes to `opened`, our end to `unused`.
    """
    try:
        real = os.dup(2)
    except OSError:  # it is closed
        return {}, -1
    opened.callback(os.close, real)
    tail, pipe = os.pipe2(os.O_CLOEXEC)
    opened.callback(os.close, pipe)
    unused.callback(os.close, tail)
    return {2: pipe, real: real}, tail

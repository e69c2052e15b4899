"""Checks in a child process that the program, as it is now on the disk, still starts.

The child does all that a program does before it forks or binds anything, reports, and exits.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Collection

import msgspec
from msgspec import Struct

from aiocluster.errors import BootError
from aiocluster.ipc.handover import RECORD
from aiocluster.ipc.messages import PROTOCOL
from aiocluster.launch.interpreter import CannotStart, InterpreterSpec
from aiocluster.launch.stderr_tail import StderrTail
from aiocluster.timeouts import running_timeout

# The child's task, in its environment: "trial", which call of `run`, the descriptor to report to.
SUCCESSION = "AIOCLUSTER_SUCCESSION"

_READ_BYTES = 64 * 1024

# Seconds that the kernel may take to end a killed child.
_EXIT_TIMEOUT = 5.0


class PreflightResult(Struct, frozen=True):
    """The child's report. Other versions read it: fields may be added, none may be removed."""

    record: int
    protocol: int
    cause: str = ""  # why the program does not start
    traceback: str = ""
    roles: list[str] = []


async def try_out(program: InterpreterSpec, boot_timeout: float, roles: Collection[str]) -> None:
    """Start the program as a child that only checks; BootError, with the cause, if it fails.

    It also fails if the program's roles have changed, or the program cannot be run again.
    """
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        pid, tail = program.spawn([theirs], {SUCCESSION: f"trial:{program.call}:{theirs}"})
    except CannotStart:
        os.close(ours)
        raise
    except OSError as error:
        os.close(ours)
        raise BootError(f"no new interpreter could be started: {error}") from error
    finally:
        os.close(theirs)
    trial = _watched(pid, ours, tail)
    try:
        async with running_timeout(boot_timeout):
            await trial.dead.wait()
        trial.judge(roles)
    except TimeoutError:
        raise BootError(
            f"the new program took longer than {boot_timeout:g} s to start (boot_timeout)"
        ) from None
    finally:
        await trial.close()


def _watched(pid: int, answers: int, tail: StderrTail | None) -> "_Preflight":
    try:
        return _Preflight(pid, os.pidfd_open(pid), answers, tail)
    except OSError as error:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(answers)
        if tail is not None:
            tail.close()
        raise BootError(f"the new program could not be watched: {error}") from error


class _Preflight:
    """A child that checks the program, and its report."""

    def __init__(self, pid: int, pidfd: int, answers: int, tail: StderrTail | None) -> None:
        self.dead = asyncio.Event()
        self._pid, self._pidfd = pid, pidfd
        self._answers, self._answer = answers, b""
        self._tail = tail
        self._loop = asyncio.get_running_loop()
        os.set_blocking(answers, False)
        self._loop.add_reader(answers, self._read)
        self._loop.add_reader(self._pidfd, self._on_dead)

    def judge(self, roles: Collection[str]) -> None:
        """Raise BootError unless the program starts, and can take this one's place."""
        while self._read():
            pass
        try:
            verdict = msgspec.json.decode(self._answer, type=PreflightResult)
        except msgspec.DecodeError:
            raise self._why_no_verdict() from None
        if verdict.cause:
            raise BootError(verdict.cause, verdict.traceback)
        if (verdict.record, verdict.protocol) != (RECORD, PROTOCOL):
            raise BootError(
                f"the new program's aiocluster does not fit this one (record {verdict.record}"
                f" and {RECORD}, protocol {verdict.protocol} and {PROTOCOL}): this update takes"
                " a stop and a start"
            )
        check_roles(verdict.roles, roles)

    async def close(self) -> None:
        """Kill the child if it still runs, and reap it."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EXIT_TIMEOUT):
                    await self.dead.wait()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        for fd in (self._answers, self._pidfd):
            self._loop.remove_reader(fd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, os.WNOHANG)
        os.close(self._answers)
        os.close(self._pidfd)
        if self._tail is not None:
            self._tail.close()

    def _why_no_verdict(self) -> BootError:
        if self._tail is not None:
            self._tail.close()
            if self._tail.cause:
                return BootError(self._tail.cause, self._tail.text, is_shown=True)
        return BootError("the new program ended before it called aiocluster.run")

    def _on_dead(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self.dead.set()

    def _read(self) -> bool:
        try:
            data = os.read(self._answers, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._answers)
        self._answer += data
        return bool(data)


def check_roles(new: Collection[str], old: Collection[str]) -> None:
    """Raise BootError if the new program's roles are not those of the old one's workers."""
    if set(new) != set(old):
        raise BootError(
            f"the new program's roles are {', '.join(sorted(new))} and not"
            f" {', '.join(sorted(old))}: to change them takes a stop and a start"
        )

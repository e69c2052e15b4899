"""A worker's process, seen from the primary: signals, death and exit status.

The primary holds a pidfd of each worker. So it sees a death at once, whatever the parent is, and
never signals a stranger that got the same pid. The exit status comes from the zygote. If the
zygote is gone, the kernel makes the worker a child of the primary, which reaps it.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import Protocol

from aiocluster.primary.processes.exit_status import ExitStatus
from aiocluster.timeouts import running_timeout

# The zygote reports a status a moment after the pidfd shows the death; after this many seconds
# no report will come.
_STATUS_TIMEOUT = 1.0


class Process(Protocol):
    """The interface of a worker's process."""

    @property
    def pid(self) -> int: ...
    @property
    def pidfd(self) -> int: ...
    @property
    def is_dead(self) -> bool: ...
    def send_signal(self, number: int) -> None:
        """Send a signal; do nothing if the process is dead."""
        ...

    def on_death(self, callback: Callable[[], None]) -> None:
        """Call `callback` as soon as the process is dead."""
        ...

    async def wait(self) -> ExitStatus:
        """Wait until the process is dead; return its exit status."""
        ...


class WorkerProcess:
    """A worker's process that a zygote forked."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._loop = asyncio.get_running_loop()
        self._dead = asyncio.Event()
        self._status: asyncio.Future[ExitStatus] = self._loop.create_future()
        self._callbacks: list[Callable[[], None]] = []
        self._loop.add_reader(pidfd, self._on_dead)

    @property
    def is_dead(self) -> bool:
        """True once the process was found dead."""
        return self._dead.is_set()

    def send_signal(self, number: int) -> None:
        """See Process."""
        if self._dead.is_set():
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def on_death(self, callback: Callable[[], None]) -> None:
        """See Process."""
        if self._dead.is_set():
            # The process was found dead in the turn of the loop in which it was returned.
            self._loop.call_soon(callback)
        else:
            self._callbacks.append(callback)

    def on_status(self, callback: Callable[[], None]) -> None:
        """Call `callback` once the exit status is known, or known to be lost."""
        self._status.add_done_callback(lambda _: callback())

    @property
    def is_unreaped(self) -> bool:
        """True if no exit status came: the zombie may still become a child of the primary."""
        return self._status.done() and self._status.result() == ExitStatus(None, None)

    def tell_status(self, status: int) -> None:
        """Set the wait status that the zygote has reported."""
        if not self._status.done():
            self._status.set_result(_exit_status(os.waitstatus_to_exitcode(status)))

    async def wait(self) -> ExitStatus:
        """See Process."""
        await self._dead.wait()
        try:
            async with running_timeout(_STATUS_TIMEOUT):
                while not self._status.done() and not self._reaped():
                    # Either the zygote reports within a millisecond, or it died too and the
                    # kernel needs a moment to make the primary the parent.
                    await asyncio.wait({self._status}, timeout=0.02)
        except TimeoutError:
            if not self._status.done():  # the status may have come in the same turn
                self._status.set_result(ExitStatus(None, None))
        os.close(self.pidfd)
        return self._status.result()

    def _on_dead(self) -> None:
        self._loop.remove_reader(self.pidfd)
        self._dead.set()
        for callback in self._callbacks:
            callback()

    def _reaped(self) -> bool:
        """Reap the process and return True, if the primary is its parent by now."""
        try:
            if os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
            # The zygote, which would end the process group, is dead. The worker is not reaped
            # yet, so no other group can have its number.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        except ChildProcessError:
            return False
        assert result is not None
        by_signal = result.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
        self._status.set_result(_exit_status(-result.si_status if by_signal else result.si_status))
        return True


def _exit_status(code: int) -> ExitStatus:
    return ExitStatus(None, -code) if code < 0 else ExitStatus(code, None)

"""A worker's process, seen from the primary: signalled, watched, and asked how it ended.

The primary holds a pidfd of each worker, so it sees a death at once, whoever the parent is,
and can never signal a stranger that got the same pid. The exit status comes from the
zygote, or, when that is gone, from the worker itself, which the kernel then makes our child.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import Protocol

from aiocluster.primary.processes.exit_status import ExitStatus
from aiocluster.timeouts import running_timeout

# The zygote reports a status a moment after the pidfd says that the worker is dead; after
# this many seconds nobody will tell any more.
_STATUS_TIMEOUT = 1.0


class Process(Protocol):
    """A worker's process."""

    @property
    def pid(self) -> int: ...
    @property
    def pidfd(self) -> int: ...
    @property
    def is_dead(self) -> bool: ...
    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens when it is dead already."""
        ...

    def on_death(self, callback: Callable[[], None]) -> None:
        """Call `callback` as soon as it is dead."""
        ...

    async def wait(self) -> ExitStatus:
        """Wait until it is dead and return how it ended."""
        ...


class WorkerProcess:
    """A process that a zygote forked."""

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
        """True once it is seen to be dead."""
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
            # Seen to be dead in the turn of the loop in which it was handed out.
            self._loop.call_soon(callback)
        else:
            self._callbacks.append(callback)

    def on_status(self, callback: Callable[[], None]) -> None:
        """Call `callback` once it is known how it ended, or that nobody can tell."""
        self._status.add_done_callback(lambda _: callback())

    @property
    def is_unreaped(self) -> bool:
        """True when nobody could tell how it ended: its zygote may leave it to us, still dead."""
        return self._status.done() and self._status.result() == ExitStatus(None, None)

    def tell_status(self, status: int) -> None:
        """The zygote says how it ended."""
        if not self._status.done():
            self._status.set_result(_exit_status(os.waitstatus_to_exitcode(status)))

    async def wait(self) -> ExitStatus:
        """See Process."""
        await self._dead.wait()
        try:
            async with running_timeout(_STATUS_TIMEOUT):
                while not self._status.done() and not self._reaped():
                    # Either the zygote tells within a millisecond, or it died too and the
                    # kernel needs a moment to make us the parent.
                    await asyncio.wait({self._status}, timeout=0.02)
        except TimeoutError:
            if not self._status.done():  # it came in the same turn
                self._status.set_result(ExitStatus(None, None))
        os.close(self.pidfd)
        return self._status.result()

    def _on_dead(self) -> None:
        self._loop.remove_reader(self.pidfd)
        self._dead.set()
        for callback in self._callbacks:
            callback()

    def _reaped(self) -> bool:
        """Take the status ourselves, if we are the parent by now."""
        try:
            if os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
            # The zygote that would end its group is dead. Not reaped yet, it keeps the number.
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

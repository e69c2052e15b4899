"""What a new interpreter writes to standard error before it can talk to us.

A program that ends before it calls `run`, by a syntax error say, or an interpreter that cannot
even import this package, tells why on its standard error and nowhere else. So that is read
here, passed on at once, and its end kept: it becomes the cause of the failure.
"""

import asyncio
import contextlib
import os

# Enough for a traceback; more than one read gives at once.
_KEPT_BYTES = 16 * 1024
_READ_BYTES = 64 * 1024

_STDERR = 2


class StderrTail:
    """The reading end of a pipe that a new interpreter has as its standard error."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._kept = b""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._read)

    def close(self) -> None:
        """Read what is there; then no more. Idempotent."""
        if self._fd < 0:
            return
        while self._read():
            pass
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1

    @property
    def text(self) -> str:
        """The last of what was written."""
        return self._kept.decode(errors="replace")

    @property
    def cause(self) -> str:
        """The last line of it, which of a traceback is the error; or ""."""
        return next((line for line in reversed(self.text.splitlines()) if line.strip()), "")

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._fd)
            return False
        self._kept = (self._kept + data)[-_KEPT_BYTES:]
        with contextlib.suppress(OSError):  # ours may be closed, or full
            os.write(_STDERR, data)
        return True

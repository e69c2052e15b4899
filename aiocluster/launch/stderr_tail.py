"""The standard error of a new interpreter until it can use its socket.

If a program ends before it calls `run`, say by a syntax error, or an interpreter cannot even import
this package, only its standard error has the reason. So that is read here and passed on at once.
Its end is kept, and becomes the cause of the failure.
"""

import asyncio
import contextlib
import os

# Enough for a traceback.
_KEPT_BYTES = 16 * 1024
_READ_BYTES = 64 * 1024

_STDERR = 2


class StderrTail:
    """The reading end of a pipe that is the standard error of a new interpreter."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._kept = b""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._read)

    def close(self) -> None:
        """Read the rest, then close the pipe. Idempotent."""
        if self._fd < 0:
            return
        while self._read():
            pass
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1

    @property
    def text(self) -> str:
        """The end of the text that was written."""
        return self._kept.decode(errors="replace")

    @property
    def cause(self) -> str:
        """The last line of the text, which is the error in a traceback; or ""."""
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
        with contextlib.suppress(OSError):  # our standard error may be closed, or full
            os.write(_STDERR, data)
        return True

"""A real program in its own folder, process group and port, for end-to-end tests.

    async with Program(tmp_path, source) as program:
        url = await program.url()
        ...
        assert await program.stop() == 0

Nothing here waits for time: it waits for a line of output, an answer or an exit, and fails
with all that the program printed when that takes longer than PATIENCE.
"""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

# How long an event may take before a test gives up on it: far above what it takes on a slow
# and busy machine, since a test never waits for this time when all is well.
PATIENCE = 60.0

_URL = re.compile(r"serving on (\S+)")


class Program:
    """A Python program under test. Its output is collected line by line."""

    def __init__(
        self,
        folder: Path,
        source: str = "",
        *,
        command: list[str] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self._command = command or [sys.executable, "program.py"]
        # No bytecode: a module written twice in a second would be taken from the first time.
        ours = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self._env = {**os.environ, **ours, **(env or {})}
        if source:
            (folder / "program.py").write_text(source)
        self._grew = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None

    @property
    def output(self) -> str:
        """All it has printed, standard error included."""
        return "\n".join(self.lines)

    @property
    def pid(self) -> int:
        """The primary's process id."""
        return self._process.pid

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=self.folder,
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=2**22,
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        left: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            left = self.descendants()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await self._process.wait()
        assert self._reader is not None
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        # The transport of a killed process is closed here, not by the collector.
        self._process._transport.close()  # type: ignore[attr-defined]
        if error is not None:
            error.add_note(f"the program printed:\n{self.output}")

    async def start_again(self) -> None:
        """Start the program once more; it has ended."""
        await self.__aexit__(None, None, None)
        await self.__aenter__()

    async def line(self, pattern: str, *, after: int = 0) -> str:
        """Return the first line of output, from line `after` on, in which `pattern` is found."""

        def find() -> str | None:
            return next((text for text in self.lines[after:] if re.search(pattern, text)), None)

        async with asyncio.timeout(PATIENCE), self._grew:
            await self._grew.wait_for(lambda: find() is not None or self._at_end)
        found = find()
        assert found is not None, f"no line matches {pattern!r} in:\n{self.output}"
        return found

    async def url(self) -> str:
        """Return where it serves, once it does."""
        match = _URL.search(await self.line("serving on"))
        assert match is not None
        return match[1]

    def send_signal(self, number: int) -> None:
        """Send a signal to the primary alone."""
        self._process.send_signal(number)

    async def exit_code(self) -> int:
        """Wait until the primary has ended; return its exit code (negative: a signal)."""
        async with asyncio.timeout(PATIENCE):
            return await self._process.wait()

    async def all_output(self) -> str:
        """Wait until nobody can print any more, and return all output."""
        async with asyncio.timeout(PATIENCE), self._grew:
            await self._grew.wait_for(lambda: self._at_end)
        return self.output

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.send_signal(number)
        return await self.exit_code()

    def descendants(self) -> list[psutil.Process]:
        """Return the zygote and the workers."""
        return psutil.Process(self.pid).children(recursive=True)

    def zygote(self) -> psutil.Process:
        """Return the zygote: the primary's child that has the workers as children."""
        (zygote,) = psutil.Process(self.pid).children()
        return zygote

    def workers(self) -> list[psutil.Process]:
        """Return the workers' processes."""
        return self.zygote().children()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while text := await self._process.stdout.readline():
            async with self._grew:
                self.lines.append(text.decode(errors="replace").rstrip("\n"))
                self._grew.notify_all()
        async with self._grew:
            self._grew.notify_all()

    @property
    def _at_end(self) -> bool:
        assert self._process.stdout is not None
        return self._process.stdout.at_eof()

    def write(self, name: str, text: str = "") -> None:
        """Write a file into its folder: a module it imports, or a mark it waits for."""
        (self.folder / name).write_text(text)

    def signal_group(self, number: int, times: int = 1) -> None:
        """Send a signal to all its processes at once, as a service manager does."""
        pids = [self.pid, *(process.pid for process in self.descendants())]
        for pid in pids * times:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def left_behind(self) -> list[psutil.Process]:
        """Return what still runs of all it ever started, orphans too: they share its session."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) == self.pid and is_running(process)
        except ProcessLookupError:
            return False

    async def urls(self) -> list[str]:
        """Return all places where it serves, once it does."""
        line = await self.line("serving on")
        return re.findall(r"http://\S+", line)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition()`, for facts that no event tells (of other processes)."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 (another process will not set our Event)
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(what) from None


def is_running(process: psutil.Process) -> bool:
    """True while a process exists and is no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

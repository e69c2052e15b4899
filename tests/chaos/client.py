"""The load client's process as a test sees it: start it, let it work, hear what it saw."""

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.program import PATIENCE

_REPOSITORY = Path(__file__).parents[2]
# One answer of a lost connection is a line of output; all of them may be many.
_MAX_LINE_BYTES = 2**26


@dataclass(frozen=True, slots=True)
class Seen:
    """What the clients saw, all modes together."""

    modes: dict[str, dict[str, Any]]

    @property
    def failures(self) -> dict[str, int]:
        """How many requests failed, by mode and kind, as in "post reset"."""
        return {
            f"{name} {kind}": count
            for name, mode in self.modes.items()
            for kind, count in mode["failures"].items()
        }

    @property
    def lost(self) -> list[dict[str, Any]]:
        """What is known of each request that failed."""
        return [sample for mode in self.modes.values() for sample in mode["samples"]]

    @property
    def told(self) -> Counter[str]:
        """What the server said in good order."""
        return sum((Counter(mode["told"]) for mode in self.modes.values()), Counter())

    @property
    def answered(self) -> dict[str, int]:
        """How many requests were answered well, by mode."""
        return {name: mode["answered"] for name, mode in self.modes.items()}


class LoadClient:
    """A load client at work."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def each(self, count: int) -> None:
        """Wait until each mode has had `count` further answers."""
        await self._reach(f"each {count}")

    async def some(self, count: int) -> None:
        """Wait until all modes together have had `count` further answers."""
        await self._reach(f"some {count}")

    async def stop(self) -> Seen:
        """Let it end what it has begun; return what it saw."""
        await self._say("stop")
        while "modes" not in (line := await self._line(2 * PATIENCE)):
            pass
        return Seen(line["modes"])

    async def _reach(self, line: str) -> None:
        await self._say(line)
        try:
            assert await self._line(PATIENCE) == {"reached": line}
        except TimeoutError:
            raise AssertionError(f"not reached: {line}; {await self.stop()}") from None

    async def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    async def _line(self, patience: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(patience):
            text = await self._process.stdout.readline()
        assert text, "the load client has ended; its standard error says why"
        line: dict[str, Any] = json.loads(text)
        return line


@contextlib.asynccontextmanager
async def load_on(
    url: str, connections: Mapping[str, int], seed: int, **config: Any
) -> AsyncIterator[LoadClient]:
    """Start the load client, and end it whatever happens."""
    given = {"url": url, "connections": dict(connections), "seed": seed, "timeout": PATIENCE}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.load", json.dumps(given | config)),
        cwd=_REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_MAX_LINE_BYTES,
    )
    try:
        yield LoadClient(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        # The transport of a killed process is closed here, not by the collector.
        process._transport.close()  # type: ignore[attr-defined]

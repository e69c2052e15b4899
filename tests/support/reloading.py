"""A program whose code changes while it runs."""

import asyncio
import json
import re
import signal
from pathlib import Path

from tests.support.program import PATIENCE, Program
from tests.support.wire import Wire

# The app is in a module beside the program; `/` tells version and pid, `/hold` answers when
# there is a file "release".
MODULE = """
import asyncio, os, pathlib, time
from aiohttp import web

VERSION = {version}

async def who(request):
    return web.json_response([VERSION, os.getpid()])

async def hold(request):
    pathlib.Path(f"holding{{VERSION}}").touch()
    while not pathlib.Path("release").exists():
        await asyncio.sleep(0.01)
    return web.Response(text="held")

async def crash(request):
    os._exit(7)

def make_app():
    app = web.Application()
    app.router.add_get("/", who)
    app.router.add_get("/hold", hold)
    app.router.add_get("/crash", crash)
    return app

{extra}
"""

PROGRAM = """
import aiocluster
{extra}
if __name__ == "__main__":
    aiocluster.run({app}, bind="127.0.0.1:0", **{settings})
"""


class Deployment(Program):
    """A program, and the version of its code that lies on the disk."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self._settings = {"workers": 2, "min_uptime": 0.1, **settings}
        self.app = '"code:make_app"'
        super().__init__(folder)
        self.break_program("")
        self.release_code(1)

    def release_code(self, version: int, extra: str = "") -> None:
        """Put another version of the app on the disk."""
        self.write("code.py", MODULE.format(version=version, extra=extra))

    def break_program(self, extra: str) -> None:
        """Put another version of the program itself on the disk."""
        self.write("program.py", PROGRAM.format(app=self.app, settings=self._settings, extra=extra))

    async def who(self) -> tuple[int, int]:
        """Return the version and the pid that answer one new connection."""
        async with Wire(await self.url()) as wire:
            version, pid = json.loads((await wire.get()).body)
            return version, pid

    async def serving(self) -> set[tuple[int, int]]:
        """Return the versions and pids of the two workers that serve."""
        found: set[tuple[int, int]] = set()
        async with asyncio.timeout(PATIENCE):
            while len(found) < 2:
                found.add(await self.who())
        return found

    async def until_exists(self, name: str) -> None:
        """Wait for a file in its folder."""
        async with asyncio.timeout(PATIENCE):
            while not (self.folder / name).exists():  # noqa: ASYNC110 (another process makes it)
                await asyncio.sleep(0.01)

    async def reloaded(self, generation: int) -> None:
        """Wait until this generation serves."""
        await self.line(f"generation {generation} serves")

    async def fails_to_reload(self) -> str:
        """Reload, which must change nothing; return the line that says why."""
        after = len(self.lines)
        self.send_signal(signal.SIGHUP)
        return await self.line("is given up, nothing has changed", after=after)

    def pids(self, pattern: str) -> list[int]:
        """Return the pids in the lines of output that match."""
        found = (re.search(rf"\(pid (\d+)\) {pattern}", line) for line in self.lines)
        return [int(match[1]) for match in found if match is not None]

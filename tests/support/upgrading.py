"""A program that upgrades itself while clients, messages and snapshots go on."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from tests.support.program import PATIENCE, Program
from tests.support.wire import Wire

# `/` tells the pid, `/hold` answers when there is a file "release", `/said` tells what the
# primary has sent to this worker. Each worker sends numbers without a pause while there is a file
# "talk", and subscribes to snapshots. The primary sends numbers unless there is a file "pause".
APP = """
import asyncio, itertools, json, os, pathlib
from aiohttp import web
import aiocluster

said, uptimes = [], []

async def pid(request):
    return web.Response(text=str(os.getpid()))

async def hold(request):
    pathlib.Path("holding").touch()
    while not pathlib.Path("release").exists():
        await asyncio.sleep(0.01)
    return web.Response(text="held")

async def heard(request):
    return web.json_response([said, uptimes])

async def talk(app):
    worker = aiocluster.current_worker()

    async def send():
        while not pathlib.Path("talk").exists():
            await asyncio.sleep(0.01)
        for number in itertools.count():
            last = not pathlib.Path("talk").exists()
            await worker.send([number, "x" * 500, last])
            if last:
                return

    async def listen():
        async for message in worker.messages():
            said.append(message)

    async def subscribe():
        async for snapshot in worker.subscribe(0.05):
            uptimes.append(snapshot.total.uptime)

    tasks = [asyncio.create_task(one()) for one in (send, listen, subscribe)]
    yield
    for task in tasks:
        task.cancel()

def make_app():
    app = web.Application()
    app.router.add_route("*", "/", pid)
    app.router.add_get("/hold", hold)
    app.router.add_get("/heard", heard)
    app.cleanup_ctx.append(talk)
    return app
"""

# Tells what it hears in files, one line an event; sends numbers to every worker, and goes on
# where the program before had got to.
HOOK = """
import asyncio, itertools, json, os, pathlib
import aiocluster

files = {}

def write(name, *what):
    if name not in files:
        files[name] = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(files[name], json.dumps(what).encode() + b"\\n")

async def on_start(cluster):
    cluster.on(aiocluster.Event, lambda event: write("events", type(event).__name__))
    cluster.on(
        aiocluster.WorkerMessage,
        lambda event: write("messages", event.worker.id, event.message[0], event.message[2]),
    )
    asyncio.get_running_loop().create_task(snapshots(cluster))
    begun = pathlib.Path("sent").read_text().count("\\n") if pathlib.Path("sent").exists() else 0
    for number in itertools.count(begun):
        await asyncio.sleep(0.002)
        while pathlib.Path("pause").exists():
            await asyncio.sleep(0.002)
        if not await cluster.broadcast(number):
            return
        write("sent", number)

async def snapshots(cluster):
    async for snapshot in cluster.subscribe(0.05):
        total = snapshot.total
        write("totals", total.requests_total, total.connections_total, total.restarts, total.uptime)
"""

PROGRAM = """
import aiocluster
MORE = {{}}
{extra}
if __name__ == "__main__":
    aiocluster.run({app}, on_start={on_start}, **{{**{settings}, **MORE}})
"""


class Upgradable(Program):
    """A program, and the version of it that lies on the disk."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.settings: dict[str, Any] = {"workers": 2, "bind": "127.0.0.1:0", "min_uptime": 0.1}
        self.settings |= settings
        self.app, self.on_start = '"app:make_app"', '"hook:on_start"'
        self._told: dict[str, tuple[int, list[Any]]] = {}  # by file: the bytes read, the lines
        super().__init__(folder, " ")
        self.write("app.py", APP)
        self.write("hook.py", HOOK)
        self.release()

    def release(self, extra: str = "", **settings: object) -> None:
        """Put another version of the program on the disk."""
        given = self.settings | settings
        text = PROGRAM.format(app=self.app, on_start=self.on_start, settings=given, extra=extra)
        self.write("program.py", text)

    async def upgrade(self) -> None:
        """Upgrade, and wait until the new program goes on."""
        after = len(self.lines)
        self.send_signal(signal.SIGRTMIN)
        await self.line("this program goes on with", after=after)

    async def fails_to_upgrade(self) -> str:
        """Try to upgrade; return the line that says why it failed."""
        after = len(self.lines)
        self.send_signal(signal.SIGRTMIN)
        return await self.line("upgrade: it is given up, nothing has changed", after=after)

    async def who(self) -> int:
        """Return the pid that answers one new connection."""
        async with Wire(await self.url()) as wire:
            return int((await wire.get()).body)

    async def until_exists(self, name: str) -> None:
        """Wait for a file in its folder."""
        async with asyncio.timeout(PATIENCE):
            while not (self.folder / name).exists():  # noqa: ASYNC110 (another process makes it)
                await asyncio.sleep(0.01)

    def pids(self) -> set[int]:
        """Return those of the workers."""
        return {worker.pid for worker in self.workers()}

    def told(self, name: str) -> list[Any]:
        """Return what the hook has written to a file."""
        read, lines = self._told.get(name, (0, []))
        if (self.folder / name).exists():
            with open(self.folder / name, "rb") as file:
                file.seek(read)
                # The hook writes whole lines.
                lines += [json.loads(line) for line in file]
                self._told[name] = file.tell(), lines
        return lines

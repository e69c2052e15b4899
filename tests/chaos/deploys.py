"""A program whose code is deployed anew while it runs, well or badly.

    async with deployed(tmp_path, dice) as scene:
        assert await deploy(scene, shop(2)) == "ok"

The program reloads when a file asks for it, and writes what came of it into another.
"""

import contextlib
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.scene import CONNECTIONS, WORKERS, Scene, program_of, under_load
from tests.support.program import until
from tests.support.wire import Wire

# The module that is deployed: the app of the chaos runs, and which version of it answers.
_SHOP = """
{before}
import asyncio, os
from aiohttp import web
from tests.chaos.app import make_app as make_chaos_app

async def version(request):
    return web.Response(text="{version}")

async def make_app():
    {in_factory}
    app = make_chaos_app()
    app.router.add_get("/version", version)
    {at_end}
    return app
"""

_RELOADING = """
import asyncio, itertools, os
from shop import make_app

async def reload_when_asked(cluster):
    await tell(cluster)
    for number in itertools.count():
        while not os.path.exists(f"reload{number}"):
            await asyncio.sleep(0.01)
        try:
            await cluster.reload()
            outcome = "ok"
        except aiocluster.ClusterError as error:
            outcome = repr(error)
        with open("outcome.new", "w") as file:
            file.write(outcome)
        os.rename("outcome.new", f"outcome{number}")
"""


def shop(version: int, *, before: str = "", in_factory: str = "pass", at_end: str = "pass") -> str:
    """Return the source of a version of the app; what is given goes wrong at that place."""
    return _SHOP.format(version=version, before=before, in_factory=in_factory, at_end=at_end)


@contextlib.asynccontextmanager
async def deployed(
    folder: Path,
    dice: Random,
    *,
    connections: Mapping[str, int] = CONNECTIONS,
    **settings: Any,
) -> AsyncIterator[Scene]:
    """Version 1 of the shop under load."""
    (folder / "shop.py").write_text(shop(1))
    program = program_of(folder, more=_RELOADING, on_start="reload_when_asked", **settings)
    async with under_load(folder, dice, connections=connections, program=program) as scene:
        yield scene


async def deploy(scene: Scene, source: str, file: str = "shop.py") -> str:
    """Write the new code and ask for a reload; return what came of it."""
    scene.program.write(file, source)
    number = len([*scene.program.folder.glob("reload*")])
    outcome = scene.program.folder / f"outcome{number}"
    scene.program.write(f"reload{number}")
    await until(outcome.exists, f"reload {number} has not ended")
    return outcome.read_text()


async def hup(scene: Scene) -> None:
    """Reload by HUP; return when nobody of before is left."""
    before = {worker.pid for worker in scene.workers()}
    scene.program.send_signal(signal.SIGHUP)
    await until(lambda: _is_replaced(scene, before), "the old workers live on")


async def versions(scene: Scene) -> set[str]:
    """Return the versions that answer now."""
    answers = set()
    for _ in range(4 * WORKERS):
        async with Wire(scene.url) as wire:
            answers.add((await wire.get("/version")).body.decode())
    return answers


def _is_replaced(scene: Scene, before: set[int]) -> bool:
    now = {worker.pid for worker in scene.workers()}
    return len(now) >= WORKERS and not now & before

"""An aiohttp of which a private attribute has another name: it serves, and nothing is lost."""

import asyncio
import json
import shutil
import signal
from pathlib import Path

import aiohttp

from tests.support.program import PATIENCE, until
from tests.support.reloading import Deployment
from tests.support.wire import Wire

# Clients that ask without a pause, each on one connection after the other.
ASKING = 8


def rename_in_aiohttp(folder: Path, name: str) -> None:
    """Put a copy of aiohttp beside the program, with another name for this attribute."""
    package = Path(aiohttp.__file__).parent
    shutil.copytree(package, folder / "aiohttp", ignore=shutil.ignore_patterns("__pycache__"))
    for module in (folder / "aiohttp").glob("*.py"):
        module.write_text(module.read_text().replace(name, f"{name}_renamed"))


async def test_a_reload_loses_no_request_on_connections_of_their_own(tmp_path: Path) -> None:
    """Counted and drained as ever; a kept-alive connection closes with its next response."""
    rename_in_aiohttp(tmp_path, "_message_tail")
    async with Deployment(tmp_path) as program:
        url = await program.url()
        warning = await program.line("is not known")
        assert f"aiohttp {aiohttp.__version__} is not known (no RequestHandler._message" in warning
        await program.serving()
        stop = asyncio.Event()
        asking = [asyncio.create_task(_ask_on(url, stop)) for _ in range(ASKING)]
        async with Wire(url) as kept:
            before = json.loads((await kept.get()).body)
            program.release_code(2)
            program.send_signal(signal.SIGHUP)
            await program.reloaded(2)
            answer = await kept.get()
            assert json.loads(answer.body) == before
            assert answer.headers["connection"] == "close"
            assert await kept.rest() == b""
        await until(lambda: len(program.descendants()) == 3, "the old ones are gone")
        stop.set()
        async with asyncio.timeout(PATIENCE):
            answered = await asyncio.gather(*asking)

        assert answered == [[1, 2]] * ASKING
        assert await program.stop() == 0
        output = await program.all_output()
    # One warning a generation, however many workers it has.
    assert output.count("is not known") == 2
    assert "Traceback" not in output


async def _ask_on(url: str, stop: asyncio.Event) -> list[int]:
    """Ask until `stop`, on a connection a request; return the versions that answered."""
    versions: set[int] = set()
    while not stop.is_set():
        async with Wire(url) as wire:
            response = await wire.get()
            assert response.status == 200
            versions.add(json.loads(response.body)[0])
    return sorted(versions)

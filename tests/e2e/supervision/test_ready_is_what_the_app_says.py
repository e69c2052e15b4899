"""With ready="explicit" a worker gets connections only once its own code says that it may."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.program import Program, until
from tests.support.wire import Wire

SOURCE = """
import asyncio, os, threading, time
from aiohttp import web
import aiocluster

def say(what):
    os.write(1, f"{{what}}\\n".encode())

async def who(request):
    return web.Response(text=str(aiocluster.current_worker().id))

def be_ready():
    say("calls ready")
    aiocluster.current_worker().ready()
    aiocluster.current_worker().ready()

async def on_startup(app):
    be_ready()

async def in_a_task(app):
    async def later():
        say("started")
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
        be_ready()
    app[TASK] = asyncio.create_task(later())

async def in_a_thread(app):
    def later():
        say("started")
        while not os.path.exists("go"):
            time.sleep(0.01)
        be_ready()
    threading.Thread(target=later, daemon=True).start()

async def never(app):
    say("started")

TASK = web.AppKey("task", asyncio.Task)

def make_app():
    app = web.Application()
    app.router.add_get("/", who)
    app.on_startup.append({how})
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, bind="127.0.0.1:0", **{settings!r})
"""


def program_of(folder: Path, how: str, **settings: Any) -> Program:
    settings = {"workers": 1, "ready": "explicit", **settings}
    return Program(folder, SOURCE.format(how=how, settings=settings))


@pytest.mark.parametrize("ready", ["explicit", "auto"])
async def test_it_may_be_said_while_the_app_starts(tmp_path: Path, ready: str) -> None:
    """Twice is once; and where nobody asks for it, it changes nothing."""
    async with program_of(tmp_path, "on_startup", ready=ready, workers=2) as program:
        async with Wire(await program.url()) as wire:
            assert (await wire.get()).status == 200
        assert await program.stop() == 0


@pytest.mark.parametrize("how", ["in_a_task", "in_a_thread"])
async def test_it_may_be_said_later(tmp_path: Path, how: str) -> None:
    """From a task or a thread; until then nobody can connect."""
    async with program_of(tmp_path, how) as program:
        await program.line("started")
        assert "is ready" not in program.output
        program.write("go")

        async with Wire(await program.url()) as wire:
            assert (await wire.get()).body == b"1"

        lines = [line for line in program.lines if "calls" in line or "is ready" in line]
        assert lines[0] == "calls ready"
        assert await program.stop() == 0


async def test_one_that_never_says_it_has_failed_to_start(tmp_path: Path) -> None:
    """After boot_timeout, as for any start."""
    async with program_of(tmp_path, "never", boot_timeout=10) as program:
        assert await program.exit_code() == 3
        assert "was not ready after 10 s (boot_timeout)" in await program.all_output()
        assert program.left_behind() == []


async def test_a_stop_does_not_wait_for_it(tmp_path: Path) -> None:
    """Nothing had begun, so the end is a clean one."""
    async with program_of(tmp_path, "never") as program:
        await program.line("started")
        assert await program.stop() == 0
        await until(lambda: program.left_behind() == [], "a process is left behind")

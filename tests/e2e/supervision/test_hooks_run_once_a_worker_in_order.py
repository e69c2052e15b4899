"""The app's hooks, as under `web.run_app`, in each worker."""

import signal
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.program import Program

SOURCE = """
import os
from aiohttp import web
import aiocluster

def say(what):
    os.write(1, f"hook {os.getpid()} {what}\\n".encode())

def hook(name):
    async def run(app):
        say(name)
    return run

async def context(app):
    say("context begins")
    yield
    say("context ends")

async def make_app():
    say("factory")
    sub = web.Application()
    sub.on_startup.append(hook("startup of sub"))
    sub.on_cleanup.append(hook("cleanup of sub"))
    app = web.Application()
    app.add_subapp("/sub", sub)
    app.cleanup_ctx.append(context)
    app.on_startup.append(hook("startup"))
    app.on_shutdown.append(hook("shutdown"))
    app.on_cleanup.append(hook("cleanup"))
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=3, bind="127.0.0.1:0")
"""

# The order that aiohttp's own `web.run_app` has.
IN_ORDER = [
    "factory",
    "context begins",
    "startup of sub",
    "startup",
    "shutdown",
    "context ends",
    "cleanup of sub",
    "cleanup",
]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_hooks_run_once_a_worker_in_order(tmp_path: Path, number: signal.Signals) -> None:
    """Each worker runs every hook exactly once, in aiohttp's order, after TERM as after INT."""
    async with Program(tmp_path, SOURCE) as program:
        await program.url()
        workers = {worker.pid for worker in program.workers()}
        assert await program.stop(number) == 0
        await program.all_output()
        assert program.left_behind() == []

    said = defaultdict(list)
    for line in program.lines:
        if line.startswith("hook "):
            _, pid, what = line.split(" ", 2)
            said[int(pid)].append(what)
    assert said == dict.fromkeys(workers, IN_ORDER)

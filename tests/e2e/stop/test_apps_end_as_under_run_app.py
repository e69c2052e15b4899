"""What an app may rely on at its end, and for its logging, from the command line."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.support.cluster import ask
from tests.support.program import Program

APP = """
import asyncio, logging, sys, threading
from contextvars import ContextVar
from aiohttp import web

logging.basicConfig(filename="app.log", level=logging.INFO, format="APP %(name)s %(message)s")
REGION = ContextVar("region")
go = threading.Event()

async def region(app):
    token = REGION.set("eu")
    yield
    REGION.reset(token)
    print("region reset", flush=True)

async def polling(app):
    async with asyncio.TaskGroup() as app["group"]:
        yield

async def poller(app):
    task = asyncio.create_task(asyncio.sleep(3600))
    yield
    task.cancel()
    await task

async def hello(request):
    return web.Response(text=REGION.get())

async def held(request):
    print("held", flush=True)
    await request.app["go"].wait()
    return web.Response(text="answered")

def leave(app, error):
    app["go"].set()
    raise error

async def exit(request):
    code = request.query["code"]
    error = SystemExit(int(code)) if code else web.GracefulExit()
    asyncio.get_running_loop().call_soon(leave, request.app, error)
    return web.Response(text="soon")

async def fail(request):
    raise LookupError("no such price")

async def child():
    raise LookupError("a child has failed")

async def fail_group(request):
    request.app["group"].create_task(child())
    return web.Response(text="soon")

def flush():
    threading.Event().wait(0.3)
    print("flushed", flush=True)

async def start_flush(app):
    threading.Thread(target=flush).start()

def make_app():
    app = web.Application()
    app["go"] = asyncio.Event()
    app["group"] = None
    app.cleanup_ctx.extend([region, polling, poller])
    app.on_cleanup.append(start_flush)
    for name, handler in {
        "": hello, "held": held, "exit": exit, "fail": fail, "group": fail_group
    }.items():
        app.router.add_get(f"/{name}", handler)
    return app
"""


@pytest.fixture
def program(tmp_path: Path) -> Program:
    (tmp_path / "shop.py").write_text(APP)
    command = [sys.executable, "-m", "aiocluster", "run", "shop:make_app", "-w", "1"]
    return Program(tmp_path, command=[*command, "-b", "127.0.0.1:0"])


@pytest.mark.parametrize(("code", "end"), [("", "code 0 .exit"), ("7", "code 7 .crash")])
async def test_an_exit_drains_its_worker_which_is_replaced(
    program: Program, code: str, end: str
) -> None:
    """The request that runs is answered, the hooks run, its threads end; the cluster serves on."""
    async with program:
        url = (await program.url()).rstrip("/")
        asked = asyncio.create_task(ask(url, "/held"))
        await program.line("held")

        await ask(url, f"/exit?code={code}")

        assert await asked == "answered"
        await program.line(f"worker 1 .* exited with {end}")
        assert {"region reset", "flushed"} <= {*program.lines}
        assert await ask(url) == "eu"
        assert await program.stop() == 0
        await program.all_output()
        assert program.lines.count("flushed") == 2


async def test_a_group_whose_task_fails_ends_its_worker_with_1(program: Program) -> None:
    """And the app's own log has the traceback of that task, as that of a handler."""
    async with program:
        url = (await program.url()).rstrip("/")
        assert "500" in await ask(url, "/fail")

        await ask(url, "/group")

        await program.line("worker 1 .* exited with code 1 .crash")
        said = (program.folder / "app.log").read_text()
        assert said.count("LookupError: a child has failed") == 1
        assert said.count("LookupError: no such price") == 1
        assert "APP aiohttp.server Error handling request" in said
        assert "LookupError" not in program.output
        assert "region reset" in program.lines
        assert await ask(url) == "eu"
        assert await program.stop() == 0

"""Whatever `on_start` does, the program can be stopped, and leaves nothing behind."""

import signal
from pathlib import Path

import pytest

from tests.support.program import Program
from tests.support.wire import Wire

SOURCE = """
import asyncio, multiprocessing, os, sys, time
from aiohttp import web
import aiocluster

async def swallow(cluster):
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass

async def thread(cluster):
    await asyncio.to_thread(time.sleep, 1000)

async def leave(cluster):
    await asyncio.sleep(0)
    sys.exit(4)

async def leave_from_callback(cluster):
    cluster.on(aiocluster.WorkerMessage, lambda event: sys.exit(4))

async def fork(cluster):
    context = multiprocessing.get_context("fork")
    child = context.Process(target=time.sleep, args=(1000,))
    child.start()
    child.terminate()
    await asyncio.to_thread(child.join)
    print("the child ended with", child.exitcode, flush=True)
    if os.fork() == 0:
        sys.exit(5)  # which would end the program
    context.Process(target=time.sleep, args=(1000,), daemon=True).start()
    os.wait()
    print("another one ended, and one lives", flush=True)

async def hello(request):
    await aiocluster.current_worker().send("asked")
    return web.Response(text="hello")

def make_app():
    app = web.Application()
    app.router.add_get("/", hello)
    return app

if __name__ == "__main__":
    hook = globals()[sys.argv[1]]
    aiocluster.run(make_app, workers=2, bind="127.0.0.1:0", on_start=hook)
"""


def program(folder: Path, hook: str) -> Program:
    made = Program(folder, SOURCE)
    made._command.append(hook)
    return made


@pytest.mark.parametrize(
    ("hook", "told"),
    [
        ("swallow", "on_start does not end though it was cancelled"),
        ("thread", "tasks or threads that on_start left do not end"),
    ],
)
async def test_one_that_does_not_end_is_left_and_told(tmp_path: Path, hook: str, told: str) -> None:
    """The workers have finished by then; the exit code says that something was given up."""
    async with program(tmp_path, hook) as running:
        await running.url()
        assert await running.stop() == 1
        assert told in await running.all_output()
        assert running.left_behind() == []


async def test_one_that_exits_stops_the_program_as_a_signal_does(tmp_path: Path) -> None:
    """With its code, and without a traceback."""
    async with program(tmp_path, "leave") as running:
        assert await running.exit_code() == 4
        output = await running.all_output()
        assert running.left_behind() == []

    assert "on_start exits the program with code 4" in output
    assert "stopping, within 33 s" in output
    assert "Traceback" not in output


async def test_a_callback_that_exits_is_logged_and_hurts_nobody(tmp_path: Path) -> None:
    """A callback is not the program's."""
    async with program(tmp_path, "leave_from_callback") as running:
        url = await running.url()
        for _ in range(2):
            async with Wire(url) as wire:
                assert (await wire.get()).body == b"hello"
            await running.line("a callback for WorkerMessage raised")
        assert await running.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
async def test_one_that_is_imported_for_ever_can_be_interrupted(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Nothing serves yet, so there is nothing to wait for."""
    (tmp_path / "own.py").write_text(
        "import sys, time\nprint('importing', flush=True)\ntime.sleep(1000)\n"
    )
    source = SOURCE.replace("hook = globals()[sys.argv[1]]", 'hook = "own:hook"')
    async with Program(tmp_path, source) as running:
        await running.line("importing")
        assert await running.stop(number) == 0
        assert "Traceback" not in await running.all_output()
        assert running.left_behind() == []


async def test_a_child_that_on_start_forks_ends_alone(tmp_path: Path) -> None:
    """TERM or its own exit ends it, and not the program, which serves on; a stop ends the rest."""
    async with program(tmp_path, "fork") as running:
        await running.line("the child ended with -15")
        await running.line("another one ended, and one lives")
        async with Wire(await running.url()) as wire:
            assert (await wire.get()).body == b"hello"
        assert await running.stop() == 0
        assert running.left_behind() == []

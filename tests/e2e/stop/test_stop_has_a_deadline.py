"""What does not end by itself is ended, named, and told by the exit code."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.support.program import Program
from tests.support.wire import Wire

SOURCE = """
import asyncio, os, time
from aiohttp import web
import aiocluster

def say(what):
    os.write(1, f"{{what}} {{os.getpid()}}\\n".encode())

async def wait(request):
    say("waiting")
    await asyncio.Event().wait()

async def block(request):
    say("blocking")
    time.sleep(1000)

async def refuse_to_end(request):
    say("refusing")
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass

async def hang(app):
    if os.path.exists("hang"):
        await asyncio.Event().wait()

def make_app():
    app = web.Application()
    app.add_routes([
        web.get("/wait", wait), web.get("/block", block), web.get("/refuse", refuse_to_end)
    ])
    app.on_shutdown.append(hang)
    return app

if __name__ == "__main__":
    aiocluster.run(
        make_app, workers=2, bind="127.0.0.1:0", graceful_timeout={graceful_timeout}
    )
"""

# Nobody waits for the end of this one: who waits for it fails by the test's own patience.
LONG = 1000


async def begin(program: Program, wire: Wire, path: str, said: str) -> str:
    """Send a request; return the name of the worker that has begun it, as the log has it."""
    await wire.ask(path)
    pid = (await program.line(said)).split()[-1]
    line = await program.line(rf"worker \d+ \(pid {pid}\) is ready")
    return line[line.index("worker ") :].removesuffix(" is ready")


@pytest.mark.parametrize(
    ("path", "said", "named"),
    [
        ("/wait", "waiting", "GET /wait from 127.0.0.1"),
        ("/block", "blocking", "was killed before it had ended"),
        ("/refuse", "refusing", "GET /refuse from 127.0.0.1"),
    ],
)
async def test_what_does_not_end_is_cut_and_named(
    tmp_path: Path, path: str, said: str, named: str
) -> None:
    """After graceful_timeout the worker and its request are in the log; the exit code is 1."""
    async with Program(tmp_path, SOURCE.format(graceful_timeout=1)) as program:
        async with Wire(await program.url()) as wire:
            worker = await begin(program, wire, path, said)
            assert await program.stop() == 1
        output = await program.all_output()
        assert program.left_behind() == []

    (line,) = [line for line in output.splitlines() if worker in line and named in line]
    assert "WARNING" in line
    assert f"{worker} could not finish" in output
    assert output.count("could not finish") == 1  # the other worker had nothing to finish


async def test_a_hook_that_does_not_end_is_cut_and_named(tmp_path: Path) -> None:
    """An on_shutdown that hangs does not hold the stop up beyond graceful_timeout."""
    async with Program(tmp_path, SOURCE.format(graceful_timeout=1)) as program:
        await program.url()
        program.write("hang")
        assert await program.stop() == 1
        assert "cut: the on_shutdown hooks" in await program.all_output()
        assert program.left_behind() == []


@pytest.mark.parametrize(
    ("path", "said"), [("/wait", "waiting"), ("/block", "blocking"), ("/refuse", "refusing")]
)
async def test_a_second_int_ends_it_at_once(tmp_path: Path, path: str, said: str) -> None:
    """Who presses Ctrl-C again does not want to wait, whatever runs; the exit code is 1."""
    async with Program(tmp_path, SOURCE.format(graceful_timeout=LONG)) as program:
        async with Wire(await program.url()) as wire:
            await begin(program, wire, path, said)
            program.send_signal(signal.SIGINT)
            await program.line("stopping, within 1003 s")
            # Within 0.1 s it would count as the same key press; no event tells that they are over.
            await asyncio.sleep(0.2)
            assert await program.stop(signal.SIGINT) == 1
        output = await program.all_output()
        assert program.left_behind() == []

    assert "second INT" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("path", "said"), [("/wait", "waiting"), ("/block", "blocking"), ("/refuse", "refusing")]
)
async def test_quit_is_quick_and_reaps_every_child(tmp_path: Path, path: str, said: str) -> None:
    """QUIT waits for no request; the exit code tells that one was cut, and nobody is left."""
    async with Program(tmp_path, SOURCE.format(graceful_timeout=LONG)) as program:
        async with Wire(await program.url()) as wire:
            await begin(program, wire, path, said)
            assert await program.stop(signal.SIGQUIT) == 1
        assert "Traceback" not in await program.all_output()
        assert program.left_behind() == []


async def test_quit_hurries_a_stop_that_is_under_way(tmp_path: Path) -> None:
    """QUIT after TERM does not wait for what TERM would have waited for."""
    async with Program(tmp_path, SOURCE.format(graceful_timeout=LONG)) as program:
        async with Wire(await program.url()) as wire:
            await begin(program, wire, "/wait", "waiting")
            program.send_signal(signal.SIGTERM)
            await program.line("stopping, within 1003 s")
            assert await program.stop(signal.SIGQUIT) == 1
        await program.all_output()
        assert program.left_behind() == []

"""Code that does not come up, or does not last: the old goes on, and the cause is told."""

import signal
from pathlib import Path

import pytest

from aiocluster import BootError, Cluster, ReloadFailed
from tests.support.cluster import Heard
from tests.support.reloading import Deployment
from tests.support.wire import Wire

FAILS_TO_IMPORT = "raise ImportError('no such thing')"
FACTORY_RAISES = "def make_app(): raise ValueError('no database')"
EXITS_WHILE_STARTING = "def make_app(): os._exit(9)"
EXITS_AS_IF_ALL_WERE_WELL = "def make_app(): os._exit(0)"
DIES_SOON = "import threading; threading.Timer(0.3, os._exit, [9]).start()"
NEVER_READY = "async def make_app(): await asyncio.Event().wait()"
ONLY_ONE_STARTS = """
_make_app = make_app

def make_app():
    try:
        pathlib.Path("first").mkdir()
    except FileExistsError:
        raise OSError("only one can have it")
    return _make_app()
"""


# What goes wrong, and the cause that is told.
BAD_CODE = {
    FAILS_TO_IMPORT: "ImportError: no such thing",
    "this is no Python": "SyntaxError: invalid syntax",
    EXITS_WHILE_STARTING: "exited with code 9 before it was ready",
    EXITS_AS_IF_ALL_WERE_WELL: "exited with code 0 before it was ready",
    FACTORY_RAISES: "ValueError: no database",
    NEVER_READY: "was not ready after 10 s",
}
BAD_PROGRAMS = {
    "raise ImportError('not in the program')": "ImportError: not in the program",
    "no Python at all": "SyntaxError: invalid syntax",
    "raise SystemExit('no config file')": "no config file",
}


# node: E5
@pytest.mark.parametrize(
    ("bad", "settings"),
    [
        (BAD_CODE, {"boot_timeout": 10}),
        ({DIES_SOON: "exited with code 9"}, {"min_uptime": 60, "preload": False}),
    ],
    ids=["does not come up", "does not last"],
)
async def test_the_old_code_goes_on(
    tmp_path: Path, bad: dict[str, str], settings: dict[str, object]
) -> None:
    """The same workers with the same connections."""
    async with Deployment(tmp_path, **settings) as program, Wire(await program.url()) as wire:
        assert (await wire.get()).status == 200
        before = await program.serving()
        for extra, cause in bad.items():
            program.release_code(2, extra)
            assert cause in await program.fails_to_reload()
            assert await program.serving() == before
            assert (await wire.get()).status == 200
        assert await program.stop() == 0
        assert program.left_behind() == []


async def test_a_program_that_does_not_even_call_run_tells_why(tmp_path: Path) -> None:
    """Its own standard error is where the cause comes from; a good one comes afterwards."""
    program = Deployment(tmp_path)
    # A function of the program itself; an import string would need no program.
    program.app = "lambda: __import__('code').make_app()"
    program.break_program("")
    async with program:
        before = await program.serving()
        for extra, cause in BAD_PROGRAMS.items():
            shown = program.output.count("Traceback")
            program.break_program(extra)
            assert cause in await program.fails_to_reload()
            assert await program.serving() == before
            assert program.output.count("Traceback") <= shown + 1

        program.break_program("")
        program.release_code(3)
        program.send_signal(signal.SIGHUP)
        await program.reloaded(len(BAD_PROGRAMS) + 2)
        assert await program.stop() == 0


async def test_a_failure_half_way_puts_the_old_code_back(tmp_path: Path) -> None:
    """One slot had the new code already."""
    async with Deployment(tmp_path) as program:
        await program.serving()
        program.release_code(2, ONLY_ONE_STARTS)
        program.send_signal(signal.SIGHUP)
        failed = await program.line("generation 2 is given up, nothing has changed")
        assert "OSError: only one can have it" in failed

        assert {version for version, _ in await program.serving()} == {1}
        assert len(program.descendants()) >= 3
        assert await program.stop() == 0


# node: E5 (adapted: no command ends with a code, reload() raises)
@pytest.mark.real_start
async def test_the_caller_hears_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`reload()` raises it, with the traceback, and the event carries both."""
    monkeypatch.syspath_prepend(str(tmp_path))
    code = tmp_path / "changing.py"
    code.write_text("from tests.support.apps import make_app")
    async with Cluster("changing:make_app", workers=1, bind="127.0.0.1:0") as cluster:
        heard = Heard(cluster)
        code.write_text("from tests.support.apps import make_app\nraise RuntimeError('mine')")
        with pytest.raises(BootError, match="RuntimeError: mine") as caught:
            await cluster.reload()
        assert [worker.generation for worker in cluster.workers.values()] == [1]

    (failed,) = heard.of_kind(ReloadFailed)
    assert failed.cause == caught.value.cause
    assert failed.traceback == caught.value.traceback
    assert "changing.py" in failed.traceback

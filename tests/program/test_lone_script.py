"""A script elsewhere than on Linux, in a process that looks so; what serves is replaced."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = f"""
import os, sys
sys.path.append({str(ROOT)!r})
from tests.support.elsewhere import pretend
pretend("darwin")
from aiocluster.config.script import Script
from aiocluster.program import lone_script, run

def serve(plan, on_start, loop=None):
    web = plan.roles["web"]
    bind = [*map(str, web.settings.bind)]
    print("serves", type(web.app).__name__, bind, web.settings.graceful_timeout, loop is not None)
    return {{code}}

lone_script.run_in_one_process = run.run_in_one_process = serve
print("code", run.main_run(Script("server.py", ("x",), os.getcwd()), settings={{given}}))
"""

SERVER = """
import sys
from aiohttp import web
async def init():
    return web.Application()
{0}
print("after", __name__, *sys.argv)
"""


def said(
    folder: Path, script: str, given: dict[str, object] | None = None, code: int = 0
) -> subprocess.CompletedProcess[str]:
    (folder / "server.py").write_text(SERVER.format(script))
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(given=given or {}, code=code)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_what_it_gives_to_run_app_is_served_here(tmp_path: Path) -> None:
    """It runs as the main module, and goes on after it has served."""
    done = said(tmp_path, "web.run_app(init(), port=9, shutdown_timeout=7)")
    assert done.stdout.splitlines() == [
        "server.py: web.run_app gave host 0.0.0.0, port 9, shutdown_timeout 7",
        "serves coroutine [':9'] 7.0 False",
        "after __main__ server.py x",
        "code 0",
    ]
    assert done.stderr == ""


def test_what_was_typed_comes_before_what_it_gives(tmp_path: Path) -> None:
    """Each by itself; it says what does not count."""
    given: dict[str, object] = {"bind": "127.0.0.1:5", "graceful_timeout": 2}
    done = said(tmp_path, "web.run_app(init(), port=9, shutdown_timeout=7)", given)
    assert "(given to aiocluster, which comes first: bind, graceful_timeout)" in done.stdout
    assert "serves coroutine ['127.0.0.1:5'] 2.0 False" in done.stdout


@pytest.mark.parametrize("call", ["web.run_app(init())", "import aiocluster; aiocluster.run(init)"])
def test_it_runs_in_the_folder_that_was_typed(tmp_path: Path, call: str) -> None:
    """It is found where the command was typed, and can import what lies in the other folder."""
    (data := tmp_path / "data").mkdir()
    (data / "there.py").write_text("text = 'found there'")
    script = f"import os, there\nprint(there.text, os.path.basename(os.getcwd()))\n{call}"
    done = said(tmp_path, script, {"chdir": "data", "bind": "127.0.0.1:5"})
    assert "found there data\n" in done.stdout
    assert "code 0" in done.stdout
    assert done.stderr == ""


def test_a_folder_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    """As on Linux."""
    done = said(tmp_path, "web.run_app(init())", {"chdir": "gone"})
    assert "code 3" in done.stdout
    assert "could not start: the app's folder 'gone': No such file" in done.stderr


def test_its_loop_is_served_on(tmp_path: Path) -> None:
    """As aiohttp does."""
    done = said(tmp_path, "import asyncio; web.run_app(init(), loop=asyncio.new_event_loop())")
    assert "serves coroutine" in done.stdout
    assert "True" in done.stdout


def test_one_that_calls_run_is_overridden_as_well(tmp_path: Path) -> None:
    """It may have been written for aiocluster."""
    script = "import aiocluster; aiocluster.run(init, bind='127.0.0.1:1', graceful_timeout=3)"
    done = said(tmp_path, script, {"bind": "127.0.0.1:5"})
    assert "serves function ['127.0.0.1:5'] 3.0 False" in done.stdout
    assert "code 0" in done.stdout


def test_a_service_that_fails_ends_it_with_its_code(tmp_path: Path) -> None:
    """The lines after the call do not run, as in a worker."""
    done = said(tmp_path, "web.run_app(init())", code=3)
    assert done.returncode == 3
    assert "after" not in done.stdout


@pytest.mark.parametrize(
    ("script", "code", "error"),
    [
        ("", 2, "server.py ended without a call of web.run_app"),
        ("1 / 0", 3, "could not start: ZeroDivisionError"),
        ("sys.exit(5)", 5, "could not start: server.py exited with code 5 before it served"),
        ("sys.exit()", 0, "INFO server.py exited with code 0 before it served"),
        ("web.run_app(init(), path='x')", 2, "server.py: web.run_app was given path"),
        (
            "import asyncio\nasync def main():\n    runner = web.AppRunner(web.Application())\n"
            "    await runner.setup()\n    await web.TCPSite(runner, port=0).start()\n"
            "asyncio.run(main())",
            2,
            "server.py starts a server by itself (TCPSite.start)",
        ),
        ("try: web.run_app(7)\nexcept Exception: pass", 2, "was given 7, an int"),
    ],
)
def test_one_that_cannot_be_served_ends_with_the_code_that_linux_gives(
    script: str, code: int, error: str, tmp_path: Path
) -> None:
    """With the same error."""
    done = said(tmp_path, script)
    assert f"code {code}" in done.stdout
    assert error in done.stderr

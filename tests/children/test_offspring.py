"""A zygote up to its fork, in a process of its own; its workers are tested end to end."""

import subprocess
import sys
from pathlib import Path

import pytest

from aiocluster.children.offspring import _code_of_end

ZYGOTE = """
import os
{prelude}
from aiocluster.children.start import fork_zygote
from aiocluster.config.roles import RoleSpec
from aiocluster.config.script import Script
from aiocluster.config.settings import settings_from
from aiocluster.ipc.messages import Prepared, PrepareFailed
from aiocluster.ipc.packets import receive_packet
from aiocluster.launch.interpreter import InterpreterSpec

spec = RoleSpec("web", {app}, settings_from({settings}))
zygote = fork_zygote(spec, InterpreterSpec(["false"]))
answer, _ = receive_packet(zygote.sock, Prepared | PrepareFailed)
print(answer)
zygote.sock.close()
print("code", os.waitstatus_to_exitcode(os.waitpid(zygote.pid, 0)[1]))
"""

SCRIPT = """
from aiohttp import web
async def make_app():
    return web.Application()
"""


def said(
    folder: Path,
    app: str,
    script: str = "",
    settings: dict[str, object] | None = None,
    prelude: str = "",
) -> str:
    """Return what this zygote answers, and its exit code once the primary is gone."""
    (folder / "server.py").write_text(f"{SCRIPT}{script}\n")
    done = subprocess.run(
        [sys.executable, "-c", ZYGOTE.format(app=app, settings=settings or {}, prelude=prelude)],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return done.stdout


def test_it_imports_the_app_and_ends_with_the_primary(tmp_path: Path) -> None:
    """It answers once workers can be forked."""
    text = said(tmp_path, "'server:make_app'")
    assert "Prepared(preloaded=True" in text
    assert text.endswith("code 0\n")


def test_it_says_that_the_app_is_a_job(tmp_path: Path) -> None:
    """So that nothing is bound for it."""
    assert "is_job=True" in said(tmp_path, "'server:job'", "async def job(worker): ...")
    assert "is_job=False" in said(tmp_path, "'server:make_app'")


def test_without_preload_it_imports_nothing(tmp_path: Path) -> None:
    """The import would fail; its workers are to find that."""
    text = said(tmp_path, "'server:make_app'", "1 / 0", {"preload": False})
    assert "Prepared(preloaded=False" in text


def test_an_import_that_fails_is_answered(tmp_path: Path) -> None:
    """With the error; the zygote ends with 1."""
    text = said(tmp_path, "'server:make_app'", "1 / 0")
    assert "ZeroDivisionError" in text
    assert "kind='failed'" in text
    assert text.endswith("code 1\n")


@pytest.mark.parametrize("app", ["'server:make_app'", "Script('server.py')"])
@pytest.mark.parametrize(
    "refused", ["os.pipe2", "aiocluster.zygote.preload.look", "aiocluster.ipc.hangup._stop_on"]
)
def test_what_the_kernel_refuses_it_is_answered_in_one_line(
    tmp_path: Path, app: str, refused: str
) -> None:
    """Wherever it needs it; a script must not take it for an error of its own."""
    prelude = f"""
import aiocluster.zygote.preload, aiocluster.ipc.hangup
def refuse(*_):
    raise OSError(23, "Too many open files in system")
{refused} = refuse
"""
    call = "try: web.run_app(make_app(), port=7)\nexcept Exception: pass"
    text = said(tmp_path, app, call if "Script" in app else "", prelude=prelude)
    assert "the kernel refused what a zygote needs: Too many open files in system; look" in text
    assert "traceback=''" in text
    assert "kind='failed'" in text
    assert text.endswith("code 1\n")


@pytest.mark.parametrize(
    ("app", "name"), [("Script('server.py')", "server.py"), ("'server:app'", "server:app")]
)
def test_code_that_exits_is_answered_with_its_code(tmp_path: Path, app: str, name: str) -> None:
    """Whatever it was given as; without a traceback, since it was meant."""
    text = said(tmp_path, app, "raise SystemExit('no database')")
    assert f"'{name} exited with code 1 before it served: no database', traceback=''" in text
    assert "exit_code=1" in text


def test_a_call_of_run_app_is_answered_with_what_it_gave(tmp_path: Path) -> None:
    """It is known before there is a worker."""
    text = said(tmp_path, "Script('server.py')", "web.run_app(make_app(), port=7)")
    assert "port 7" in text
    assert text.endswith("code 0\n")


def test_what_follows_the_call_gives_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """An error is shown, as Python shows it."""
    assert _code_of_end(SystemExit(4)) == 4
    assert _code_of_end(ValueError("too late")) == 1
    assert "too late" in capsys.readouterr().err

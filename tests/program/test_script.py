"""A script that is the program: what was typed for it comes before what it gives."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from aiocluster.config.script import Script
from aiocluster.program import run as running
from aiocluster.program.script import run_program

def main_run(app, **given):
    print(app, given["settings"], given["on_start"], sys.argv)
    return 0

running.main_run = main_run
run_program(Script("server.py", ("x",)), {on_start!r}, {settings!r})
"""

SCRIPT = """
import aiocluster
aiocluster.run("shop:app", workers=3, backlog=7, on_start="own:hook")
print("after")
"""


def said(folder: Path, on_start: str | None, settings: dict[str, object]) -> list[str]:
    (folder / "server.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(on_start=on_start, settings=settings)],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()


def test_options_come_before_what_it_gives(tmp_path: Path) -> None:
    """Each by itself; what was not typed is the program's."""
    assert said(tmp_path, "typed:hook", {"workers": 1}) == [
        "shop:app {'workers': 1, 'backlog': 7} typed:hook ['server.py', 'x']",
        "after",
    ]


def test_without_options_it_runs_as_by_itself(tmp_path: Path) -> None:
    """The command adds nothing."""
    assert said(tmp_path, None, {})[0] == (
        "shop:app {'workers': 3, 'backlog': 7} own:hook ['server.py', 'x']"
    )

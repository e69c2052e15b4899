"""A command line is read as Python reads it: its tests are Python's own answers."""

import subprocess
import sys
from pathlib import Path

import pytest

from aiocluster.launch.command_line import Source, Started, started_with

SCRIPT, MODULE, COMMAND, STDIN = Source

LINES: list[tuple[list[str], Source, int]] = [
    (["app.py"], SCRIPT, 1),
    (["app.py", "-m", "x"], SCRIPT, 1),
    (["-O", "-u", "app.py", "app.py"], SCRIPT, 3),
    (["-X", "dev", "app.py"], SCRIPT, 3),
    (["-Xdev", "app.py"], SCRIPT, 2),
    (["-W", "error", "-Werror", "app.py"], SCRIPT, 4),
    (["-OW", "error", "app.py"], SCRIPT, 3),
    (["-bBsE", "app.py"], SCRIPT, 2),
    (["--check-hash-based-pycs", "never", "app.py"], SCRIPT, 3),
    (["-m", "pkg", "-c"], MODULE, 2),
    (["-mpkg"], MODULE, 1),
    (["-Bm", "pkg"], MODULE, 2),
    (["-O", "-mpkg", "more"], MODULE, 2),
    (["-c", "pass", "app.py"], COMMAND, 2),
    (["-cpass"], COMMAND, 1),
    (["-uc", "pass"], COMMAND, 2),
    (["-"], STDIN, -1),
    (["-u", "-", "app.py"], STDIN, -1),
    ([], STDIN, -1),
    (["-q"], STDIN, -1),
]


@pytest.mark.parametrize(("line", "source", "place"), LINES)
def test_what_was_run_is_found_among_the_arguments(
    line: list[str], source: Source, place: int
) -> None:
    """Whatever options come before it, and whatever its own arguments are."""
    assert started_with(["python", *line]) == Started(source, place)


def test_python_reads_them_the_same_way(tmp_path: Path) -> None:
    """Each line above runs what was found, and sys.argv begins there."""
    for name in ("app.py", "pkg.py"):
        (tmp_path / name).write_text(_PRINT)
    for line, source, place in LINES:
        ended = subprocess.run(
            [sys.executable, *(argument.replace("pass", _PRINT) for argument in line)],
            cwd=tmp_path,
            input=_PRINT,
            capture_output=True,
            text=True,
            check=True,
        )
        if source is STDIN:
            argv = line[line.index("-") :] if "-" in line else []
        else:
            argv = [_NAMES[source], *line[place:]]
        assert ended.stdout.split() == argv, line


_PRINT = "import sys; print(sys.argv[0].rpartition('/')[2], *sys.argv[1:])"
_NAMES = {SCRIPT: "app.py", MODULE: "pkg.py", COMMAND: "-c"}

"""Where the process began."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

_PROGRAM = """
import os, sys
import aiocluster
os.chdir("/")
from aiocluster import beginning
print(beginning.FOLDER, beginning.FIRST_OF_PATH, beginning.PID == os.getpid())
"""


def test_the_folder_is_noted_when_aiocluster_is_imported(tmp_path: Path) -> None:
    """Not when it is needed: the program may have left it by then."""
    (tmp_path / "program.py").write_text(_PROGRAM)
    ended = subprocess.run(
        [sys.executable, "-m", "program"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split() == [str(tmp_path), str(tmp_path), "True"]

"""A start that the kernel refuses ends with code 3 and one line, which names the limit."""

import sys
from pathlib import Path

import pytest

from tests.support.program import Program

PYTHON = sys.executable
REPOSITORY = str(Path(__file__).parents[3])

# As a user of its own, for whom alone the limit of processes holds; all is imported before, since
# that user may not read the files. A user who is not root has more processes than that already.
SOURCE = """
import encodings.idna, os, resource, uvloop
from tests.support.apps import make_app
from aiocluster import run
resource.setrlimit(resource.RLIMIT_NPROC, ({limit}, {limit}))
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(54321, 54321, 54321)
    os.setresuid(54321, 54321, 54321)
run(make_app, workers=2, bind="127.0.0.1:0")
"""


async def ending(program: Program) -> str:
    """Return the only line that says why a program could not start."""
    async with program:
        assert await program.exit_code() == 3
        output = await program.all_output()
        assert program.left_behind() == []
        # That its user cannot read the program is another matter, and told as well.
        (line,) = [line for line in output.splitlines() if " INFO " not in line]
    return line


@pytest.mark.parametrize(
    ("limit", "what"),
    [
        (1, "the kernel refused the fork of a zygote"),
        (2, "cannot fork: the kernel refused the fork"),
    ],
)
async def test_without_processes(tmp_path: Path, limit: int, what: str) -> None:
    """The zygote's fork is refused, or each worker's, time and again."""
    source = SOURCE.format(limit=limit)
    told = await ending(Program(tmp_path, source, env={"PYTHONPATH": REPOSITORY}))

    assert f"could not start: {what}" in told
    assert "Resource temporarily unavailable; look at the limit of processes: ulimit -u" in told


@pytest.mark.parametrize("limit", [12, 28])
async def test_with_too_few_descriptors(tmp_path: Path, limit: int) -> None:
    """It is refused before anything is begun, with the numbers."""
    (tmp_path / "app.py").touch()
    run = "python -m aiocluster run app:app -w 2 -b 127.0.0.1:0"
    command = ["sh", "-c", f"ulimit -n {limit}; exec {run}".replace("python", PYTHON)]
    told = await ending(Program(tmp_path, command=command))

    assert f"the limit of open files is {limit}, and 2 workers need " in told

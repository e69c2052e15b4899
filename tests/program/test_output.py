"""What is printed and logged, in processes of their own, whose output is closed or full."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, socket, sys
from aiocluster.program.output import discard_unwritable_output, open_standard_files
open_standard_files()
with socket.socket() as sock:
    assert sock.fileno() > 2, sock.fileno()
print("buffered")
discard_unwritable_output()
"""


@pytest.mark.parametrize("output", ["", "<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full"])
def test_a_program_ends_well_whatever_its_output_is(output: str) -> None:
    """No socket takes a standard file's number, and what cannot be written changes no code."""
    line = f'PYTHONUNBUFFERED= "{sys.executable}" -c "$0" {output}'

    assert subprocess.run(["bash", "-c", line, PROGRAM], check=False).returncode == 0

"""What is printed and logged, also in processes of their own, whose output is closed or full."""

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import cast

import pytest

from aiocluster.cluster import Cluster
from aiocluster.program.output import say_where

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


@pytest.mark.parametrize(
    ("addresses", "workers", "said"),
    [
        (
            {"web": [("127.0.0.1", 80), ("::1", 81)]},
            4,
            "serving on http://127.0.0.1:80 and http://[::1]:81 with 4 workers",
        ),
        (
            {"web": [("127.0.0.1", 80)], "jobs": [], "admin": [("127.0.0.1", 81)]},
            4,
            "serving on http://127.0.0.1:80 (web) and http://127.0.0.1:81 (admin) with 4 workers",
        ),
        ({"web": []}, 1, "1 worker"),
        ({"mail": [], "jobs": []}, 2, "2 workers"),
    ],
)
def test_a_start_says_where_and_what(
    addresses: dict[str, list[tuple[str, int]]],
    workers: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Which role, where there are several; and how to stop it."""
    cluster = SimpleNamespace(addresses_of=addresses, workers=dict.fromkeys(range(workers)))

    say_where(cast(Cluster, cluster))

    pid = os.getpid()
    assert capsys.readouterr().out == (
        f"aiocluster: {said} (pid {pid}); stop with Ctrl-C or `kill {pid}`\n"
    )

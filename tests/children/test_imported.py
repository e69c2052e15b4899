"""What a worker's own import leaves in it, in a process of its own."""

import subprocess
import sys

import pytest

from aiocluster.children.imported import Import

OWN_IMPORT = """
import asyncio, os, signal, subprocess, sys
import uvloop
from aiocluster.children.imported import OwnImport

def load():
    asyncio.set_event_loop(uvloop.new_event_loop())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    child.append(subprocess.Popen(["sleep", "1000"]))

child = []
own = OwnImport()
other = subprocess.Popen(["sleep", "1000"])
"""


def said_by(code: str) -> list[str]:
    """Return the lines that this code says."""
    ended = subprocess.run(
        [sys.executable, "-c", OWN_IMPORT + code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_a_worker_that_imports_for_itself_runs_on_the_imports_loop() -> None:
    """And leaves the signals of a terminal to the primary, as before."""
    code = (
        "load()\n"
        "print(own.over() is asyncio.get_event_loop())\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print('lives')\n"
        "for one in (*child, other): one.kill()\n"
    )

    assert said_by(code) == ["True", "lives"]


def test_what_a_workers_import_started_ends_with_it() -> None:
    """What comes later is another's."""
    code = (
        "load()\n"
        "own.over()\n"
        "child.append(subprocess.Popen(['sleep', '1000']))\n"
        "own.end()\n"
        "print(*(one.poll() is not None for one in (child[0], child[1])))\n"
        "for one in (*child, other): one.kill()\n"
    )

    assert said_by(code) == ["True False"]


def test_what_an_import_raised_is_raised_by_its_load() -> None:
    """In the worker, where it is reported as any error of a start."""
    assert Import(app="app").load() == "app"
    with pytest.raises(ZeroDivisionError):
        Import(error=ZeroDivisionError()).load()

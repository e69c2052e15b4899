"""Elsewhere than on Linux the package can be imported; here that is made to look like it.

`tests/support/elsewhere.py` takes away what the other system lacks. A module that uses, while it
is imported, what only Linux has, fails here: the use belongs into the function that needs it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.elsewhere import lacking

ROOT = Path(__file__).parents[1]

_IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
from tests.support.elsewhere import pretend
pretend(sys.argv[1])
import aiocluster
for module in pkgutil.walk_packages(aiocluster.__path__, "aiocluster."):
    importlib.import_module(module.name)
for name in aiocluster.__all__:
    getattr(aiocluster, name)
print("all is imported")
"""


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_every_module_can_be_imported(platform: str) -> None:
    """An app that imports aiocluster starts on the laptop where it is written."""
    ended = subprocess.run(
        [sys.executable, "-c", _IMPORT_EVERYTHING, platform],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("all is imported\n", "")


def test_what_is_taken_away_is_what_the_other_system_lacks() -> None:
    """A simulation that takes nothing away would prove nothing."""
    on_a_mac = {
        (module, name)
        for module in ("os", "signal", "select")
        for name in lacking(module, "darwin")
    }
    assert {
        ("os", "memfd_create"),
        ("os", "pidfd_open"),
        ("os", "pipe2"),
        ("os", "sched_getaffinity"),
        ("select", "epoll"),
        ("signal", "SIGRTMIN"),
        ("signal", "sigtimedwait"),
    } <= on_a_mac
    assert not {("os", "fork"), ("signal", "SIGHUP"), ("select", "poll")} & on_a_mac
    assert {"fork", "killpg"} <= {*lacking("os", "win32")}
    assert {"AF_UNIX", "send_fds"} <= {*lacking("socket", "win32")}
    assert [*lacking("fcntl", "win32")] == [*lacking("resource", "win32")] == ["*"]

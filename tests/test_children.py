"""How children begin, as far as no child is needed."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aiocluster.children import (
    _enter_folder,
    imported_from,
    zygote_call_from_environment,
    zygote_from_environment,
)
from aiocluster.config.roles import RoleSpec
from aiocluster.config.settings import settings_from
from aiocluster.errors import ConfigError
from aiocluster.primary.interpreter import ZYGOTE_CALL, ZYGOTE_FD, ZYGOTE_ROLE


def test_an_interpreter_that_is_no_zygote_has_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary start of the program."""
    monkeypatch.delenv(ZYGOTE_CALL, raising=False)

    assert zygote_call_from_environment() == 0


def test_a_zygote_finds_its_role_and_its_socket_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the variables nor the descriptor are passed on to what it starts."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.set_inheritable(theirs.fileno(), True)
    monkeypatch.setenv(ZYGOTE_FD, str(theirs.detach()))

    monkeypatch.setenv(ZYGOTE_ROLE, "jobs")
    monkeypatch.setenv(ZYGOTE_CALL, "2")
    assert zygote_call_from_environment() == 2

    role, found = zygote_from_environment()

    assert role == "jobs"
    assert found.type == socket.SOCK_SEQPACKET
    assert not found.get_inheritable()
    assert ZYGOTE_FD not in os.environ
    assert ZYGOTE_ROLE not in os.environ
    assert zygote_call_from_environment() == 0
    found.close()
    ours.close()


def test_where_the_app_was_found_is_the_folder_of_its_topmost_package() -> None:
    """By its real path; where there is no file, it is the current folder."""
    root = os.path.realpath(os.path.join(os.path.dirname(__file__), ".."))
    assert imported_from("tests.test_children:app") == root
    assert imported_from("tests.support:app") == root
    assert imported_from("sys:app") == os.getcwd()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """It is the first thing that a zygote needs."""
    spec = RoleSpec("web", "pkg:app", settings_from({"chdir": str(tmp_path / "gone")}))
    with pytest.raises(ConfigError, match=r"app's folder '.*/gone': No such file or directory"):
        _enter_folder(spec)


def test_modules_are_found_in_the_folder_of_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its real path, which no later deploy changes."""
    (tmp_path / "release").mkdir()
    (tmp_path / "current").symlink_to("release")
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "path", [*sys.path])

    _enter_folder(RoleSpec("web", "pkg:app", settings_from({"chdir": str(tmp_path / "current")})))

    assert os.getcwd() == sys.path[0] == str(tmp_path / "release")


# ---- the import of one worker for itself, in a process of its own

OWN_IMPORT = """
import asyncio, os, signal, subprocess, sys
import uvloop
from aiocluster.children import OwnImport

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

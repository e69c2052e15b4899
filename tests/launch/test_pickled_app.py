"""Interpreters that need no program: what can be given to them, and what they do first."""

import functools
import os
import pickle
import socket
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from aiohttp import web

from aiocluster.config.roles import RoleSpec
from aiocluster.config.settings import settings_from
from aiocluster.errors import ConfigError
from aiocluster.launch.interpreter import InterpreterSpec
from aiocluster.launch.links import FolderLink
from aiocluster.launch.pickled_app import Preparation, unpickling
from tests.support.connections import open_fds

SETTINGS = settings_from({"workers": 3})


def factory() -> web.Application:
    return web.Application()


def jobs(app: object) -> RoleSpec:
    return RoleSpec("jobs", app, SETTINGS)


def close_fds(interpreter: InterpreterSpec) -> None:
    for fd in interpreter.fds:
        os.close(fd)


def test_a_live_application_cannot_be_given_to_a_cluster() -> None:
    """Its workers are other processes; the text says what to give instead, and what can."""
    with pytest.raises(ConfigError) as caught:
        unpickling(jobs(web.Application()))

    assert "cannot serve a live Application" in str(caught.value)
    assert "a factory of it" in str(caught.value)
    assert "aiocluster.run, which can" in str(caught.value)


def test_what_no_other_process_can_import_is_refused_by_name() -> None:
    """A lambda, a local function, a method of an object with a socket in it."""

    def local() -> web.Application:
        return web.Application()

    with socket.socket() as sock:
        for app in (lambda: web.Application(), local, functools.partial(print, sock)):
            with pytest.raises(ConfigError) as caught:
                unpickling(jobs(app))
            assert f"other processes cannot import {app!r}" in str(caught.value)
            assert "at the top level of a module" in str(caught.value)


@pytest.mark.parametrize("app", [factory, "pkg.module:name"])
def test_what_can_be_imported_travels_with_the_settings(app: object) -> None:
    """The child gets all it needs in one file that has no name."""
    interpreter = unpickling(jobs(app))
    (fd,) = interpreter.fds

    os.lseek(fd, 0, os.SEEK_SET)
    preparation, spec, pickled = pickle.loads(os.read(fd, 100_000))
    assert isinstance(preparation, Preparation)
    close_fds(interpreter)

    assert (spec.name, spec.app, spec.settings) == ("jobs", None, SETTINGS)
    assert pickle.loads(pickled) == app
    assert interpreter.arguments[0] == sys.executable
    assert interpreter.role == "jobs"


def test_a_refused_app_leaves_no_descriptor() -> None:
    """Nothing is opened for what is not started."""
    before = open_fds()
    with pytest.raises(ConfigError):
        unpickling(jobs(lambda: None))

    assert open_fds() <= before


@pytest.mark.parametrize(
    ("name", "file"),
    [(None, None), (None, "<stdin>"), ("pkg.__main__", "/srv/pkg/__main__.py"), ("__main__", "x")],
)
def test_a_program_that_cannot_be_run_again_is_told_to_have_a_module(
    monkeypatch: pytest.MonkeyPatch, name: str | None, file: str | None
) -> None:
    """python -c, a notebook, standard input, a package or an archive that is run."""
    main = ModuleType("__main__")
    main.__spec__ = ModuleSpec(name, None) if name else None
    if file:
        main.__file__ = file
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(factory, "__module__", "__main__")

    with pytest.raises(ConfigError, match="move it to a module"):
        unpickling(jobs(factory))


def content(interpreter: InterpreterSpec) -> tuple[Preparation, RoleSpec]:
    """Return what an interpreter would read, and close it."""
    os.lseek(interpreter.fds[0], 0, os.SEEK_SET)
    preparation, spec, _ = pickle.loads(os.read(interpreter.fds[0], 100_000))
    interpreter.close()
    return preparation, spec


def test_an_import_string_needs_no_main_module() -> None:
    """Nothing of the program runs again for it; what a program defines itself needs that."""
    preparation, _ = content(unpickling(jobs("pkg.module:name"), "other:main"))
    assert not {key for key in preparation.data if key.startswith("init_main")}
    preparation, _ = content(unpickling(jobs(factory), "other:main"))
    assert not {key for key in preparation.data if key.startswith("init_main")}


def test_the_folder_of_the_app_is_known_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative `chdir` is below the current folder, by the name that the shell has for it."""
    (tmp_path / "releases" / "7" / "app").mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/7")
    monkeypatch.chdir(tmp_path / "current")
    monkeypatch.setenv("PWD", str(tmp_path / "current"))

    preparation, spec = content(unpickling(jobs("pkg:name")))
    assert (preparation.data["dir"], spec.settings.chdir) == (f"{tmp_path}/current", None)

    settings = settings_from({"chdir": "app"})
    preparation, spec = content(unpickling(RoleSpec("jobs", "pkg:name", settings)))
    assert preparation.data["dir"] == spec.settings.chdir == f"{tmp_path}/current/app"
    assert FolderLink(f"{tmp_path}/releases/7", f"{tmp_path}/current") in preparation.links


_ENTER = """
import pickle, sys
preparation = pickle.loads(bytes.fromhex(sys.argv[1]))
preparation.enter()
import os
print(os.getcwd(), *sys.path[:2], "lib/python9.9/site-packages" in sys.path, *sys.argv)
import json, shop
"""


def test_the_folder_and_the_path_are_those_of_the_new_release(tmp_path: Path) -> None:
    """By their real paths, so that the next deploy does not change a generation that serves."""
    for release in ("7", "8"):
        (tmp_path / "releases" / release / "lib").mkdir(parents=True)
    (tmp_path / "releases" / "8" / "lib" / "shop.py").touch()
    current = tmp_path / "current"
    current.symlink_to("releases/8")
    old = f"{tmp_path}/releases/7"
    data = {
        "dir": str(current),
        "sys_path": [old, f"{old}/lib", "lib/python9.9/site-packages"],
        "sys_argv": ["serve.py", "more"],
    }
    preparation = Preparation(data, [FolderLink(old, str(current))], (9, 9))

    ended = subprocess.run(
        [sys.executable, "-c", _ENTER, pickle.dumps(preparation).hex()],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )

    new = f"{tmp_path}/releases/8"
    assert ended.stdout.split() == [new, new, f"{new}/lib", "False", "serve.py", "more"]

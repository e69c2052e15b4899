"""New interpreters: what can be given to them, and how they are started."""

import functools
import os
import pickle
import socket
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from aiohttp import web

from aiocluster.config.roles import RoleSpec
from aiocluster.config.settings import settings_from
from aiocluster.errors import ConfigError
from aiocluster.primary.interpreter import (
    ZYGOTE_CALL,
    ZYGOTE_FD,
    ZYGOTE_ROLE,
    Interpreter,
    this_program,
    unpickling,
)
from tests.support.connections import open_fds

SETTINGS = settings_from({"workers": 3})


def factory() -> web.Application:
    return web.Application()


def jobs(app: object) -> RoleSpec:
    return RoleSpec("jobs", app, SETTINGS)


def close_fds(interpreter: Interpreter) -> None:
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
            assert f"cannot import {app!r}" in str(caught.value)
            assert "at the top level of a module" in str(caught.value)


@pytest.mark.parametrize("app", [factory, "pkg.module:name"])
def test_what_can_be_imported_travels_with_the_settings(app: object) -> None:
    """The child gets all it needs in one file that has no name."""
    interpreter = unpickling(jobs(app))
    (fd,) = interpreter.fds

    os.lseek(fd, 0, os.SEEK_SET)
    _, spec, pickled = pickle.loads(os.read(fd, 100_000))
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


def test_this_program_is_run_again_as_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same interpreter, options and arguments, and the same of its calls of `run`."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "/srv/app.py", "serve"])
    monkeypatch.setattr(sys, "argv", ["/srv/app.py", "serve"])
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/srv/app.py")

    again = this_program(3)

    assert again.arguments == [sys.executable, "-X", "dev", "/srv/app.py", "serve"]
    assert again.call == 3


def test_a_script_is_found_again_from_any_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program may have left the folder that its name was relative to."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "-O", "app.py", "serve", "app.py"])
    monkeypatch.setattr(sys, "argv", ["app.py", "serve", "app.py"])
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/srv/app.py")

    assert this_program().arguments[1:] == ["-O", "/srv/app.py", "serve", "app.py"]


def test_a_module_that_is_run_is_left_to_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m` has put the file's path in the place of the name."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "app", "serve"])
    monkeypatch.setattr(sys, "argv", ["/srv/app.py", "serve"])
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/srv/app.py")

    assert this_program().arguments[1:] == ["-m", "app", "serve"]


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


async def test_a_zygote_is_started_with_its_socket_and_its_files(tmp_path: Path) -> None:
    """Its end of the socket under the number it is told, and its role; all else stays ours."""
    told = tmp_path / "told"
    told.write_text("the app")
    fd = os.open(told, os.O_RDONLY)
    code = (
        f"import os, socket; s = socket.socket(fileno=int(os.environ[{ZYGOTE_FD!r}]));"
        f" told = os.environ[{ZYGOTE_CALL!r}] + os.environ[{ZYGOTE_ROLE!r}];"
        f" s.send(os.read({fd}, 100) + told.encode())"
    )
    interpreter = Interpreter([sys.executable, "-c", code], [fd], call=2)
    started = await interpreter.of("jobs").start_zygote()
    pid, sock = started.pid, started.sock

    assert sock.recv(100) == b"the app2jobs"
    assert sock.recv(100) == b""
    assert os.waitpid(pid, 0)[1] == 0  # noqa: ASYNC222 (its socket is at the end: it is dead)
    assert started.tail is not None
    started.tail.close()
    sock.close()
    os.close(fd)

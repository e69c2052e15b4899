"""How children begin, as far as no child is needed: what can be given to them."""

import os
import pickle
import socket
import sys
from pathlib import Path

import pytest
from aiohttp import web

from aiocluster.children import (
    ZYGOTE_FD,
    Interpreter,
    this_program,
    unpickling,
    zygote_socket_from_environment,
)
from aiocluster.config.settings import settings_from
from aiocluster.errors import ConfigError
from tests.support.connections import open_fds

SETTINGS = settings_from({"workers": 3})


def factory() -> web.Application:
    return web.Application()


def close_fds(interpreter: Interpreter) -> None:
    for fd in interpreter.fds:
        os.close(fd)


def test_a_live_application_cannot_be_given_to_a_cluster() -> None:
    """Its workers are other processes; the text says what to give instead, and what can."""
    with pytest.raises(ConfigError) as caught:
        unpickling(web.Application(), SETTINGS)

    assert "cannot serve a live Application" in str(caught.value)
    assert "a factory of it" in str(caught.value)
    assert "aiocluster.run, which can" in str(caught.value)


def test_what_no_other_process_can_import_is_refused_by_name() -> None:
    """A lambda, a local function, an object with a socket in it."""

    def local() -> web.Application:
        return web.Application()

    with socket.socket() as sock:
        for app in (lambda: web.Application(), local, sock):
            with pytest.raises(ConfigError) as caught:
                unpickling(app, SETTINGS)
            assert f"cannot import {app!r}" in str(caught.value)
            assert "at the top level of a module" in str(caught.value)


@pytest.mark.parametrize("app", [factory, "pkg.module:name"])
def test_what_can_be_imported_travels_with_the_settings(app: object) -> None:
    """The child gets all it needs in one file that has no name."""
    interpreter = unpickling(app, SETTINGS)
    (fd,) = interpreter.fds

    os.lseek(fd, 0, os.SEEK_SET)
    _, settings, pickled = pickle.loads(os.read(fd, 100_000))
    close_fds(interpreter)

    assert settings == SETTINGS
    assert pickle.loads(pickled) == app
    assert interpreter.arguments[0] == sys.executable


def test_a_refused_app_leaves_no_descriptor() -> None:
    """Nothing is opened for what is not started."""
    before = open_fds()
    with pytest.raises(ConfigError):
        unpickling(lambda: None, SETTINGS)

    assert open_fds() <= before


def test_this_program_is_run_again_as_it_was_started() -> None:
    """The same interpreter, options and arguments."""
    assert this_program().arguments == [sys.executable, *sys.orig_argv[1:]]


def test_an_interpreter_that_is_no_zygote_has_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary start of the program."""
    monkeypatch.delenv(ZYGOTE_FD, raising=False)

    assert zygote_socket_from_environment() is None


def test_a_zygote_finds_its_socket_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the variable nor the descriptor is passed on to what it starts."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.set_inheritable(theirs.fileno(), True)
    monkeypatch.setenv(ZYGOTE_FD, str(theirs.detach()))

    found = zygote_socket_from_environment()

    assert found is not None
    assert found.type == socket.SOCK_SEQPACKET
    assert not found.get_inheritable()
    assert ZYGOTE_FD not in os.environ
    found.close()
    ours.close()


async def test_a_zygote_is_started_with_its_socket_and_its_files(tmp_path: Path) -> None:
    """Its end of the socket under the number it is told; everything else stays ours."""
    told = tmp_path / "told"
    told.write_text("the app")
    fd = os.open(told, os.O_RDONLY)
    code = (
        f"import os, socket; s = socket.socket(fileno=int(os.environ[{ZYGOTE_FD!r}]));"
        f" s.send(os.read({fd}, 100))"
    )
    pid, sock = await Interpreter([sys.executable, "-c", code], [fd]).start_zygote()

    assert sock.recv(100) == b"the app"
    assert sock.recv(100) == b""
    assert os.waitpid(pid, 0)[1] == 0  # noqa: ASYNC222 (its socket is at the end: it is dead)
    sock.close()
    os.close(fd)

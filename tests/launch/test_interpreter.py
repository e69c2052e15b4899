"""New interpreters: in which folder, with which variables and descriptors they are started."""

import os
import sys
from pathlib import Path

import pytest

from aiocluster.errors import BootError
from aiocluster.ipc.packets import packet_pair
from aiocluster.launch.interpreter import (
    ZYGOTE_CALL,
    ZYGOTE_FD,
    ZYGOTE_ROLE,
    CannotStart,
    InterpreterSpec,
    StartedZygote,
)
from tests.support.connections import open_fds
from tests.support.processes import is_reaped, start_process


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
    interpreter = InterpreterSpec([sys.executable, "-c", code], [fd], call=2)
    started = await interpreter.of("jobs").start_zygote()
    pid, sock = started.pid, started.sock

    assert sock.recv(100) == b"the app2jobs"
    assert sock.recv(100) == b""
    assert os.waitpid(pid, 0)[1] == 0  # noqa: ASYNC222 (its socket is at the end: it is dead)
    assert started.tail is not None
    started.tail.close()
    sock.close()
    os.close(fd)


_TELL = "import os, socket, sys; s = socket.socket(fileno=int(os.environ['AIOCLUSTER_ZYGOTE_FD']));"
_TELL_WHERE = (
    _TELL + " s.send((os.getcwd() + ' ' + os.environ['PWD'] + ' ' + sys.argv[1]).encode())"
)


async def told_by(interpreter: InterpreterSpec) -> str:
    """Start one that says something on its socket; return it, once it has ended."""
    started = await interpreter.start_zygote()
    told = started.sock.recv(1000).decode()
    os.waitpid(started.pid, 0)  # noqa: ASYNC222 (it has said all it has to)
    started.sock.close()
    if started.tail is not None:
        started.tail.close()
    return told


async def test_it_begins_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far this process has gone since; by way of the link, which it can see in $PWD."""
    (tmp_path / "releases" / "7").mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/7")
    folder = str(tmp_path / "current")
    arguments = [sys.executable, "-c", _TELL_WHERE, "x"]

    for here in ("/", folder):
        monkeypatch.chdir(here)
        told = await told_by(InterpreterSpec(arguments, folder=folder))
        assert told == f"{tmp_path}/releases/7 {folder} x"


async def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    """It may come back, so that is no reason never to try again."""
    before = open_fds()
    with pytest.raises(OSError, match=r"the program's folder is gone: .*/gone"):
        await InterpreterSpec(
            [sys.executable, "-c", ""], folder=str(tmp_path / "gone")
        ).start_zygote()
    assert open_fds() == before


async def test_one_that_can_never_be_started_says_why() -> None:
    """In every way to start it, and nothing is left open."""
    interpreter = InterpreterSpec(["python"], refusal="it was read from standard input")
    before = open_fds()

    with pytest.raises(CannotStart, match="cannot be run again: it was read from standard"):
        await interpreter.start_zygote()
    with pytest.raises(BootError):
        interpreter.execute({})
    assert open_fds() == before


def test_an_exec_that_fails_leaves_the_folder(tmp_path: Path) -> None:
    """The process goes on where it was."""
    here, before = os.getcwd(), open_fds()
    with pytest.raises(FileNotFoundError):
        InterpreterSpec([str(tmp_path / "no-python")], folder=str(tmp_path)).execute({})

    assert os.getcwd() == here
    assert open_fds() == before


def test_closed_twice_it_has_no_descriptor(tmp_path: Path) -> None:
    """Whoever has one closes it, and nobody closes another's."""
    interpreter = InterpreterSpec(["python"], [os.open(os.devnull, os.O_RDONLY)])
    interpreter.close()
    interpreter.close()
    assert interpreter.fds == []


@pytest.mark.parametrize("hears", [True, False])
def test_a_first_zygote_that_still_imports_is_ended(
    hears: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It hears of the end of its socket, and ends what it has started; else it is killed."""
    monkeypatch.setattr("aiocluster.launch.interpreter.STOP_IMPORT_TIMEOUT", 60.0 * hears)
    ours, theirs = packet_pair()
    done = tmp_path / "done"
    with theirs:
        theirs.set_inheritable(True)
        theirs.setblocking(True)
        waits = "exec sleep 1000"
        if hears:
            recv = f"import socket; socket.socket(fileno={theirs.fileno()}).recv(1)"
            waits = f"{sys.executable} -c '{recv}'"
        pid = start_process(f"{waits}; echo > {done}")

    StartedZygote(pid, ours).end_import()

    assert done.exists() == hears
    assert is_reaped(pid)

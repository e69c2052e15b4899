"""Who ends an import that cannot be interrupted: in processes of their own."""

import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import psutil
import pytest

from tests.support.cluster import gone

PATIENCE = 60.0

# It says what it has started, its guard among them; then, if so told, it hears nothing any more.
IMPORTING = """
import ctypes, psutil, socket, subprocess, sys
from aiocluster.zygote.import_guard import ended_with_primary

def say_children():
    print(*(one.pid for one in psutil.Process().children()), flush=True)

mutex, lock = ctypes.create_string_buffer(64), ctypes.PyDLL(None).pthread_mutex_lock
with ended_with_primary(socket.socket(fileno=int(sys.argv[1])), 0.0):
    child = subprocess.Popen(["sleep", "1000"])
    say_children()
    if sys.stdin.readline() == "block\\n":
        lock(mutex)
        print("blocks", flush=True)
        lock(mutex)
say_children()
sys.stdin.readline()
child.kill()
child.wait()
"""


class Import:
    """An import that is guarded; the test is its primary."""

    def __init__(self) -> None:
        self.sock, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-c", IMPORTING, str(theirs.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self.family = self.children()

    def children(self) -> list[psutil.Process]:
        return [psutil.Process(int(pid)) for pid in self.line().split()]

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.sock.close()
        self.process.kill()
        self.process.wait(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        for process in self.family:
            if process.is_running():
                process.kill()


@pytest.fixture
async def importing() -> AsyncIterator[Import]:
    importing = Import()
    yield importing
    importing.close()


async def test_one_that_hears_nothing_is_killed_with_what_it_started(importing: Import) -> None:
    """The primary is gone, and code in C has the interpreter: nothing is left."""
    importing.say("block")
    assert importing.line() == "blocks\n"

    importing.sock.close()

    assert importing.process.wait(PATIENCE) == -signal.SIGKILL
    await gone(importing.family)


async def test_an_import_that_ends_has_no_guard_any_more(importing: Import) -> None:
    """Only what it has started itself is left."""
    importing.say("go on")

    left = importing.children()

    assert len(left) == 1
    assert {*left} < {*importing.family}
    importing.say("end")
    assert importing.process.wait(PATIENCE) == 0


async def test_the_guard_ends_with_an_import_that_dies(importing: Import) -> None:
    """It holds nothing open that would hide the end from the primary."""
    importing.process.kill()

    importing.sock.settimeout(PATIENCE)
    assert importing.sock.recv(1) == b""

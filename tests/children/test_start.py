"""How a zygote finds what it was started with; the starts themselves are tested end to end."""

import os
import socket

import pytest

from aiocluster.children.start import zygote_call_from_environment, zygote_from_environment
from aiocluster.launch.interpreter import ZYGOTE_CALL, ZYGOTE_FD, ZYGOTE_ROLE


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

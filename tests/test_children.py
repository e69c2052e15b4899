"""How children begin, as far as no child is needed."""

import os
import socket

import pytest

from aiocluster.children import zygote_call_from_environment, zygote_socket_from_environment
from aiocluster.primary.interpreter import ZYGOTE_CALL, ZYGOTE_FD


def test_an_interpreter_that_is_no_zygote_has_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary start of the program."""
    monkeypatch.delenv(ZYGOTE_CALL, raising=False)

    assert zygote_call_from_environment() == 0


def test_a_zygote_finds_its_socket_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the variable nor the descriptor is passed on to what it starts."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.set_inheritable(theirs.fileno(), True)
    monkeypatch.setenv(ZYGOTE_FD, str(theirs.detach()))

    monkeypatch.setenv(ZYGOTE_CALL, "2")
    assert zygote_call_from_environment() == 2

    found = zygote_socket_from_environment()

    assert found.type == socket.SOCK_SEQPACKET
    assert not found.get_inheritable()
    assert ZYGOTE_FD not in os.environ
    assert zygote_call_from_environment() == 0
    found.close()
    ours.close()

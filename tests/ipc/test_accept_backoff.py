"""Accepting that fails, on a socket of the test's."""

import errno
import logging
import os
import socket
from collections.abc import AsyncIterator

import pytest

from aiocluster.ipc import accept_backoff as module
from aiocluster.ipc.accept_backoff import CLIENT_GONE, AcceptBackoff
from tests.support.waiting import turns, turns_until

log = logging.getLogger("test")


class Stage:
    """One socket's trouble, and who hears of it."""

    def __init__(self) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.trouble = AcceptBackoff(self.sock, log, self._hear)
        self.heard: list[bool] = []  # whether it was too soon to try again

    def meet(self, number: int) -> None:
        self.trouble.met(OSError(number, os.strerror(number)))

    def _hear(self) -> None:
        self.heard.append(self.trouble.is_waiting)


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(module, "_RETRY_AFTER", 0.001)
    stage = Stage()
    yield stage
    stage.trouble.forget()
    stage.sock.close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_a_shortage_lets_all_wait_for_a_while(stage: Stage, number: int) -> None:
    """To try again at once would spin."""
    stage.meet(number)
    assert stage.heard == [True]
    await turns_until(lambda: stage.heard == [True, False])


@pytest.mark.parametrize("number", sorted(CLIENT_GONE))
async def test_a_client_that_gave_up_is_none(
    stage: Stage, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The next one may be accepted at once."""
    stage.meet(number)
    assert (stage.heard, stage.trouble.is_told, caplog.text) == ([], False, "")


async def test_it_is_told_once_and_so_is_its_end(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """However often it is tried again; where it is, and what it is."""
    caplog.set_level(logging.INFO)
    for _ in range(3):
        stage.meet(errno.EMFILE)
        await turns_until(lambda: not stage.trouble.is_waiting)
    stage.trouble.passed()
    stage.trouble.passed()

    host, port = stage.sock.getsockname()
    assert [record.getMessage() for record in caplog.records] == [
        f"accept on {host}:{port} failed: [Errno 24] Too many open files;"
        " connections wait in the backlog until it passes",
        f"accepting on {host}:{port} again",
    ]


async def test_it_has_not_passed_while_it_is_too_soon(stage: Stage) -> None:
    """What was accepted in the same batch came before it."""
    stage.meet(errno.EMFILE)
    stage.trouble.passed()
    assert stage.trouble.is_told


async def test_after_the_end_nobody_tries_again(stage: Stage) -> None:
    """The socket is closed."""
    stage.meet(errno.EMFILE)
    stage.trouble.forget()
    stage.trouble.forget()
    await turns(50)
    assert (stage.heard, stage.trouble.is_waiting) == ([True], False)

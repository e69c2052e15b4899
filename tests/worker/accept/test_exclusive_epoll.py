"""One of many workers is woken for a socket, in uvloop's own epoll, and accepts or is told."""

import asyncio
import contextvars
import itertools
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import pytest

from aiocluster.ipc.accept_queue import backlog_of
from aiocluster.worker.accept import exclusive_epoll as module
from aiocluster.worker.accept.exclusive_epoll import ExclusiveReader, ExclusiveServer, epoll_of
from tests.support.connections import open_fds
from tests.support.entrance import is_exclusive, is_open, is_watched, watching
from tests.support.waiting import turns, turns_until

_NAME: contextvars.ContextVar[str] = contextvars.ContextVar("name")


class Stage:
    """A listening socket, and what wakes for it."""

    def __init__(self) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.sock.setblocking(False)
        epoll = epoll_of(asyncio.get_running_loop())
        assert epoll is not None
        self.epoll = epoll
        self.served = 0
        self.woken = 0
        self.serving = ExclusiveServer(self.sock, epoll, self._serve)
        self.reading = ExclusiveReader(self.sock, epoll, self._wake)
        self.clients: list[socket.socket] = []

    def _serve(self) -> asyncio.Protocol:
        self.served += 1
        return asyncio.Protocol()

    def _wake(self) -> None:
        self.woken += 1
        self.sock.accept()[0].close()

    def connect(self, count: int = 1) -> socket.socket:
        address = self.sock.getsockname()
        self.clients += [socket.create_connection(address) for _ in range(count)]
        return self.clients[-1]

    def close(self) -> None:
        self.serving.close()
        self.epoll.close()
        for sock in (*self.clients, self.sock):
            sock.close()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture(params=["reading", "serving"])
def waking(
    request: pytest.FixtureRequest, stage: Stage
) -> Iterator[ExclusiveReader | ExclusiveServer]:
    waking: ExclusiveReader | ExclusiveServer = getattr(stage, request.param)
    yield waking
    waking.stop()


async def test_it_is_woken_alone_again_and_again(
    stage: Stage, waking: ExclusiveReader | ExclusiveServer
) -> None:
    """From the first moments on, also after it has put itself last, or was stopped."""
    waking.start()
    await watching(stage.sock)
    for count in range(1, 6):
        stage.connect()
        await turns_until(lambda count=count: stage.served + stage.woken == count)  # type: ignore[misc]
        waking.requeue_waiter()
        assert is_exclusive(stage.sock)
    waking.stop()
    assert not is_watched(stage.sock)
    waking.start()
    await watching(stage.sock)


@pytest.mark.parametrize("at", range(6))
async def test_it_stops_whenever_that_comes(
    stage: Stage, waking: ExclusiveReader | ExclusiveServer, at: int
) -> None:
    """Before uvloop has registered the socket, between that and its replacement, after it."""
    for _ in range(3):
        waking.start()
        await turns(at)
        waking.stop()
    stage.connect()
    await turns(20)
    assert stage.served + stage.woken == 0
    assert not is_watched(stage.sock)

    waking.start()

    await turns_until(lambda: stage.served + stage.woken == 1)
    await watching(stage.sock)


async def test_to_stand_last_before_it_is_woken_alone_changes_nothing(
    stage: Stage, waking: ExclusiveReader | ExclusiveServer
) -> None:
    """Or when it is not woken at all."""
    waking.requeue_waiter()
    waking.start()
    waking.requeue_waiter()
    await watching(stage.sock)
    waking.stop()
    waking.requeue_waiter()
    assert not is_watched(stage.sock)


async def test_a_registration_that_failed_is_made_up_for(
    stage: Stage, waking: ExclusiveReader | ExclusiveServer
) -> None:
    """The kernel may have no room for it for a while; whoever looks lets it stand last."""
    waking.start()
    await watching(stage.sock)
    stage.epoll.unregister(waking._fd)  # as a registration that has failed leaves it

    waking.requeue_waiter()
    assert is_exclusive(stage.sock)

    stage.epoll.unregister(waking._fd)
    waking.stop()
    assert not is_watched(stage.sock)


async def test_one_connection_is_accepted_a_turn(stage: Stage) -> None:
    """A burst is everybody's who is awake."""
    stage.serving.start()
    await watching(stage.sock)
    stage.connect(20)
    counts = [0]
    while stage.served < 20:
        await asyncio.sleep(0)
        counts.append(stage.served)

    assert {after - before for before, after in itertools.pairwise(counts)} <= {0, 1}


async def test_the_backlog_stays_as_long_as_it_was(stage: Stage) -> None:
    """A server of uvloop's listens once more, with its own idea of that."""
    before = backlog_of(stage.sock)
    stage.serving.start()
    await watching(stage.sock)

    assert backlog_of(stage.sock) == before == 200


async def test_connections_have_the_context_in_which_it_was_started(stage: Stage) -> None:
    """So one who starts it chooses which."""
    names: list[str | None] = []

    def serve() -> asyncio.Protocol:
        names.append(_NAME.get(None))
        return asyncio.Protocol()

    serving = ExclusiveServer(stage.sock, stage.epoll, serve)
    alices = contextvars.copy_context()
    alices.run(_NAME.set, "alice")
    alices.run(serving.start)
    stage.connect()

    await turns_until(lambda: bool(names))

    assert names == ["alice"]
    serving.close()


async def test_what_it_has_accepted_outlives_it(stage: Stage) -> None:
    """Connections are the worker's, not the listening socket's."""
    stage.serving.start()
    client = stage.connect()
    await turns_until(lambda: stage.served == 1)

    stage.serving.close()
    await turns(20)

    assert is_open(client)


@pytest.mark.parametrize("at", range(6))
async def test_closed_it_leaves_nothing_open(at: int) -> None:
    """However far it has come; it may be closed twice."""
    before = open_fds()
    stage = Stage()
    stage.serving.start()
    await turns(at)

    stage.serving.close()
    stage.close()
    await turns()

    assert open_fds() - before == set()


@pytest.mark.parametrize("broken", ["dup", "listen"])
async def test_what_cannot_start_leaves_nothing_and_may_start_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """It needs a descriptor, and what uvloop needs."""
    before = open_fds()

    def fail(*_: object) -> Any:
        return os.open("/nowhere", os.O_RDONLY)

    if broken == "dup":
        serving = ExclusiveServer(_Undoubled(stage.sock), stage.epoll, stage._serve)  # type: ignore[arg-type]
    else:
        serving = ExclusiveServer(stage.sock, stage.epoll, stage._serve)
        monkeypatch.setattr(module, "_server_on", fail)
    with pytest.raises(FileNotFoundError):
        serving.start()
    assert open_fds() == before

    monkeypatch.undo()
    serving._sock = stage.sock
    serving.start()
    stage.connect()

    await turns_until(lambda: stage.served == 1)
    serving.close()


class _Undoubled:
    """A socket of which there can be no duplicate now."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def dup(self) -> socket.socket:
        raise FileNotFoundError


async def test_a_uvloop_that_waits_where_it_never_did_is_told() -> None:
    """Rather than a server that never serves."""

    class Loop:
        def create_server(self, *args: Any, **named: Any) -> Awaitable[None]:
            return asyncio.sleep(1000)

    with pytest.raises(RuntimeError, match="create_server waits"):
        module._server_on(Loop(), asyncio.Protocol, None, 1)  # type: ignore[arg-type]

"""Some idle connections leave a worker that goes on serving (moving.py's Relief)."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence

import pytest
from aiohttp import web

from aiocluster.config.settings import settings_from
from aiocluster.ipc.handoff import Client
from aiocluster.worker.http.migration import PartialMigration
from aiocluster.worker.http.service import AiohttpService
from tests.support.connections import tcp_pair
from tests.support.waiting import soon, turns, turns_until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Stage:
    """A service, its clients, and what it gives back."""

    def __init__(self) -> None:
        self.has_room = True
        self.given = 0
        self.go = asyncio.Event()
        self.begun = 0
        self.clients: list[socket.socket] = []

    async def start(self) -> None:
        async def wait(request: web.Request) -> web.Response:
            self.begun += 1
            await self.go.wait()
            return web.Response()

        app = web.Application()
        app.router.add_get("/", wait)
        row = memoryview(bytearray(16 * 8)).cast("Q")
        self.service = AiohttpService(lambda: app, settings_from({}), row)
        await self.service.start()
        self.relief = PartialMigration(self.service.server, self.give_back)

    def give_back(
        self, fds: Sequence[int], listeners: Sequence[int], clients: Sequence[Client | None]
    ) -> bool:
        """Keep none, or have no room."""
        self.given += len(fds) * self.has_room
        return self.has_room

    async def connect(self, count: int, *, busy: bool = False) -> None:
        """Let clients connect, and be between two requests, or within one."""
        before = self.begun
        for _ in range(count):
            client, accepted = tcp_pair()
            client.setblocking(False)
            self.clients.append(client)
            self.service.adopt(os.dup(accepted.fileno()), accepted.family)
            accepted.close()
            if busy:
                client.send(GET)
        await turns_until(lambda: self.begun == before + count * busy)
        await turns_until(lambda: self.idle == len(self.clients) - self.begun)

    @property
    def idle(self) -> int:
        """How many connections are between two requests."""
        return sum(handler.is_between_requests() for handler in self.service.server.metered)

    @property
    def open(self) -> int:
        """How many connections the service has."""
        return len(self.service.server.connections)

    async def close(self) -> None:
        self.relief.stop()
        self.relief.stop()
        self.go.set()
        for client in self.clients:
            client.close()
        self.service.hurry(0.0, moving=False)
        await soon(self.service.drain())
        await turns()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    await stage.start()
    yield stage
    await stage.close()


async def test_as_many_as_are_asked_for_go(stage: Stage) -> None:
    """At once, while they are idle; the others stay."""
    await stage.connect(50)
    stage.relief.give(40)
    await turns()

    assert (stage.given, stage.open) == (40, 10)


async def test_fewer_go_where_there_are_fewer(stage: Stage) -> None:
    """Idle ones; what is in a request stays."""
    await stage.connect(3)
    await stage.connect(2, busy=True)
    stage.relief.give(100)
    await turns()

    assert (stage.given, stage.open) == (3, 2)


async def test_those_that_are_busy_go_when_they_are_idle(stage: Stage) -> None:
    """For a few looks."""
    await stage.connect(4, busy=True)
    stage.relief.give(2)
    assert stage.given == 0
    stage.go.set()

    await turns_until(lambda: stage.given == 2)
    await turns(20)
    assert stage.open == 2


async def test_it_does_not_look_for_ever(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked will ask again."""
    monkeypatch.setattr("aiocluster.worker.http.migration._PICK_INTERVAL", 0.0)
    monkeypatch.setattr("aiocluster.worker.http.migration._PICKS", 3)
    await stage.connect(1, busy=True)
    stage.relief.give(1)
    await turns_until(lambda: stage.relief._timer is None)
    stage.go.set()
    await turns(20)

    assert stage.given == 0


async def test_the_newer_count_holds(stage: Stage) -> None:
    """They are not added up."""
    await stage.connect(5, busy=True)
    stage.relief.give(4)
    stage.relief.give(1)
    stage.go.set()

    await turns_until(lambda: stage.given > 0)
    await turns(20)
    assert stage.given == 1


async def test_without_room_they_stay(stage: Stage) -> None:
    """And are served, until there is some at a later look."""
    await stage.connect(2)
    stage.has_room = False
    stage.relief.give(2)
    await turns()
    assert stage.open == 2
    stage.has_room = True

    await turns_until(lambda: stage.given == 2)


async def test_once_stopped_nothing_goes(stage: Stage) -> None:
    """A drain moves them all in its own way."""
    await stage.connect(2, busy=True)
    stage.relief.give(2)
    stage.relief.stop()
    stage.go.set()
    await turns_until(lambda: stage.relief._timer is None)

    assert stage.given == 0

"""Connections that leave a worker, over real sockets; the test plays the primary."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence

import pytest
from aiohttp import web

from aiocluster.config.settings import settings_from
from aiocluster.ipc.handoff import Client
from aiocluster.ipc.scoreboard import CONNECTIONS_CLOSED
from aiocluster.worker.http.migration import Migration
from aiocluster.worker.http.service import AiohttpService
from tests.support.connections import open_fds, tcp_pair
from tests.support.waiting import soon, turns, turns_until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Stage:
    """Two services, and what the first one gives to the second."""

    def __init__(self) -> None:
        self.has_room = True
        self.batches: list[int] = []
        self.listeners: list[int] = []
        self.row = memoryview(bytearray(16 * 8)).cast("Q")
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.clients: list[socket.socket] = []

    async def start(self) -> None:
        self.old, self.new = await self._service("old"), await self._service("new")
        self.mover = Migration(self.old.server, self.give_back)

    async def _service(self, name: str) -> AiohttpService:
        async def answer(request: web.Request) -> web.Response:
            return web.Response(text=name)

        async def wait(request: web.Request) -> web.Response:
            self.begun.set()
            await self.go.wait()
            return web.Response(text=name)

        app = web.Application()
        app.add_routes([web.get("/", answer), web.get("/wait", wait)])
        row = self.row if name == "old" else memoryview(bytearray(16 * 8)).cast("Q")
        service = AiohttpService(lambda: app, settings_from({}), row)
        await service.start()
        return service

    def give_back(
        self, fds: Sequence[int], listeners: Sequence[int], clients: Sequence[Client | None]
    ) -> bool:
        """Take duplicates, as the kernel does, or have no room."""
        if not self.has_room:
            return False
        self.batches.append(len(fds))
        self.listeners += listeners
        for fd, client in zip(fds, clients, strict=True):
            self.new.adopt(os.dup(fd), socket.AF_INET, client)
        return True

    async def connect(self, count: int = 1, *, listener: int = 0) -> list[socket.socket]:
        """Return the clients' ends of connections that the first service has."""
        for _ in range(count):
            client, accepted = tcp_pair()
            client.setblocking(False)
            self.clients.append(client)
            self.old.adopt(accepted.detach(), accepted.family, listener=listener)
        await turns()
        return self.clients[-count:]

    async def close(self) -> None:
        self.mover.stop()
        for client in self.clients:
            client.close()
        for service in (self.old, self.new):
            service.hurry(0.0, moving=False)
            await soon(service.drain())
        await turns()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    await stage.start()
    yield stage
    await stage.close()


async def ask(client: socket.socket, request: bytes = GET) -> str:
    """Return who answers."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, request)
    return await answer(client)


async def answer(client: socket.socket) -> str:
    data = await soon(asyncio.get_running_loop().sock_recv(client, 10_000))
    assert data.startswith(b"HTTP/1.1 200 OK")
    return data.split(b"\r\n\r\n")[1].decode()


async def test_an_idle_connection_goes_on_at_another(stage: Stage) -> None:
    """The client is answered by the one, then by the other, on one connection."""
    (client,) = await stage.connect()
    assert await ask(client) == "old"
    await turns()

    stage.mover.start()

    assert await ask(client) == "new"
    assert await ask(client) == "new"
    await turns_until(lambda: stage.row[CONNECTIONS_CLOSED] == 1)
    assert stage.old.server.connections == []


async def test_a_connection_goes_back_as_one_of_its_listener(stage: Stage) -> None:
    """Each of its own, in one batch."""
    for listener in (3, 0, 7):
        await stage.connect(listener=listener)

    stage.mover.start()

    assert (stage.batches, stage.listeners) == ([3], [3, 0, 7])


async def test_what_arrives_at_the_moment_of_the_move_is_not_lost(stage: Stage) -> None:
    """It waits in the kernel for whoever reads next, and nobody has read it here."""
    (client,) = await stage.connect()
    client.send(GET)
    assert stage.old.server.metered[0].is_between_requests()

    stage.mover.start()

    assert await answer(client) == "new"


async def test_many_move_in_batches(stage: Stage) -> None:
    """Small ones, so that a primary at its limit of descriptors can still take some."""
    await stage.connect(70)

    stage.mover.start()
    await turns_until(lambda: sum(stage.batches) == 70)

    assert stage.batches == [32, 32, 6]


async def test_between_the_batches_requests_are_served(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One on a connection that is to move does not wait for all the others."""
    monkeypatch.setattr("aiocluster.worker.http.migration._SLICE_PAUSE", 1000.0)
    clients = await stage.connect(70)
    stage.mover.start()
    assert stage.batches == [32]

    assert await ask(clients[-1]) == "old"


async def test_a_batch_that_finds_no_room_is_the_next_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as there is room, and not at the next look at all."""
    monkeypatch.setattr("aiocluster.worker.http.migration._SWEEP_INTERVAL", 1000.0)
    await stage.connect(40)
    stage.has_room = False
    stage.mover.start()
    await turns(20)
    stage.has_room = True

    await turns_until(lambda: stage.batches == [32, 8])


async def test_a_connection_moves_as_soon_as_its_response_is_out(stage: Stage) -> None:
    """Nothing is waited for but the end of the request."""
    (client,) = await stage.connect()
    await asyncio.get_running_loop().sock_sendall(client, GET.replace(b"/", b"/wait", 1))
    await soon(stage.begun.wait())
    stage.mover.start()
    assert stage.batches == []
    stage.go.set()

    assert await answer(client) == "old"

    await turns()
    assert stage.batches == [1]
    assert await ask(client) == "new"


async def test_without_room_a_connection_stays(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is served as before, until there is room at a later look."""
    monkeypatch.setattr("aiocluster.worker.http.migration._SWEEP_INTERVAL", 0.001)
    (client,) = await stage.connect()
    stage.has_room = False
    stage.mover.start()
    assert await ask(client) == "old"
    stage.has_room = True

    await turns_until(lambda: stage.batches == [1])

    assert await ask(client) == "new"


async def test_a_stopped_mover_moves_nothing(stage: Stage) -> None:
    """Also not the connection whose response is just out."""
    (client,) = await stage.connect()
    await asyncio.get_running_loop().sock_sendall(client, GET.replace(b"/", b"/wait", 1))
    await soon(stage.begun.wait())
    stage.mover.start()
    stage.mover.stop()
    stage.go.set()
    assert await answer(client) == "old"
    await turns()

    assert await ask(client) == "old"
    assert stage.batches == []


async def test_a_moved_connection_leaves_no_descriptor_behind(stage: Stage) -> None:
    """One for one: the old worker's is closed when the new worker has its own."""
    await stage.connect(10)
    before = len(open_fds())

    stage.mover.start()
    await turns_until(lambda: stage.row[CONNECTIONS_CLOSED] == 10)

    assert len(open_fds()) == before

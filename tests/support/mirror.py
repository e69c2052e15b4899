"""An app that answers with what it was sent and who it is, and clients that are told apart."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import aiohttp
from aiohttp import web

import aiocluster
from aiocluster import Cluster
from aiocluster.primary.ingress.inspector import ConnectionInspector
from aiocluster.primary.ingress.listener_group import ListenerGroup
from tests.support.cluster import url_of
from tests.support.program import PATIENCE
from tests.support.wire import Response, Wire

MIRROR_APP = "tests.support.mirror:make_app"


# ---- the app


def _who() -> dict[str, str]:
    worker = aiocluster.current_worker()
    assert worker is not None
    return {"X-Slot": str(worker.slot), "X-Worker": str(worker.id)}


async def mirror(request: web.Request) -> web.Response:
    """Answer with the request's body, and say in the head who answers whom."""
    headers = {**_who(), "X-Path": request.path, "X-Remote": str(request.remote)}
    return web.Response(body=await request.read(), headers=headers)


async def websocket(request: web.Request) -> web.WebSocketResponse:
    """Answer each message with the message and the number of the worker."""
    opened = web.WebSocketResponse()
    await opened.prepare(request)
    async for message in opened:
        await opened.send_str(f"{message.data} {_who()['X-Worker']}")
    return opened


def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/{client}/websocket", websocket)
    app.router.add_route("*", "/{rest:.*}", mirror)
    return app


# ---- its clients


class Place(NamedTuple):
    """Where a connection has ended up."""

    slot: int
    worker: int


def place_in(response: Response) -> Place:
    """Read who has answered."""
    assert response.status == 200, response
    return Place(int(response.headers["x-slot"]), int(response.headers["x-worker"]))


class Visitor:
    """One client: it has an address, a session, a cookie and a path that are its own."""

    def __init__(self, cluster: Cluster, number: int, *, nth: int = 1) -> None:
        self.address = f"127.0.{1 + number // 250}.{1 + number % 250}"
        self.name = f"visitor-{number}"
        self.headers = {"X-Session-Id": self.name, "Cookie": f"lang=en; sid={self.name}; x=y"}
        self.url = url_of(cluster, "", nth=nth)

    def request(self, body: bytes = b"") -> bytes:
        """Return a request of this client's."""
        lines = [
            f"POST /{self.name}/page HTTP/1.1",
            "Host: test",
            *(f"{name}: {value}" for name, value in self.headers.items()),
            f"Content-Length: {len(body)}",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body

    def connect(self) -> Wire:
        """Return a connection, to be opened."""
        return Wire(self.url, source=self.address)

    async def ask(self, wire: Wire) -> Place:
        """Ask on a connection that is open; return who answers."""
        await wire.send(self.request())
        return place_in(await wire.response())

    async def visit(self) -> Place:
        """Ask on a connection of its own; return who answers."""
        async with self.connect() as wire:
            return await self.ask(wire)

    @asynccontextmanager
    async def websocket(self) -> AsyncIterator["WebSocket"]:
        """Open a WebSocket."""
        connector = aiohttp.TCPConnector(local_addr=(self.address, 0))
        async with (
            aiohttp.ClientSession(connector=connector, headers=self.headers) as session,
            session.ws_connect(f"{self.url}/{self.name}/websocket") as opened,
        ):
            yield WebSocket(opened)


class WebSocket:
    """One that is open."""

    def __init__(self, opened: aiohttp.ClientWebSocketResponse) -> None:
        self._opened = opened

    async def worker(self) -> int:
        """Send a message; return the number of the worker that answers it."""
        await self._opened.send_str("hello")
        text, number = (await self._opened.receive_str(timeout=PATIENCE)).split()
        assert text == "hello"
        return int(number)


def visitors(cluster: Cluster, count: int, *, nth: int = 1) -> list[Visitor]:
    """Return so many clients; the same ones each time."""
    return [Visitor(cluster, number, nth=nth) for number in range(count)]


async def visits(clients: list[Visitor]) -> dict[str, Place]:
    """Let each of them ask once, on a connection of its own; return who answers whom."""
    return {client.name: await client.visit() for client in clients}


# ---- what is inside the primary


def door_of(cluster: Cluster, nth: int = 1, *, role: str = "web") -> ListenerGroup:
    """Return the door that a role's connections come by."""
    assert cluster._primary is not None
    return cluster._primary.roles[role].ingress._ingress[nth - 1]


def peeker_of(cluster: Cluster, *, role: str = "web") -> ConnectionInspector:
    """Return what looks at connections before they are given to a worker."""
    inspector = door_of(cluster, role=role).inspector
    assert inspector is not None
    return inspector


async def soon_true(condition: Callable[[], bool], what: Callable[[], object] = str) -> None:
    """Turn the loop until `condition()`, for facts of the primary that no event tells."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 (no event tells it)
            await asyncio.sleep(0.001)

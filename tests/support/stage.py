"""An aiohttp app as a service in this loop, and its clients."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from aiocluster.config.settings import settings_from
from aiocluster.ipc.scoreboard import CONNECTIONS_CLOSED
from aiocluster.worker.http.service import AiohttpService
from tests.support.connections import tcp_pair
from tests.support.waiting import soon


class Stage:
    """A service and its clients."""

    def __init__(
        self,
        app: web.Application,
        run_on_drain_callbacks: Callable[[], Awaitable[None]] | None = None,
        on_failure: Callable[[], None] | None = None,
        **settings: Any,
    ) -> None:
        self.row = memoryview(bytearray(16 * 8)).cast("Q")
        self.adopted = 0
        checked = settings_from(settings)
        self.service = AiohttpService(
            lambda: app,
            checked,
            self.row,
            run_on_drain_callbacks=run_on_drain_callbacks,
            on_failure=on_failure,
        )
        self.clients: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def adopt(self, accepted: socket.socket) -> None:
        """Give the service a connection."""
        self.adopted += 1
        self.service.adopt(accepted.detach(), socket.AF_INET)

    @property
    def open(self) -> int:
        return self.adopted - self.row[CONNECTIONS_CLOSED]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Give the service a connection; return the client's side."""
        client, accepted = tcp_pair()
        self.adopt(accepted)
        streams = await asyncio.open_connection(sock=client)
        self.clients.append(streams)
        return streams

    async def drain(self, seconds: float) -> None:
        """End as in a stop without a grace."""
        await soon(self.begin_stop(seconds))

    def begin_stop(self, seconds: float, *, idle_grace: float = 0.0) -> "asyncio.Task[None]":
        """Begin to end as in a stop; the task is done when that is over."""
        self.service.hurry(seconds, moving=False, stopping=True, idle_grace=idle_grace)
        return asyncio.create_task(self.service.drain())

    def close(self) -> None:
        for _, writer in self.clients:
            writer.transport.abort()


MakeStage = Callable[..., Awaitable[Stage]]


async def get(stage: Stage, path: str = "/") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request on a new connection."""
    reader, writer = await stage.connect()
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return reader, writer


async def response(reader: asyncio.StreamReader) -> str:
    """Read one response; return its head."""
    head = (await soon(reader.readuntil(b"\r\n\r\n"))).decode()
    length = int(head.lower().partition("content-length: ")[2].split()[0])
    await soon(reader.readexactly(length))
    return head


class App:
    """An app whose handler the test holds, and that writes down its hooks."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.hooks: list[str] = []
        self.application = web.Application()
        self.application.router.add_get("/", self._quick)
        self.application.router.add_get("/slow", self._slow)
        for name in ("on_startup", "on_shutdown", "on_cleanup"):
            getattr(self.application, name).append(self._hook(name))

    async def _quick(self, request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def _slow(self, request: web.Request) -> web.Response:
        self.begun.set()
        await self.go.wait()
        return web.Response(text="done")

    def _hook(self, name: str) -> Callable[[web.Application], Awaitable[None]]:
        async def hook(application: web.Application) -> None:
            self.hooks.append(name)

        return hook

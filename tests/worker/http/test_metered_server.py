"""What is counted and timed, with a real client on connections given to the service."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Any

import pytest
from aiohttp import ClientSession, TCPConnector, WSServerHandshakeError, web
from aiohttp.web_protocol import RequestHandler

from aiocluster.config.settings import settings_from
from aiocluster.ipc.scoreboard import (
    CONNECTIONS_CLOSED,
    REQUESTS_BEGUN,
    REQUESTS_DONE,
    RESPONSES,
    ROOM_WANTED,
)
from aiocluster.metrics.instruments import count, mean
from aiocluster.worker.accept.capacity import AcceptCapacity
from aiocluster.worker.http.metered_server import MeteredServer, Sign
from aiocluster.worker.http.service import AiohttpService
from aiocluster.worker.services.base import Upstream
from tests.chaos.websocket import upgrade
from tests.support.connections import tcp_pair
from tests.support.waiting import soon, turns, turns_until

HELLO = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Stage:
    """A service behind a port, as the primary would feed it, and a client."""

    def __init__(self, app: web.Application | None = None, **settings: Any) -> None:
        self.row = memoryview(bytearray(16 * 8)).cast("Q")
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        app = app or web.Application()
        app.router.add_get("/", self._hello)
        app.router.add_get("/status/{status}", self._status)
        app.router.add_get("/raise", self._raise)
        app.router.add_get("/found", self._found)
        app.router.add_get("/slow", self._slow)
        app.router.add_get("/ws", self._websocket)
        app.router.add_get("/ws/slow", self._slow_websocket)
        app.router.add_get("/ws/failing", self._failing_websocket)
        app.router.add_get("/wait", self._wait)
        self.go = asyncio.Event()
        self.adopted = 0
        self.told: list[tuple[int, int]] = []  # what was counted when it told of room
        made = settings_from(settings)
        tell = lambda: self.told.append((sum(self.counted), self.open))  # noqa: E731
        self.room = AcceptCapacity(self.row, made, tell)
        self.service = AiohttpService(lambda: app, made, self.row, Upstream(self.room))

    def adopt(self, accepted: socket.socket) -> None:
        """Give the service a connection."""
        self.adopted += 1
        self.service.adopt(accepted.detach(), socket.AF_INET)

    @property
    def open(self) -> int:
        return self.adopted - self.row[CONNECTIONS_CLOSED]

    async def start(self) -> None:
        await self.service.start()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept())
        self.client = ClientSession(connector=TCPConnector(limit=0))

    async def _accept(self) -> None:
        while True:
            sock, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            self.adopt(sock)

    async def get(self, path: str = "/") -> int:
        async with self.client.get(f"http://127.0.0.1:{self.port}{path}") as response:
            await response.read()
            return response.status

    @property
    def counted(self) -> tuple[int, int]:
        return self.row[REQUESTS_BEGUN], self.row[REQUESTS_DONE]

    @property
    def responses(self) -> list[int]:
        return self.row[RESPONSES : RESPONSES + 5].tolist()

    async def close(self) -> None:
        await self.client.close()
        self._accepting.cancel()
        await asyncio.wait({self._accepting})
        self._listener.close()
        self.service.hurry(0.0, moving=False)
        await soon(self.service.drain())
        await turns()

    async def _hello(self, request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def _status(self, request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["status"]))

    async def _raise(self, request: web.Request) -> web.Response:
        raise RuntimeError("the user's mistake")

    async def _found(self, request: web.Request) -> web.Response:
        raise web.HTTPNotFound

    async def _wait(self, request: web.Request) -> web.Response:
        self.begun.set()
        await self.go.wait()
        return web.Response(text="done")

    async def _slow(self, request: web.Request) -> web.Response:
        self.begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        self.begun.set()
        async for message in websocket:
            await websocket.send_str(message.data)
        return websocket

    async def _slow_websocket(self, request: web.Request) -> web.WebSocketResponse:
        websocket = SlowWebSocket(self)
        await websocket.prepare(request.clone())
        await websocket.receive()
        return websocket

    async def _failing_websocket(self, request: web.Request) -> web.WebSocketResponse:
        websocket = FailingWebSocket()
        await websocket.prepare(request)
        return websocket


class SlowWebSocket(web.WebSocketResponse):
    """One that is held while it opens."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    async def _write_headers(self) -> None:
        self._stage.begun.set()
        await self._stage.go.wait()
        await super()._write_headers()


class FailingWebSocket(web.WebSocketResponse):
    """One that does not get to open."""

    async def _write_headers(self) -> None:
        raise RuntimeError("the user's mistake")


MakeStage = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def make_stage() -> AsyncIterator[MakeStage]:
    stages: list[Stage] = []

    async def make(app: web.Application | None = None, **settings: Any) -> Stage:
        stage = Stage(app, **settings)
        await stage.start()
        stages.append(stage)
        return stage

    yield make
    for stage in stages:
        await stage.close()


@pytest.fixture
async def stage(make_stage: MakeStage) -> Stage:
    return await make_stage()


async def test_each_request_is_counted_once(stage: Stage) -> None:
    """Begun when its head was read, done when its response is written."""
    for _ in range(5):
        await stage.get()

    assert stage.counted == (5, 5)


async def test_who_wants_room_hears_of_each_end_once_it_is_counted(stage: Stage) -> None:
    """Of a request and of a connection; else it would look too early, and find none."""
    stage.row[ROOM_WANTED] = 1
    async with ClientSession() as client:
        async with client.get(f"http://127.0.0.1:{stage.port}/") as response:
            await response.read()
        assert stage.told == [(2, 1)]
    await turns_until(lambda: stage.open == 0)
    assert stage.told == [(2, 1), (2, 0)]

    stage.row[ROOM_WANTED] = 0
    await stage.get()
    assert len(stage.told) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_connection_that_cannot_be_made_is_closed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it, so nobody else would."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def fail(handler: RequestHandler, transport: object) -> None:
        raise LookupError("not today")

    monkeypatch.setattr(RequestHandler, "connection_made", fail)
    client, accepted = tcp_pair()
    with client:
        stage.adopt(accepted)
        assert await soon(asyncio.get_running_loop().sock_recv(client, 1)) == b""
    assert "not today" in [str(context.get("exception")) for context in reported]


async def test_a_request_under_way_is_begun_and_not_done(stage: Stage) -> None:
    """The difference is what is in flight."""
    request = asyncio.create_task(stage.get("/wait"))
    await soon(stage.begun.wait())
    assert stage.counted == (1, 0)

    stage.go.set()
    await soon(request)

    assert stage.counted == (1, 1)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", 2),
        ("/status/204", 2),
        ("/status/304", 3),
        ("/status/418", 4),
        ("/found", 4),
        ("/nowhere", 4),
        ("/raise", 5),
        ("/status/599", 5),
    ],
)
async def test_a_response_is_counted_by_its_class(stage: Stage, path: str, kind: int) -> None:
    """Returned, raised or made by aiohttp itself: a status is a status."""
    status = await stage.get(path)

    assert status // 100 == kind
    assert stage.responses == [int(n == kind) for n in range(1, 6)]
    assert stage.counted == (1, 1)


@pytest.mark.parametrize("status", [600, 799])
async def test_a_status_of_no_class_is_counted_in_none(stage: Stage, status: int) -> None:
    """It is a request done, and touches nothing else of the scoreboard."""
    others = stage.row[RESPONSES + 5 :].tolist()
    assert await stage.get(f"/status/{status}") == status

    assert stage.counted == (1, 1)
    assert stage.responses == [0, 0, 0, 0, 0]
    assert stage.row[RESPONSES + 5 :].tolist() == others


async def test_a_request_that_is_none_is_counted_as_an_error(stage: Stage) -> None:
    """Garbage gets its 400, and shows."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    writer.write(b"NO HTTP AT ALL\r\n\r\n")
    await soon(reader.read())
    writer.close()

    assert stage.responses == [0, 0, 0, 1, 0]
    assert stage.counted == (1, 1)


async def test_connections_are_counted_while_they_are_open(stage: Stage) -> None:
    """Up when they come, down when they go."""
    clients = [await asyncio.open_connection("127.0.0.1", stage.port) for _ in range(3)]
    await turns_until(lambda: stage.open == 3)

    for _, writer in clients:
        writer.close()

    await turns_until(lambda: stage.open == 0)


async def test_pipelined_requests_are_counted_each(stage: Stage) -> None:
    """Several in one packet are several."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    writer.write(HELLO * 3)
    await turns_until(lambda: stage.counted == (3, 3))
    writer.close()

    assert stage.responses == [0, 3, 0, 0, 0]
    assert reader


async def test_latency_is_measured_once_a_request(stage: Stage) -> None:
    """From the head to the end of the response, waiting included."""
    request = asyncio.create_task(stage.get("/wait"))
    await soon(stage.begun.wait())
    asyncio.get_running_loop().call_later(0.05, stage.go.set)
    await soon(request)
    buckets = stage.service.server.latency.take()

    assert count(buckets) == 1
    assert 0.04 < mean(buckets) < 10.0
    assert stage.service.server.latency.take() == {}


async def test_a_websocket_is_a_request_but_no_latency(stage: Stage) -> None:
    """How long people chat says nothing about how quick the app is."""
    async with stage.client.ws_connect(f"http://127.0.0.1:{stage.port}/ws") as websocket:
        await websocket.send_str("hello")
        assert await websocket.receive_str() == "hello"
        assert stage.counted == (1, 0)
    await turns_until(lambda: stage.counted == (1, 1))

    assert stage.responses == [1, 0, 0, 0, 0]
    assert stage.service.server.latency.take() == {}


async def test_a_websocket_is_known_from_its_opening_to_its_end(stage: Stage) -> None:
    """That is how a drain finds it; an ordinary request is not even looked at."""
    await stage.get()
    known = stage.service.server.websockets._open
    async with stage.client.ws_connect(f"http://127.0.0.1:{stage.port}/ws"):
        await soon(stage.begun.wait())
        (websocket,) = known
        assert websocket.prepared
        del websocket
    gc.collect()
    await turns_until(lambda: not len(known))


async def test_a_websocket_that_opens_while_others_are_told_is_told_when_it_is_open(
    stage: Stage,
) -> None:
    """Before that it cannot hear it, and afterwards nobody else would say it."""
    async with stage.client.ws_connect(f"http://127.0.0.1:{stage.port}/ws") as first:
        await soon(stage.begun.wait())
        stage.begun.clear()
        opening = asyncio.create_task(
            stage.client.ws_connect(f"http://127.0.0.1:{stage.port}/ws/slow")
        )
        await soon(stage.begun.wait())
        stage.service.server.websockets.begin_telling(0.0)
        assert (await soon(first.receive())).data == 1001

        stage.go.set()

        second = await soon(opening)
        assert (await soon(second.receive())).data == 1001
        await second.close()


async def test_a_websocket_that_fails_to_open_is_not_known(stage: Stage) -> None:
    """There is nobody to be told."""
    with pytest.raises(WSServerHandshakeError):
        await stage.client.ws_connect(f"http://127.0.0.1:{stage.port}/ws/failing")

    assert len(stage.service.server.websockets._open) == 0


class OwnRequest(web.Request):
    """A request class of an app."""


def app_with_own_factory() -> web.Application:
    """Return an app that makes its requests as aiohttp's own do, but for their class."""
    with pytest.warns(DeprecationWarning, match="discouraged"):

        class App(web.Application):
            def _make_request(self, *args: Any, **options: Any) -> web.Request:
                return super()._make_request(*args, **{"_cls": OwnRequest, **options})

    return App()


def app_with_factory_of_one_class() -> web.Application:
    """Return an app whose factory has no parameter for the class."""
    with pytest.warns(DeprecationWarning, match="discouraged"):

        class App(web.Application):
            def _make_request(  # type: ignore[override]
                self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any
            ) -> web.Request:
                loop = asyncio.get_running_loop()
                return OwnRequest(message, payload, protocol, writer, task, loop)

    return App()


async def websocket_until_told(request: web.BaseRequest) -> web.WebSocketResponse:
    websocket = web.WebSocketResponse()
    await websocket.prepare(request)
    await websocket.receive()
    return websocket


def upgrade_to(protocol: str) -> dict[str, str]:
    return {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": protocol, "HTTP2-Settings": "AAMA"}


@pytest.mark.parametrize("prefix", ["", "/sub"])
@pytest.mark.parametrize("make_app", [app_with_own_factory, app_with_factory_of_one_class])
async def test_handlers_get_the_request_class_of_their_app(
    make_stage: MakeStage, make_app: Callable[[], web.Application], prefix: str
) -> None:
    """For ordinary requests, refused upgrades and WebSockets, which a drain knows all the same."""
    seen: list[type[web.BaseRequest]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(type(request))
        return web.Response(text="hello")

    async def open_websocket(request: web.Request) -> web.StreamResponse:
        seen.append(type(request))
        return await websocket_until_told(request)

    app, sub_app = make_app(), web.Application()
    for routes in (app, sub_app):
        routes.add_routes([web.get("/own", answer), web.get("/own/ws", open_websocket)])
    app.add_subapp("/sub", sub_app)
    stage = await make_stage(app)
    url = f"http://127.0.0.1:{stage.port}{prefix}/own"

    for headers in ({}, upgrade_to("h2c"), upgrade_to("websocket")):
        async with stage.client.get(url, headers=headers) as response:
            assert (response.status, await response.text()) == (200, "hello")
    async with stage.client.ws_connect(url + "/ws") as websocket:
        websockets = stage.service.server.websockets
        await turns_until(lambda: len(websockets._open) == 1)
        websockets.begin_telling(0.0)
        assert (await soon(websocket.receive())).data == 1001

    assert seen == [OwnRequest] * 4


async def test_a_websocket_needs_no_application(stage: Stage) -> None:
    """A drain knows those of a handler that gets plain requests, too."""
    server = MeteredServer(web.Server(websocket_until_told), stage.row, stage.room)
    client, accepted = tcp_pair()
    with client:
        await asyncio.get_running_loop().connect_accepted_socket(server, accepted)
        client.sendall(upgrade("/", Random(1)))
        await turns_until(lambda: len(server.websockets._open) == 1)
    await soon(server.wait_empty())


@pytest.mark.parametrize("cancellation", [True, False])
async def test_a_request_whose_client_went_away_is_done_in_the_end(
    make_stage: MakeStage, cancellation: bool
) -> None:
    """What is in flight never leaks, whether its handler is cancelled or runs on."""
    stage = await make_stage(handler_cancellation=cancellation)
    _, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    writer.write(HELLO.replace(b"/", b"/slow" if cancellation else b"/wait", 1))
    await soon(stage.begun.wait())

    writer.transport.abort()
    await turns_until(lambda: stage.open == 0)
    if not cancellation:
        assert stage.counted == (1, 0)
        stage.go.set()
    await turns_until(lambda: stage.counted == (1, 1))

    assert stage.cancelled.is_set() is cancellation
    if cancellation:
        assert sum(stage.responses) == 0
        assert stage.service.server.latency.take() == {}


async def test_a_cut_request_is_done(stage: Stage) -> None:
    """A drain that runs out of time leaves nothing in flight."""
    _, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    writer.write(HELLO.replace(b"/", b"/slow", 1))
    await soon(stage.begun.wait())
    stage.service.hurry(0.0, moving=False)

    await soon(stage.service.drain())
    await turns_until(lambda: stage.counted == (1, 1))

    writer.close()
    assert stage.cancelled.is_set()


async def test_the_last_response_tells_the_client_to_go(stage: Stage) -> None:
    """So it does not try another request on a connection that is about to close."""
    url = f"http://127.0.0.1:{stage.port}/"
    async with stage.client.get(url) as response:
        assert response.headers.get("Connection") != "close"

    stage.service.server.begin_last_responses()

    async with stage.client.get(url) as response:
        assert response.headers["Connection"] == "close"
        assert response.status == 200
    await turns_until(lambda: stage.open == 0)


async def test_empty_means_no_connection_and_no_handler(stage: Stage) -> None:
    """A handler that outlives its client is waited for."""
    server = stage.service.server
    await soon(server.wait_empty())
    _, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    writer.write(HELLO.replace(b"/", b"/wait", 1))
    await soon(stage.begun.wait())
    empty = asyncio.create_task(server.wait_empty())
    writer.transport.abort()
    await turns_until(lambda: stage.open == 0)
    assert not empty.done()

    stage.go.set()

    await soon(empty)


@pytest.mark.parametrize(
    ("pieces", "sign"),
    [
        ([], Sign.PERHAPS),
        ([HELLO], Sign.NONE),
        ([b"GET /"], Sign.PART),
        ([HELLO, b"GET /"], Sign.PART),
        ([HELLO + b"GET /"], Sign.PART),
        ([HELLO, HELLO], Sign.NONE),
    ],
)
async def test_an_idle_connection_may_show_a_sign_of_its_next_request(
    stage: Stage, pieces: list[bytes], sign: Sign
) -> None:
    """By what has come of that, or by having asked nothing yet."""
    client, accepted = tcp_pair()
    with client:
        stage.adopt(accepted)
        await turns(20)
        for piece in pieces:
            client.sendall(piece)
            await turns(20)
        server = stage.service.server
        (handler,) = server.metered

        assert server.is_idle(handler)
        assert server.sign_of(handler) == sign


async def test_a_request_that_nobody_has_read_yet_is_a_sign_too(stage: Stage) -> None:
    """It came after the loop had looked; to close the connection now would lose it."""
    client, accepted = tcp_pair()
    with client:
        stage.adopt(accepted)
        client.sendall(HELLO)
        await turns_until(lambda: stage.counted == (1, 1))
        await turns(20)
        server = stage.service.server
        (handler,) = server.metered
        client.sendall(HELLO)

        assert server.sign_of(handler) == Sign.UNREAD

        await turns_until(lambda: stage.counted == (2, 2))
        await turns(20)
        assert server.sign_of(handler) == Sign.NONE


async def test_a_connection_with_a_request_is_not_idle(stage: Stage) -> None:
    """Its response is to come."""
    request = asyncio.create_task(stage.get("/wait"))
    await soon(stage.begun.wait())
    (handler,) = stage.service.server.metered

    assert not stage.service.server.is_idle(handler)

    stage.go.set()
    await soon(request)


async def test_the_unfinished_are_named(stage: Stage) -> None:
    """A request by what it asks, an idle connection by where it comes from."""
    idle_client, accepted = tcp_pair()
    host, port = idle_client.getsockname()
    stage.adopt(accepted)
    request = asyncio.create_task(stage.get("/wait"))
    await soon(stage.begun.wait())
    await turns_until(lambda: stage.open == 2)

    names = stage.service.server.unfinished()

    assert sorted(names) == ["GET /wait from 127.0.0.1", f"connection from ('{host}', {port})"]
    stage.go.set()
    await soon(request)
    idle_client.close()

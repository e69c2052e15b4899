"""How WebSockets end in a drain, over real sockets."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from aiohttp import WSCloseCode, web

from aiocluster.worker.http import closing_handshake as module
from aiocluster.worker.http.closing_handshake import Patience
from tests.chaos.websocket import CLOSE, TEXT, close_code, frame, upgrade
from tests.support.stage import MakeStage, Stage
from tests.support.waiting import soon, turns, turns_until
from tests.worker.http.test_metered_server import MakeStage as MakeServing
from tests.worker.http.test_metered_server import make_stage as make_serving  # noqa: F401

LONG = 1e6
ANSWER = frame(CLOSE, (1000).to_bytes(2, "big"), Random(1))
ENDLESS = b"x" * 2**20

Handler = Callable[[web.Request], Awaitable[web.WebSocketResponse]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def receive(request: web.Request) -> web.WebSocketResponse:
    """Wait for messages, as most handlers do."""
    websocket = web.WebSocketResponse()
    await websocket.prepare(request)
    async for _ in websocket:
        pass
    return websocket


async def push(request: web.Request) -> web.WebSocketResponse:
    """Send until that fails, and never receive."""
    websocket = web.WebSocketResponse(timeout=LONG)
    await websocket.prepare(request)
    while True:
        await websocket.send_bytes(b"")
        await asyncio.sleep(0)


async def wait(request: web.Request) -> web.WebSocketResponse:
    """Do something else while the socket is closed."""
    websocket = web.WebSocketResponse(timeout=LONG)
    await websocket.prepare(request)
    await turns_until(lambda: websocket.closed and request.transport is None)
    return websocket


async def fill(request: web.Request) -> web.WebSocketResponse:
    """Send more than fits into any buffer."""
    websocket = web.WebSocketResponse()
    await websocket.prepare(request)
    for _ in range(20):
        await websocket.send_bytes(ENDLESS)
    await websocket.receive()
    return websocket


def app_of(*handlers: Handler) -> web.Application:
    app = web.Application()
    app.add_routes([web.get(f"/{handler.__name__}", handler) for handler in handlers])
    return app


async def connect(stage: Stage, path: str) -> Streams:
    """Open a WebSocket by hand."""
    reader, writer = await stage.connect()
    writer.write(upgrade(path, Random(1)))
    assert (await soon(reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 101")
    return reader, writer


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, size = await soon(reader.readexactly(2))
    if size >= 126:
        length = await soon(reader.readexactly(2 if size == 126 else 8))
        size = int.from_bytes(length, "big")
    return first & 0xF, await soon(reader.readexactly(size))


async def read_close(reader: asyncio.StreamReader) -> int:
    """Read up to the close frame; return its code."""
    while True:
        kind, payload = await read_frame(reader)
        if kind == CLOSE:
            return close_code(payload)


@pytest.fixture
def _no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWER_TIME", LONG)


@pytest.fixture
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWER_TIME", 0.01)


@pytest.mark.usefixtures("_no_hurry")
@pytest.mark.parametrize("handler", [receive, push, wait])
async def test_a_connection_ends_after_both_close_frames(
    make_stage: MakeStage, handler: Handler
) -> None:
    """Not before, whatever its handler did meanwhile; what the client had sent is dropped."""
    stage = await make_stage(app_of(handler))
    reader, writer = await connect(stage, f"/{handler.__name__}")
    draining = asyncio.create_task(stage.drain(LONG))

    assert await read_close(reader) == WSCloseCode.GOING_AWAY
    writer.write(frame(TEXT, b"x" * 100_000, Random(1)))
    await turns(50)
    assert not reader.at_eof()
    writer.write(frame(TEXT, b"x" * 100_000, Random(1)) * 20 + ANSWER)

    assert await soon(reader.read()) == b""
    await soon(draining)
    assert stage.service.cut == []


@pytest.mark.usefixtures("_hurry")
@pytest.mark.parametrize("handler", [receive, push, wait])
async def test_a_client_that_never_answers_is_not_waited_for_long(
    make_stage: MakeStage, handler: Handler
) -> None:
    """Its connection ends all the same, however long the app would wait."""
    stage = await make_stage(app_of(handler))
    reader, writer = await connect(stage, f"/{handler.__name__}")
    draining = asyncio.create_task(stage.drain(LONG))

    assert await read_close(reader) == WSCloseCode.GOING_AWAY
    assert await soon(reader.read()) == b""
    writer.close()

    await soon(draining)
    assert stage.service.cut == []


@pytest.mark.usefixtures("_no_hurry")
async def test_the_drain_ends_at_its_deadline_without_an_answer(make_stage: MakeStage) -> None:
    """A handler that has ended is no request that was cut."""
    stage = await make_stage(app_of(receive))
    reader, _ = await connect(stage, "/receive")

    await stage.drain(0.05)

    assert await read_close(reader) == WSCloseCode.GOING_AWAY
    assert await soon(reader.read()) == b""
    assert stage.service.cut == []


@pytest.mark.usefixtures("_no_hurry")
async def test_a_close_of_the_apps_own_waits_for_the_answer_too(make_stage: MakeStage) -> None:
    """As in aiohttp's manual: `on_shutdown` closes each in the app's words."""
    app, opened = web.Application(), []

    async def serve(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse()
        opened.append(websocket)
        await websocket.prepare(request)
        await websocket.receive()
        return websocket

    async def close_all(app: web.Application) -> None:
        for websocket in opened:
            await websocket.close(code=WSCloseCode.TRY_AGAIN_LATER)

    app.router.add_get("/", serve)
    app.on_shutdown.append(close_all)
    stage = await make_stage(app)
    sockets = [await connect(stage, "/") for _ in range(3)]
    draining = asyncio.create_task(stage.drain(LONG))

    for reader, _ in sockets:
        assert await read_close(reader) == WSCloseCode.TRY_AGAIN_LATER
    await turns(50)
    assert not any(reader.at_eof() for reader, _ in sockets)
    for reader, writer in sockets:
        writer.write(ANSWER)
        assert await soon(reader.read()) == b""
    await soon(draining)


@pytest.mark.usefixtures("_no_hurry")
@pytest.mark.parametrize("count", range(6))
async def test_both_may_close_at_the_same_moment(make_stage: MakeStage, count: int) -> None:
    """Each has the other's close frame then, and nobody waits."""
    stage = await make_stage(app_of(receive))
    reader, writer = await connect(stage, "/receive")
    draining = asyncio.create_task(stage.drain(LONG))
    await turns(count)
    writer.write(ANSWER)

    assert await read_close(reader) in {WSCloseCode.GOING_AWAY, WSCloseCode.OK}
    assert await soon(reader.read()) == b""
    await soon(draining)


@pytest.mark.usefixtures("_no_hurry")
async def test_a_client_that_is_lost_is_not_waited_for(make_stage: MakeStage) -> None:
    """No answer can come any more."""
    stage = await make_stage(app_of(receive))
    reader, writer = await connect(stage, "/receive")
    draining = asyncio.create_task(stage.drain(LONG))
    await read_close(reader)

    writer.transport.abort()

    await soon(draining)


@pytest.mark.usefixtures("_no_hurry")
async def test_a_client_that_sends_no_frames_is_not_waited_for(make_stage: MakeStage) -> None:
    """What it sends cannot be read, and it gets all that was sent to it."""
    stage = await make_stage(app_of(receive))
    reader, writer = await connect(stage, "/receive")
    draining = asyncio.create_task(stage.drain(LONG))
    assert await read_close(reader) == WSCloseCode.GOING_AWAY

    writer.write(b"\xff" * 100_000)

    assert await soon(reader.read()) == b""
    writer.close()
    await soon(draining)


@pytest.mark.usefixtures("_hurry")
async def test_a_slow_client_gets_all_that_was_sent_and_the_code(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time begins when it has room for what was written before the close frame."""
    looks: list[int] = []
    seconds_more = Patience.seconds_more

    def look(patience: Patience, unsent: int, now: float) -> float:
        looks.append(unsent)
        return seconds_more(patience, unsent, now)

    monkeypatch.setattr(Patience, "seconds_more", look)
    stage = await make_stage(app_of(fill))
    reader, writer = await connect(stage, "/fill")
    draining = asyncio.create_task(stage.drain(LONG))
    await turns_until(lambda: len(looks) > 5)
    assert all(looks)

    assert await read_close(reader) == WSCloseCode.GOING_AWAY
    writer.write(ANSWER)
    assert await soon(reader.read()) == b""
    await soon(draining)


async def test_a_client_that_reads_late_reports_the_code(make_serving: MakeServing) -> None:  # noqa: F811
    """aiohttp's client says 1006 where it cannot send its close frame."""
    serving = await make_serving()
    url = f"http://127.0.0.1:{serving.port}/ws"
    async with serving.client.ws_connect(url) as websocket:
        await soon(serving.begun.wait())
        serving.service.hurry(LONG, moving=False, stopping=True)
        draining = asyncio.create_task(serving.service.drain())
        (handler,) = serving.service.server.metered
        await turns_until(lambda: handler._current_request is None)
        await turns(100)

        assert (await soon(websocket.receive())).data == WSCloseCode.GOING_AWAY
        assert websocket.close_code == WSCloseCode.GOING_AWAY
    await soon(draining)


def test_a_client_that_was_never_slow_has_its_second() -> None:
    """And no more than that."""
    assert Patience(10.0).seconds_more(0, 11.0) == 0


def test_a_slow_client_has_as_long_again_as_it_took() -> None:
    """A second at least, and once."""
    patience = Patience(10.0)
    assert patience.seconds_more(5, 11.0) == 1.0
    assert patience.seconds_more(1, 12.0) == 1.0
    assert patience.seconds_more(0, 13.0) == 3.0
    assert patience.seconds_more(0, 16.0) == 0.0


def test_a_client_may_become_slow_again() -> None:
    """What is sent late, an answer to a ping say, has to be taken too."""
    patience = Patience(10.0)
    assert patience.seconds_more(5, 11.0) == 1.0
    assert patience.seconds_more(0, 11.5) == 1.5
    assert patience.seconds_more(5, 13.0) == 1.0
    assert patience.seconds_more(0, 13.0) == 3.0

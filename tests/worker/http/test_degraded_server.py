"""An app on an aiohttp that is not known, with real clients on connections given to the service."""

import asyncio
import logging
from random import Random

import pytest
from aiohttp import WSMsgType, web

from aiocluster.ipc.scoreboard import CONNECTIONS_CLOSED, REQUESTS_BEGUN, REQUESTS_DONE, RESPONSES
from aiocluster.metrics.instruments import count
from aiocluster.worker.http import runner as runner_module
from aiocluster.worker.http.degraded_server import DegradedServer
from aiocluster.worker.http.metered_server import MeteredServer
from tests.chaos.websocket import CLOSE, close_code, upgrade
from tests.support.connections import tcp_pair
from tests.support.stage import App, MakeStage, Stage, get, response
from tests.support.waiting import soon, turns, turns_until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(autouse=True)
def _unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "UNKNOWN", ["no RequestHandler._waiter"])


@pytest.fixture
async def app() -> App:
    return App()


@pytest.fixture
async def stage(make_stage: MakeStage, app: App) -> Stage:
    async def status(request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["status"]))

    async def fail(request: web.Request) -> web.Response:
        raise RuntimeError("the user's mistake")

    async def stream(request: web.Request) -> web.StreamResponse:
        streamed = web.StreamResponse()
        await streamed.prepare(request)
        app.begun.set()
        await app.go.wait()
        return streamed

    app.application.router.add_get("/status/{status}", status)
    app.application.router.add_get("/fail", fail)
    app.application.router.add_get("/stream", stream)
    app.application.router.add_get("/ws", _chat)
    return await make_stage(app.application)


async def _chat(request: web.Request) -> web.WebSocketResponse:
    websocket = web.WebSocketResponse()
    await websocket.prepare(request)
    async for message in websocket:
        assert message.type is WSMsgType.TEXT
    return websocket


def counted(stage: Stage) -> tuple[int, int]:
    return stage.row[REQUESTS_BEGUN], stage.row[REQUESTS_DONE]


def responses(stage: Stage) -> list[int]:
    return stage.row[RESPONSES : RESPONSES + 5].tolist()


async def again(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], path: str = "/") -> str:
    reader, writer = streams
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return await response(reader)


def test_it_has_what_the_service_uses_of_a_metered_server() -> None:
    """It stands in for one."""
    theirs = {name for name in vars(MeteredServer) if not name.startswith("_")}
    inherited = {"connection_made", "connection_lost"}  # called by aiohttp's own handler

    assert theirs - inherited - {*dir(DegradedServer)} == set()
    assert {"connections", "shutdown"} <= {*dir(DegradedServer)}


async def test_the_service_has_it(stage: Stage) -> None:
    """Where a part of aiohttp is not known, none of its private parts is used."""
    assert type(stage.service.server).__name__ == "DegradedServer"


async def test_requests_and_connections_are_counted(stage: Stage) -> None:
    """Each once, by its class, with its latency, as ever."""
    streams = await get(stage)
    await response(streams[0])
    for path in ("/status/404", "/nowhere", "/fail"):
        await again(streams, path)
        if streams[0].at_eof():
            break
    await turns_until(lambda: counted(stage) == (4, 4))

    assert responses(stage) == [0, 1, 0, 2, 1]
    assert count(stage.service.server.latency.take()) == 4
    assert stage.open in (0, 1)
    streams[1].close()
    await turns_until(lambda: stage.open == 0)
    assert stage.service.server.connections == []


async def test_what_aiohttp_refuses_is_counted(stage: Stage) -> None:
    """The app does not see it."""
    reader, writer = await stage.connect()
    writer.write(b"NO HTTP AT ALL\r\n\r\n")
    assert b" 400 " in await soon(reader.read())

    assert (counted(stage), responses(stage)) == ((1, 1), [0, 0, 0, 1, 0])


async def test_a_request_under_way_is_begun_and_not_done(stage: Stage, app: App) -> None:
    """What is in flight is known, and named."""
    reader, _ = await get(stage, "/slow")
    await soon(app.begun.wait())
    assert counted(stage) == (1, 0)
    assert stage.service.server.unfinished() == ["GET /slow from 127.0.0.1"]
    app.go.set()
    await response(reader)

    assert counted(stage) == (1, 1)
    assert stage.service.server.unfinished()[0].startswith("connection from ('127.0.0.1', ")


@pytest.mark.parametrize("cancellation", [True, False])
async def test_a_request_whose_client_went_away_is_done_in_the_end(
    make_stage: MakeStage, cancellation: bool
) -> None:
    """What is in flight never leaks, whether its handler is cancelled or runs on."""
    app = App()
    stage = await make_stage(app.application, handler_cancellation=cancellation)
    _, writer = await get(stage, "/slow")
    await soon(app.begun.wait())
    writer.transport.abort()
    await turns_until(lambda: stage.open == 0)
    empty = asyncio.create_task(stage.service.server.wait_empty())
    if not cancellation:
        await turns()
        assert counted(stage) == (1, 0)
        assert not empty.done()
        app.go.set()

    await soon(empty)
    assert counted(stage) == (1, 1)
    assert stage.row[CONNECTIONS_CLOSED] == 1


async def test_in_a_drain_a_connection_closes_with_its_next_response(stage: Stage) -> None:
    """From its begin: nothing is to be gained by waiting."""
    streams = await get(stage)
    assert "close" not in await response(streams[0])
    stage.service.hurry(1000.0, moving=True)
    draining = asyncio.create_task(stage.service.drain())
    await turns(20)
    assert not draining.done()

    assert "Connection: close" in await again(streams)

    await soon(draining)
    assert await soon(streams[0].read()) == b""
    assert stage.service.cut == []


async def test_an_idle_connection_is_closed_at_the_end_of_a_drain(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that cannot move."""
    for share in ("_MOVING_SHARE", "_PATIENT_SHARE"):
        monkeypatch.setattr(f"aiocluster.worker.http.service.{share}", 0.0)
    streams = await get(stage)
    await response(streams[0])
    stage.service.hurry(1000.0, moving=True)

    await soon(stage.service.drain())

    assert await soon(streams[0].read()) == b""
    assert stage.service.cut == []


async def test_a_running_request_ends_before_its_drain(stage: Stage, app: App) -> None:
    """Its response says that the connection ends."""
    reader, _ = await get(stage, "/slow")
    await soon(app.begun.wait())
    stage.service.hurry(1000.0, moving=False, stopping=True)
    draining = asyncio.create_task(stage.service.drain())
    await turns(20)
    assert not draining.done()
    app.go.set()

    assert "Connection: close" in await response(reader)

    await soon(draining)
    assert app.hooks == ["on_startup", "on_shutdown", "on_cleanup"]


async def test_half_a_head_is_read_to_its_end_at_a_stop(stage: Stage) -> None:
    """More will come."""
    reader, writer = await stage.connect()
    writer.write(GET[:9])
    await turns(20)
    stage.service.hurry(1000.0, moving=False, stopping=True)
    draining = asyncio.create_task(stage.service.drain())
    await turns(20)
    writer.write(GET[9:])

    assert "200 OK" in await response(reader)
    await soon(draining)


async def test_at_a_stop_an_idle_connection_is_answered_once_more(stage: Stage) -> None:
    """Within the grace; its response says that it is the last one."""
    streams = await get(stage)
    await response(streams[0])
    draining = stage.begin_stop(1000.0, idle_grace=1000.0)
    await turns(20)

    assert "Connection: close" in await again(streams)
    await soon(draining)


async def test_at_a_stop_one_that_is_not_used_is_closed_after_the_grace(stage: Stage) -> None:
    """Nothing is cut."""
    streams = await get(stage)
    await response(streams[0])

    await soon(stage.begin_stop(1000.0, idle_grace=0.01))

    assert await soon(streams[0].read()) == b""
    assert stage.service.cut == []


async def test_a_body_that_came_behind_its_head_is_no_sign_of_a_next_request(
    stage: Stage, app: App
) -> None:
    """A stop does not wait for a client that only asked before."""
    reader, writer = await stage.connect()
    writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
    await soon(app.begun.wait())
    (connection,) = stage.service.server.connections
    writer.write(b"hello")
    await turns_until(lambda: getattr(connection, "_has_unasked"))  # noqa: B009
    app.go.set()
    await response(reader)

    await stage.drain(1000.0)

    assert await soon(reader.read()) == b""


async def test_a_frozen_app_is_served_and_drained(make_stage: MakeStage) -> None:
    """Nothing can be added to it; its responses say `close` all the same."""
    app = App()
    app.application.freeze()
    stage = await make_stage(app.application)
    streams = await get(stage)
    await response(streams[0])
    stage.service.hurry(1000.0, moving=True)
    draining = asyncio.create_task(stage.service.drain())
    await turns(20)

    assert "Connection: close" in await again(streams)
    await soon(draining)


async def test_a_response_that_has_begun_is_written_to_its_end(stage: Stage, app: App) -> None:
    """Its head said nothing of an end; its connection is closed when it is idle."""
    reader, _ = await get(stage, "/stream")
    await soon(app.begun.wait())
    stage.service.hurry(1000.0, moving=False, stopping=True)
    draining = asyncio.create_task(stage.service.drain())
    await turns(20)
    app.go.set()

    assert (await soon(reader.read())).endswith(b"0\r\n\r\n")
    await soon(draining)
    assert stage.service.cut == []


async def test_what_is_unfinished_is_cut_and_named(stage: Stage, app: App) -> None:
    """A deadline holds."""
    await get(stage, "/slow")
    await soon(app.begun.wait())

    await stage.drain(0.0)

    assert stage.service.cut == ["GET /slow from 127.0.0.1"]
    await turns_until(lambda: counted(stage) == (1, 1))


async def test_a_websocket_gets_its_close_code(stage: Stage) -> None:
    """Its client knows whether to come back."""
    reader, writer = await stage.connect()
    writer.write(upgrade("/ws", Random(1)))
    await soon(reader.readuntil(b"\r\n\r\n"))
    stage.service.hurry(1000.0, moving=True)
    draining = asyncio.create_task(stage.service.drain())

    frame = await soon(reader.readexactly(2))
    assert frame[0] & 0xF == CLOSE
    assert close_code(await soon(reader.readexactly(frame[1]))) == 1012
    writer.close()
    await soon(draining)
    assert responses(stage) == [1, 0, 0, 0, 0]
    assert stage.service.server.latency.take() == {}


async def test_a_connection_that_uvloop_accepted_is_counted(stage: Stage) -> None:
    """With the policy `shared`, there is no descriptor of ours."""
    client, accepted = tcp_pair()
    client.setblocking(False)
    stage.adopted += 1
    with client:
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: stage.service.protocol(0), accepted)
        await loop.sock_sendall(client, GET)
        assert b"200 OK" in await soon(loop.sock_recv(client, 1000))
        assert stage.open == 1
    await turns_until(lambda: stage.open == 0)


async def test_a_client_that_a_proxy_told_is_the_peer(make_stage: MakeStage) -> None:
    """As the app sees it, and the log."""

    async def remote(request: web.Request) -> web.Response:
        return web.Response(text="", headers={"X-Remote": str(request.remote)})

    app = web.Application()
    app.router.add_get("/", remote)
    stage = await make_stage(app)
    client, accepted = tcp_pair()
    stage.adopted += 1
    stage.service.adopt(accepted.detach(), accepted.family, ("192.0.2.7", 7))
    reader, writer = await asyncio.open_connection(sock=client)
    stage.clients.append((reader, writer))
    writer.write(GET)

    assert "X-Remote: 192.0.2.7" in await response(reader)
    assert stage.service.server.unfinished() == ["connection from ('192.0.2.7', 7)"]


async def test_no_more_requests_at_a_time_than_are_allowed(make_stage: MakeStage) -> None:
    """The limit holds here too."""
    app = App()
    stage = await make_stage(app.application, max_requests_in_flight=1, when_full="503")
    await get(stage, "/slow")
    await soon(app.begun.wait())

    assert "503" in await response((await get(stage))[0])
    app.go.set()


@pytest.mark.parametrize("wanted", [True, False])
async def test_the_access_log_is_written_when_it_is_asked_for(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture, wanted: bool
) -> None:
    """By the way in which requests are counted, and no more than that."""
    caplog.set_level(logging.INFO, "aiohttp.access")
    stage = await make_stage(App().application, access_log=wanted, access_log_format="%r %s")

    await response((await get(stage))[0])

    assert ("GET / HTTP/1.1 200" in caplog.text) is wanted
    assert counted(stage) == (1, 1)


async def test_an_app_with_an_access_log_of_its_own_is_served(make_stage: MakeStage) -> None:
    """A request is done then when the next begins, or its connection ends."""
    application = web.Application(handler_args={"access_log": None})
    application.router.add_get("/", App()._quick)
    stage = await make_stage(application)
    streams = await get(stage)
    await response(streams[0])
    await again(streams)
    assert counted(stage) == (2, 1)
    streams[1].close()

    await turns_until(lambda: counted(stage) == (2, 2))

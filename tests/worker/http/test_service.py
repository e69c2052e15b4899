"""An aiohttp app as a service: how it starts and how it drains."""

import asyncio
import contextlib
import gzip
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar

import pytest
from aiohttp import web

from aiocluster.ipc.scoreboard import CONNECTIONS_CLOSED, REQUESTS_BEGUN
from aiocluster.worker.http.metered_server import MeteredHandler
from aiocluster.worker.services.adopt import RejectProtocol
from tests.support.connections import open_fds, tcp_pair
from tests.support.stage import App, MakeStage, Stage, get, response
from tests.support.waiting import soon, turns, turns_until


async def test_it_serves_connections_it_is_given(make_stage: MakeStage) -> None:
    """Request after request on the same connection."""
    stage = await make_stage(App().application)
    reader, writer = await get(stage)
    assert "200 OK" in await response(reader)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    assert "200 OK" in await response(reader)

    await stage.drain(0.0)


async def test_the_hooks_run_once_each(make_stage: MakeStage) -> None:
    """Start-up at the start, shutdown and clean-up in a drain, in aiohttp's order."""
    app = App()
    stage = await make_stage(app.application)
    assert app.hooks == ["on_startup"]

    await stage.drain(5.0)

    assert app.hooks == ["on_startup", "on_shutdown", "on_cleanup"]


async def test_when_a_start_up_hook_raises_what_had_started_is_cleaned_up() -> None:
    """As aiohttp's own run_app does; and the error comes through."""
    app, cleaned = web.Application(), list[str]()

    async def fine(application: web.Application) -> AsyncIterator[None]:
        yield
        cleaned.append("fine")

    async def broken(application: web.Application) -> AsyncIterator[None]:
        raise LookupError("no database")
        yield

    app.cleanup_ctx.extend([fine, broken])
    stage = Stage(app)

    with pytest.raises(LookupError, match="no database"):
        await stage.service.start()

    assert cleaned == ["fine"]


async def test_a_drain_lets_a_running_request_end(make_stage: MakeStage) -> None:
    """What a handler had begun is finished, and its response says that the connection ends."""
    app = App()
    stage = await make_stage(app.application)
    reader, _ = await get(stage, "/slow")
    await soon(app.begun.wait())
    stage.service.hurry(1000.0, moving=False)
    draining = asyncio.create_task(stage.service.drain())
    await turns(20)
    assert not draining.done()
    app.go.set()

    assert "200 OK" in await response(reader)

    await soon(draining)
    assert await soon(reader.read()) == b""
    assert stage.service.cut == []


async def test_what_cannot_move_is_told_to_go_after_half_of_the_time(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No client meets a reset: its next response says `Connection: close`."""
    monkeypatch.setattr("aiocluster.worker.http.service._MOVING_SHARE", 0.0)
    stage = await make_stage(App().application)
    reader, writer = await get(stage)
    assert "close" not in await response(reader)
    stage.service.hurry(1000.0, moving=True)
    draining = asyncio.create_task(stage.service.drain())
    await turns(20)
    assert not draining.done()

    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    assert "Connection: close" in await response(reader)
    await soon(draining)


async def test_what_cannot_move_yet_is_served_as_before(make_stage: MakeStage) -> None:
    """While nobody can take it the connection is kept alive, in the hope that somebody will."""
    stage = await make_stage(App().application)
    reader, writer = await get(stage)
    await response(reader)
    stage.service.hurry(1000.0, moving=True)
    draining = asyncio.create_task(stage.service.drain())
    await turns(20)

    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    assert "Connection: close" not in await response(reader)
    stage.service.hurry(1000.0, moving=False)
    await soon(draining)
    assert await soon(reader.read()) == b""


async def test_a_drain_at_once_closes_idle_connections(make_stage: MakeStage) -> None:
    """Nobody waits for a client that asks nothing."""
    stage = await make_stage(App().application)
    reader, _ = await get(stage)
    await response(reader)

    await stage.drain(1000.0)

    assert await soon(reader.read()) == b""
    assert stage.open == 0
    assert stage.service.cut == []


async def test_a_drain_in_no_hurry_can_be_hurried(make_stage: MakeStage) -> None:
    """Asked again it gets quicker, while it is patient already."""
    stage = await make_stage(App().application)
    reader, _ = await get(stage)
    await response(reader)
    stage.service.hurry(1000.0, moving=True)
    draining = asyncio.create_task(stage.service.drain())
    await turns(20)

    stage.service.hurry(1000.0, moving=False)

    await soon(draining)
    assert stage.service.cut == []


async def test_what_is_unfinished_at_the_deadline_is_cut_and_named(make_stage: MakeStage) -> None:
    """The operator learns which requests were lost; clean-up runs all the same."""
    app = App()
    stage = await make_stage(app.application)
    await get(stage, "/slow")
    await soon(app.begun.wait())

    await stage.drain(0.0)

    assert stage.service.cut == ["GET /slow from 127.0.0.1"]
    assert app.hooks[-1] == "on_cleanup"


async def test_what_is_cut_is_named_as_it_came_and_not_at_any_length(
    make_stage: MakeStage,
) -> None:
    """A client may not write lines of the log, nor fill it."""
    app = App()
    stage = await make_stage(app.application)
    for _ in range(30):
        await get(stage, "/slow?forged=%0AERROR" + "x" * 1000)
    await turns_until(lambda: stage.row[REQUESTS_BEGUN] == 30)

    await stage.drain(0.0)

    cut = stage.service.cut
    assert len(cut) == 21
    assert cut[0].startswith("GET /slow?forged=%0AERRORxxx")
    assert cut[0].endswith("x… from 127.0.0.1")
    assert len(cut[0]) < 250
    assert cut[-1] == "and 10 more"


async def test_a_drain_at_once_is_not_made_patient_again(make_stage: MakeStage) -> None:
    """A replacement that was asked for may cross a stop on its way: idle connections go."""
    stage = await make_stage(App().application)
    reader, _ = await get(stage)
    await response(reader)
    stage.service.hurry(1000.0, moving=False)
    stage.service.hurry(1000.0, moving=True)

    await soon(stage.service.drain())

    assert await soon(reader.read()) == b""


async def test_a_deadline_that_comes_nearer_while_draining_counts(make_stage: MakeStage) -> None:
    """A quick stop after a slow one is quick."""
    app = App()
    stage = await make_stage(app.application)
    await get(stage, "/slow")
    await soon(app.begun.wait())
    stage.service.hurry(1000.0, moving=False)
    draining = asyncio.create_task(stage.service.drain())
    await turns(20)

    stage.service.hurry(0.0, moving=False)

    await soon(draining)
    assert stage.service.cut == ["GET /slow from 127.0.0.1"]


async def test_a_deadline_never_moves_away(make_stage: MakeStage) -> None:
    """Asked again with more time, the first promise holds."""
    app = App()
    stage = await make_stage(app.application)
    await get(stage, "/slow")
    await soon(app.begun.wait())
    stage.service.hurry(0.0, moving=False)

    await stage.drain(1000.0)

    assert stage.service.cut == ["GET /slow from 127.0.0.1"]


async def test_a_shutdown_hook_that_hangs_is_cut_and_named(make_stage: MakeStage) -> None:
    """The app's own hooks do not outlast the deadline."""
    app = App()

    async def hang(application: web.Application) -> None:
        await asyncio.get_running_loop().create_future()

    app.application.on_shutdown.append(hang)
    stage = await make_stage(app.application)

    await stage.drain(0.0)

    assert stage.service.cut == ["the on_shutdown hooks"]
    assert app.hooks[-1] == "on_cleanup"


async def test_the_goodbye_is_said_before_anything_else(make_stage: MakeStage) -> None:
    """The app is still whole then."""
    app = App()

    async def run_on_drain_callbacks() -> None:
        app.hooks.append("on_drain")

    stage = await make_stage(app.application, run_on_drain_callbacks=run_on_drain_callbacks)

    await stage.drain(1000.0)

    assert app.hooks == ["on_startup", "on_drain", "on_shutdown", "on_cleanup"]


async def test_a_goodbye_that_hangs_is_cut_and_named(make_stage: MakeStage) -> None:
    """It does not outlast the deadline, and the other hooks have their turn."""
    app = App()
    stage = await make_stage(app.application, run_on_drain_callbacks=asyncio.Event().wait)

    await stage.drain(0.0)

    assert stage.service.cut == ["the on_drain hooks"]
    assert app.hooks == ["on_startup", "on_shutdown", "on_cleanup"]


async def open_websocket(stage: Stage) -> asyncio.StreamReader:
    """Open one at /ws; return what its client reads."""
    reader, writer = await stage.connect()
    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await soon(reader.readuntil(b"\r\n\r\n"))
    return reader


async def echo(request: web.Request) -> web.WebSocketResponse:
    websocket = web.WebSocketResponse()
    await websocket.prepare(request)
    async for _ in websocket:
        pass
    return websocket


async def test_websockets_are_told_even_while_on_shutdown_hangs(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app that closes them one by one may meet a client that does not answer."""
    monkeypatch.setattr("aiocluster.worker.http.service._OWN_WORDS_SHARE", 0.0)
    app, hanging = App(), asyncio.Event()

    async def hang(application: web.Application) -> None:
        await hanging.wait()

    app.application.router.add_get("/ws", echo)
    app.application.on_shutdown.append(hang)
    stage = await make_stage(app.application)
    reader = await open_websocket(stage)
    draining = asyncio.create_task(stage.drain(1000.0))

    assert b"\x03\xe9the service stops" in await soon(reader.read())

    hanging.set()
    await soon(draining)
    assert stage.service.cut == []


@pytest.mark.parametrize("moving", [True, False])
async def test_websockets_of_a_worker_that_has_a_successor_are_told_to_come_back(
    make_stage: MakeStage, moving: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others serve already its drain waits for them: on_shutdown comes when they are gone."""
    monkeypatch.setattr("aiocluster.worker.http.service._OWN_WORDS_SHARE", 0.0)
    app = App()
    app.application.router.add_get("/ws", echo)
    stage = await make_stage(app.application)
    reader = await open_websocket(stage)
    stage.service.hurry(1000.0, moving=moving)

    await soon(stage.service.drain())

    assert b"\x03\xf4this worker is being replaced" in await soon(reader.read())
    assert stage.service.cut == []


async def test_a_stop_that_follows_a_drain_says_that_this_was_all(make_stage: MakeStage) -> None:
    """And a drain that crosses the stop on its way does not take that back."""
    app = App()
    app.application.router.add_get("/ws", echo)
    stage = await make_stage(app.application)
    reader = await open_websocket(stage)
    stage.service.hurry(1000.0, moving=True)
    stage.service.hurry(1000.0, moving=False, stopping=True)
    stage.service.hurry(1000.0, moving=True)

    await soon(stage.service.drain())

    assert b"\x03\xe9the service stops" in await soon(reader.read())


async def test_a_hook_that_raises_is_logged_and_the_drain_goes_on(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """A user's mistake in one hook costs no other its turn."""
    app = App()

    async def broken(application: web.Application) -> None:
        raise RuntimeError("the user's mistake")

    app.application.on_shutdown.append(broken)
    stage = await make_stage(app.application)

    await stage.drain(5.0)

    assert "on_shutdown raised" in caplog.text
    assert app.hooks[-1] == "on_cleanup"


async def test_a_request_that_arrived_just_before_the_drain_is_answered(
    make_stage: MakeStage,
) -> None:
    """What the kernel already has for us is begun before idle connections are closed."""
    stage = await make_stage(App().application)
    client, accepted = tcp_pair()
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    stage.adopt(accepted)

    await stage.drain(5.0)

    client.setblocking(True)
    assert client.recv(10_000).startswith(b"HTTP/1.1 200 OK")
    client.close()


async def test_who_has_just_connected_has_time_to_ask(make_stage: MakeStage) -> None:
    """It was let in when nobody knew of the stop; one that has asked before goes at once."""
    stage = await make_stage(App().application)
    reader, writer = await stage.connect()
    idle, _ = await get(stage)
    await response(idle)
    stage.service.hurry(1000.0, moving=False)
    draining = asyncio.create_task(stage.service.drain())
    assert await soon(idle.read()) == b""

    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    assert "Connection: close" in await response(reader)
    await soon(draining)


async def test_who_does_not_ask_in_that_time_is_closed(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser connects ahead, for a page that may never be wanted."""
    monkeypatch.setattr("aiocluster.worker.http.idle_closing._FIRST_REQUEST_GRACE", 0.0)
    stage = await make_stage(App().application)
    reader, _ = await stage.connect()

    await stage.drain(1000.0)

    assert await soon(reader.read()) == b""
    assert stage.service.cut == []


async def in_part(stage: Stage) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request and a part of another."""
    reader, writer = await get(stage)
    await response(reader)
    writer.write(b"GET / HTTP/1.1\r\nHo")
    await turns_until(lambda: any(one.is_within_head for one in stage.service.server.metered))
    return reader, writer


async def test_half_a_head_is_waited_for_at_a_stop(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client is answered and told to go; others that are idle go at once."""
    monkeypatch.setattr("aiocluster.worker.http.idle_closing._FIRST_REQUEST_GRACE", 0.0)
    monkeypatch.setattr("aiocluster.worker.http.idle_closing._SWEEP_INTERVAL", 0.0)
    stage = await make_stage(App().application)
    reader, writer = await in_part(stage)
    idle, _ = await get(stage)
    await response(idle)
    draining = asyncio.create_task(stage.drain(1000.0))
    assert await soon(idle.read()) == b""
    await turns(20)
    assert not draining.done()

    writer.write(b"st: x\r\n\r\n")

    assert "Connection: close" in await response(reader)
    assert await soon(reader.read()) == b""
    await soon(draining)
    assert stage.service.cut == []


async def test_half_a_head_is_waited_for_until_the_deadline(make_stage: MakeStage) -> None:
    """As half a body is; a client that has gone silent does not hold up a stop for ever."""
    stage = await make_stage(App().application)
    reader, _ = await in_part(stage)
    draining = asyncio.create_task(stage.drain(1000.0))
    await turns(20)
    assert not draining.done()

    stage.service.hurry(0.0, moving=False)

    await soon(draining)
    assert await soon(reader.read()) == b""


async def test_half_a_head_has_had_its_time_when_moving_is_over(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was waited for all the while."""
    monkeypatch.setattr("aiocluster.worker.http.service._PATIENT_SHARE", 0.0)
    monkeypatch.setattr("aiocluster.worker.http.service._MOVING_SHARE", 0.0)
    stage = await make_stage(App().application)
    reader, _ = await in_part(stage)
    stage.service.hurry(1000.0, moving=True)

    await soon(stage.service.drain())

    assert await soon(reader.read()) == b""
    assert stage.service.cut == []


async def in_doubt(stage: Stage) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request after which nobody can tell where the next one begins."""
    reader, writer = await stage.connect()
    body = gzip.compress(b"hello")
    writer.write(
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    await response(reader)
    (handler,) = stage.service.server.metered
    assert handler.in_doubt
    return reader, writer


async def test_one_in_doubt_has_time_to_ask(make_stage: MakeStage) -> None:
    """What it sends may be the rest of a request."""
    stage = await make_stage(App().application)
    reader, writer = await in_doubt(stage)
    draining = asyncio.create_task(stage.drain(1000.0))
    await turns(20)
    assert not draining.done()

    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    assert "Connection: close" in await response(reader)
    await soon(draining)


async def test_one_in_doubt_is_not_waited_for_longer(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most likely there is nothing to wait for."""
    monkeypatch.setattr("aiocluster.worker.http.idle_closing._FIRST_REQUEST_GRACE", 0.0)
    stage = await make_stage(App().application)
    reader, _ = await in_doubt(stage)

    await stage.drain(1000.0)

    assert await soon(reader.read()) == b""
    assert stage.service.cut == []


# node: worker-handle-close
async def test_a_connection_that_cannot_be_adopted_is_closed(make_stage: MakeStage) -> None:
    """A client that is gone already leaves no descriptor behind."""
    stage = await make_stage(App().application)
    before = open_fds()
    client, accepted = tcp_pair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()  # with a reset
    stage.adopt(accepted)

    await turns_until(lambda: open_fds() <= before)

    assert stage.open == 0
    await stage.drain(0.0)


async def test_one_that_uvloop_has_accepted_is_served_or_refused(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised where a protocol is asked for, the mistake would end the server."""
    stage = await make_stage(App().application)
    handler = stage.service.protocol(3)
    assert isinstance(handler, MeteredHandler)
    assert handler.listener == 3

    monkeypatch.setattr(stage.service, "_make_handler", lambda *given: 1 / 0)

    assert isinstance(stage.service.protocol(3), RejectProtocol)
    assert stage.row[CONNECTIONS_CLOSED] == 1
    assert "a connection could not be served" in caplog.text


# ---- what an app may rely on


NAME: ContextVar[str] = ContextVar("name")


@pytest.mark.parametrize("accepted_by", ["the primary", "uvloop"])
async def test_what_the_start_sets_is_seen_by_every_handler_and_by_the_end(
    make_stage: MakeStage, accepted_by: str
) -> None:
    """A context variable, whose token is still good at the end; handlers have copies."""
    seen: list[str] = []

    async def context(app: web.Application) -> AsyncIterator[None]:
        token = NAME.set("app")
        yield
        seen.append(NAME.get())
        NAME.reset(token)

    async def handle(request: web.Request) -> web.Response:
        seen.append(NAME.get("nobody"))
        NAME.set("handler")
        return web.Response()

    app = web.Application()
    app.router.add_get("/", handle)
    app.cleanup_ctx.append(context)
    stage = await make_stage(app)
    for _ in range(2):
        if accepted_by == "uvloop":
            opening = asyncio.get_running_loop().create_server(
                lambda: stage.service.protocol(0), "127.0.0.1", 0
            )
            server = asyncio.create_task(opening, context=stage.service.context)
            async with await server as serving:
                reader, writer = await asyncio.open_connection(*serving.sockets[0].getsockname())
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await response(reader)
                writer.close()
        else:
            await response((await get(stage))[0])

    await stage.drain(5.0)

    assert seen == ["app", "app", "app"]
    assert stage.service.code == 0


async def test_a_task_group_over_the_life_of_the_app_ends_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As under run_app: when its child fails the worker is to drain, and exits with 1."""
    fail, failed = asyncio.Event(), asyncio.Event()

    async def child() -> None:
        await fail.wait()
        raise LookupError("no such price")

    async def context(app: web.Application) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            yield

    app = App()
    app.application.cleanup_ctx.append(context)
    stage = Stage(app.application, on_failure=failed.set)
    await stage.service.start()
    fail.set()
    await soon(failed.wait())

    await stage.drain(5.0)

    assert stage.service.code == 1
    assert "LookupError: no such price" in caplog.text
    assert app.hooks == ["on_startup", "on_shutdown", "on_cleanup"]


async def test_a_task_group_that_fails_while_the_app_starts_says_why_it_does_not() -> None:
    """And not that something was cancelled."""

    async def child() -> None:
        raise LookupError("no such price")

    async def context(app: web.Application) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            yield

    async def wait(app: web.Application) -> None:
        await asyncio.Event().wait()

    app = web.Application()
    app.cleanup_ctx.append(context)
    app.on_startup.append(wait)
    stage = Stage(app, on_failure=lambda: None)

    with pytest.raises(ExceptionGroup) as raised:
        await soon(stage.service.start())

    assert isinstance(raised.value.exceptions[0], LookupError)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (asyncio.CancelledError(), 0),
        (LookupError("x"), 1),
        (SystemExit(7), 7),
        (web.GracefulExit(), 0),
        (KeyboardInterrupt(), 0),
    ],
)
@pytest.mark.parametrize("signal", ["on_shutdown", "on_cleanup"])
async def test_what_a_hook_at_the_end_raises_decides_the_exit_code(
    signal: str, error: BaseException, code: int
) -> None:
    """As under run_app, but that the other hooks run."""
    app = App()

    async def fail(application: web.Application) -> None:
        raise error

    getattr(app.application, signal).insert(0, fail)
    stage = Stage(app.application)
    await stage.service.start()

    await stage.drain(5.0)

    assert stage.service.code == code
    assert app.hooks == ["on_startup", "on_shutdown", "on_cleanup"]


async def test_clean_up_that_takes_too_long_is_cut_and_named() -> None:
    """Each of its hooks; the process ends by itself, and is not killed."""
    app, begun = App(), list[int]()

    def slow(number: int) -> Callable[[web.Application], Awaitable[None]]:
        async def clean_up(application: web.Application) -> None:
            begun.append(number)
            await asyncio.Event().wait()

        return clean_up

    app.application.on_cleanup.extend([slow(0), slow(1)])
    stage = Stage(app.application)
    await stage.service.start()

    await stage.drain(0.0)

    assert stage.service.cut == ["the on_cleanup hooks"]
    assert begun == [0, 1]


async def test_a_start_that_swallows_its_cancellation_is_cleaned_up() -> None:
    """It was told to go before it served anyone."""
    app = App()

    async def stubborn(application: web.Application) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    app.application.on_startup.append(stubborn)
    stage = Stage(app.application)
    starting = asyncio.create_task(stage.service.start())
    await turns(20)

    starting.cancel()

    await soon(asyncio.wait({starting}))
    assert starting.cancelled()
    assert app.hooks == ["on_startup", "on_cleanup"]


async def test_an_app_that_has_started_is_cleaned_up_whenever_its_start_is_cancelled() -> None:
    """A stop may come in any turn of a start, the last one too; no task of the app is left."""
    for turn in range(1, 12):
        app = App()
        stage = Stage(app.application)
        starting = asyncio.create_task(stage.service.start())
        await turns(turn)

        starting.cancel()
        await soon(asyncio.wait({starting}))
        if not starting.cancelled():
            await stage.drain(0.0)
        await turns()

        assert ("on_startup" in app.hooks) == ("on_cleanup" in app.hooks), turn
        left = [task for task in asyncio.all_tasks() if task.get_name() == "the app's hooks"]
        assert left == [], turn

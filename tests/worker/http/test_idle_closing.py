"""A connection that a drain finds idle is closed when its client has had the time to use it."""

import asyncio
import itertools
from typing import cast

import pytest
from aiohttp import web

from aiocluster.worker.http import idle_closing
from aiocluster.worker.http.idle_closing import IdleClosing
from aiocluster.worker.http.metered_server import MeteredServer, Sign
from aiocluster.worker.services.deadline import DrainDeadline
from tests.support.stage import App, MakeStage, Stage, get, response
from tests.support.waiting import soon, turns

LONG = 1000.0
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def idle(stage: Stage) -> Streams:
    """Return a connection that has asked once."""
    streams = await get(stage)
    await response(streams[0])
    return streams


async def test_an_idle_connection_is_answered_once_more(make_stage: MakeStage) -> None:
    """The response says that it is the last one, and the drain is over with that."""
    stage = await make_stage(App().application)
    reader, writer = await idle(stage)
    draining = stage.begin_stop(LONG, idle_grace=LONG)
    await turns(20)

    writer.write(GET)

    assert "Connection: close" in await response(reader)
    assert await soon(reader.read()) == b""
    await soon(draining)


async def test_one_that_is_not_used_is_closed_after_the_grace(make_stage: MakeStage) -> None:
    """And not before."""
    stage = await make_stage(App().application)
    reader, _ = await idle(stage)
    begun = asyncio.get_running_loop().time()
    draining = stage.begin_stop(LONG, idle_grace=0.05)

    assert await soon(reader.read()) == b""

    assert asyncio.get_running_loop().time() - begun >= 0.05
    await soon(draining)
    assert stage.service.cut == []


async def test_the_grace_may_get_shorter_and_not_longer(make_stage: MakeStage) -> None:
    """Somebody waits for the end, and says so while it is under way."""
    stage = await make_stage(App().application)
    reader, _ = await idle(stage)
    draining = stage.begin_stop(LONG, idle_grace=LONG)
    await turns(20)
    assert not draining.done()

    stage.service.hurry(LONG, moving=False, idle_grace=0.0)
    stage.service.hurry(LONG, moving=False, idle_grace=LONG)

    assert await soon(reader.read()) == b""
    await soon(draining)


async def test_the_time_of_the_drain_bounds_the_grace(make_stage: MakeStage) -> None:
    """The app's own shutdown has the rest of it, and nothing was cut."""
    app = App()
    stage = await make_stage(app.application)
    reader, _ = await idle(stage)

    await soon(stage.begin_stop(0.2, idle_grace=LONG))

    assert await soon(reader.read()) == b""
    assert stage.service.cut == []
    assert app.hooks == ["on_startup", "on_shutdown", "on_cleanup"]


async def test_without_a_connection_nothing_is_waited_for(make_stage: MakeStage) -> None:
    """A stop is as quick as ever, whatever the grace."""
    stage = await make_stage(App().application)

    await soon(stage.begin_stop(LONG, idle_grace=LONG))


async def test_the_app_is_whole_until_the_last_request(make_stage: MakeStage) -> None:
    """Its on_shutdown may close what the handlers need."""
    app = App()
    stage = await make_stage(app.application)
    reader, writer = await idle(stage)
    draining = stage.begin_stop(LONG, idle_grace=LONG)
    await turns(20)
    assert app.hooks == ["on_startup"]

    writer.write(GET)
    await response(reader)

    await soon(draining)
    assert app.hooks == ["on_startup", "on_shutdown", "on_cleanup"]


async def test_a_running_request_does_not_hold_up_the_hooks(make_stage: MakeStage) -> None:
    """It may wait for what on_shutdown says, and its response is the last in any case."""
    app = App()
    stage = await make_stage(app.application)
    reader, _ = await get(stage, "/slow")
    await soon(app.begun.wait())
    draining = stage.begin_stop(LONG, idle_grace=LONG)
    while app.hooks == ["on_startup"]:
        await turns()
    assert not draining.done()

    app.go.set()

    assert "Connection: close" in await response(reader)
    await soon(draining)


async def test_after_a_response_that_had_begun_the_grace_begins_anew(
    make_stage: MakeStage,
) -> None:
    """Its head could not say that it is the last one."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        streaming = web.StreamResponse()
        streaming.content_length = 5
        await streaming.prepare(request)
        begun.set()
        await go.wait()
        await streaming.write(b"hello")
        return streaming

    app = App()
    app.application.router.add_get("/stream", stream)
    stage = await make_stage(app.application)
    reader, writer = await get(stage, "/stream")
    await soon(begun.wait())
    draining = stage.begin_stop(LONG, idle_grace=LONG)
    await turns(20)
    stage.service._idle_closing._begun_at -= 2 * LONG  # the grace of the others is over
    go.set()
    assert "close" not in await response(reader)
    await asyncio.sleep(2 * idle_closing._SWEEP_INTERVAL)  # nothing tells that it was looked at

    writer.write(GET)

    assert "Connection: close" in await response(reader)
    await soon(draining)


class FakeConnection:
    """One that shows a sign of its next request."""

    def __init__(self, sign: Sign) -> None:
        self.sign = sign
        self.is_closed = False

    def force_close(self) -> None:
        self.is_closed = True


class FakeServer:
    """Has connections that are all idle."""

    def __init__(self, signs: list[Sign]) -> None:
        self.all = [FakeConnection(sign) for sign in signs]

    @property
    def connections(self) -> list[FakeConnection]:
        return [one for one in self.all if not one.is_closed]

    def is_idle(self, connection: FakeConnection) -> bool:
        return not connection.is_closed

    def sign_of(self, connection: FakeConnection) -> Sign:
        return connection.sign

    @property
    def closed(self) -> list[Sign]:
        return [one.sign for one in self.all if one.is_closed]


def closing_of(server: FakeServer, *, deadline: float) -> tuple[IdleClosing, MeteredServer]:
    whole = DrainDeadline()
    whole.at_latest_in(deadline)
    return IdleClosing(whole), cast(MeteredServer, server)


@pytest.mark.parametrize(
    ("grace", "deadline", "patience", "closed"),
    [
        (LONG, LONG, LONG, []),
        (0.0, LONG, LONG, [Sign.NONE]),
        (0.0, LONG, 0.0, [Sign.NONE, Sign.PERHAPS]),
        (None, LONG, LONG, [Sign.NONE, Sign.PERHAPS, Sign.PART]),  # the rest of those that moved
        (LONG, 0.0, LONG, [*Sign]),
    ],
)
async def test_a_sign_of_the_next_request_keeps_a_connection_open(
    monkeypatch: pytest.MonkeyPatch,
    grace: float | None,
    deadline: float,
    patience: float,
    closed: list[Sign],
) -> None:
    """Which signs count depends on how much of the drain has passed."""
    monkeypatch.setattr(idle_closing, "_FIRST_REQUEST_GRACE", patience)
    fake = FakeServer([*Sign])
    closing, server = closing_of(fake, deadline=deadline)
    if grace is not None:
        closing.shorten_grace(grace, 2 * deadline)

    sweeping = closing.begin(server)
    await turns(20)

    assert fake.closed == closed
    sweeping.cancel()


async def test_many_connections_are_closed_in_slices() -> None:
    """The loop turns between them, for the requests on others."""
    fake = FakeServer([Sign.NONE] * (5 * idle_closing._SLICE))
    closing, server = closing_of(fake, deadline=LONG)
    closing.shorten_grace(0.0, LONG)
    sweeping = closing.begin(server)
    counts = [0]
    while counts[-1] < len(fake.all):
        await asyncio.sleep(0)
        counts.append(len(fake.closed))

    closed = [after - before for before, after in itertools.pairwise(counts)]
    assert max(closed) <= idle_closing._SLICE
    sweeping.cancel()

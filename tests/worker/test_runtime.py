"""A worker's life, in this process; the test plays the primary over real sockets."""

import asyncio
import errno
import gc
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from random import Random
from typing import Any

import pytest
from aiohttp import web

from aiocluster.config.settings import settings_from
from aiocluster.errors import ClusterStopping
from aiocluster.ipc.accept_queue import waiting_in
from aiocluster.ipc.handoff import give, handoff_pair
from aiocluster.ipc.messages import (
    Accept,
    BootFailed,
    Drain,
    Drained,
    DrainReason,
    DrainRequest,
    Listen,
    Message,
    Online,
    Ready,
    ReportMetrics,
    Serving,
    Unready,
    UserMessage,
)
from aiocluster.ipc.scoreboard import (
    ACCEPTED,
    CONNECTIONS_CLOSED,
    CONNECTIONS_TAKEN,
    HEARTBEAT,
    REQUESTS_BEGUN,
    UNWIRED,
    private_row,
)
from aiocluster.worker.accept import acceptor
from aiocluster.worker.api import context
from aiocluster.worker.http.metered_server import MeteredHandler
from aiocluster.worker.runtime import Runtime
from tests.chaos.websocket import close_code, upgrade
from tests.support.connections import tcp_pair
from tests.support.listening import BindingPrimary
from tests.support.waiting import soon, turns, turns_until
from tests.support.workers import FarEnd

HELLO = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HOLD = HELLO.replace(b"/", b"/wait", 1)


class Stage:
    """One runtime, and its primary."""

    def __init__(self, **settings: Any) -> None:
        self.row = private_row()
        self.primary = FarEnd()
        self.sender, self.receiver = handoff_pair()
        self.group = socket.create_server(("127.0.0.1", 0))
        self.group.setblocking(False)
        self.runtime = Runtime(
            settings_from({"metrics_interval": 1000.0, **settings}),
            [int(socket.AF_INET)],
            self.row,
            [(0, self.group.dup())],
        )

    async def run(self, app: object) -> None:
        """Let it run; it ends with `self.running`."""
        ours, theirs = socket.socketpair()
        await self.primary.open(ours)
        self.running = asyncio.create_task(self.runtime.run(lambda: app, self.receiver, theirs))

    async def ready(self, app: object) -> None:
        """Let it run until it serves."""
        await self.run(app)
        assert await self.primary.hear() == Online()
        await self.hear(Ready)

    async def hear(self, kind: type[Message]) -> Any:
        """Return the next message of this kind."""
        while not isinstance(message := await self.primary.hear(), kind):
            assert isinstance(message, Online | ReportMetrics)
        return message

    @property
    def open(self) -> int:
        return self.row[CONNECTIONS_TAKEN] - self.row[CONNECTIONS_CLOSED]

    def say(self, message: Message) -> None:
        self.primary.channel.post(message)

    def connect(self) -> socket.socket:
        """Give it a connection; return the client's end."""
        client, accepted = tcp_pair()
        with accepted:
            assert give(self.sender, [accepted.fileno()], b"\0")
        client.setblocking(False)
        return client

    def knock(self) -> socket.socket:
        """Connect to what it may accept from."""
        client = socket.create_connection(self.group.getsockname())
        client.setblocking(False)
        return client

    async def code(self) -> int:
        return await soon(self.running)

    async def close(self) -> None:
        self.primary.channel.abort()
        if not self.running.done():
            self.say(Drain(0.0, moving=False))
        await soon(asyncio.wait({self.running}))
        self.sender.close()
        self.receiver.close()
        self.group.close()
        await turns()


MakeStage = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def make_stage() -> AsyncIterator[MakeStage]:
    stages: list[Stage] = []

    async def make(**settings: Any) -> Stage:
        stages.append(Stage(**{"graceful_timeout": 0.0, **settings}))
        return stages[-1]

    yield make
    for stage in stages:
        await stage.close()


@pytest.fixture
async def stage(make_stage: MakeStage) -> Stage:
    return await make_stage()


@pytest.fixture(autouse=True)
def _the_collector_stays_as_it_was() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.enable()
    gc.set_threshold(*threshold)


class App:
    """An app whose handler the test holds."""

    def __init__(self) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.cleaned = 0
        self.application = web.Application()
        self.application.router.add_get("/", self._hello)
        self.application.router.add_get("/wait", self._wait)
        self.application.router.add_get("/ws", self._websocket)
        self.application.on_cleanup.append(self._clean)

    async def _hello(self, request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def _wait(self, request: web.Request) -> web.Response:
        self.begun.set()
        await self.go.wait()
        return web.Response(text="done")

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        await websocket.receive()
        return websocket

    async def _clean(self, application: web.Application) -> None:
        self.cleaned += 1


async def read(client: socket.socket) -> bytes:
    """Read what there is; b"" at the end."""
    return await soon(asyncio.get_running_loop().sock_recv(client, 10_000))


def in_sight(thing: object) -> bool:
    """Would a full collection visit this?"""
    return any(one is thing for one in gc.get_objects())


def handlers_in_sight() -> int:
    return sum(isinstance(one, MeteredHandler) for one in gc.get_objects())


async def test_it_says_online_before_the_app_starts_and_ready_after(stage: Stage) -> None:
    """The primary sees how far a worker got."""
    go = asyncio.Event()

    async def factory() -> web.Application:
        await go.wait()
        return App().application

    await stage.run(factory)
    assert await stage.primary.hear() == Online()
    await turns(20)
    assert stage.primary.heard.empty()
    go.set()

    await stage.hear(Ready)

    assert stage.row[HEARTBEAT] > 0


async def test_it_is_ready_when_its_app_says_so(make_stage: MakeStage) -> None:
    """With ready="explicit" the app's start is not enough."""
    stage, started = await make_stage(ready="explicit"), asyncio.Event()

    def factory() -> web.Application:
        app = App().application

        async def start(application: web.Application) -> None:
            started.set()

        app.on_startup.append(start)
        return app

    await stage.run(factory)
    assert await stage.primary.hear() == Online()
    await soon(started.wait())
    await turns_until(lambda: not stage.primary.heard.empty())
    await turns(20)
    while not stage.primary.heard.empty():
        assert isinstance(await stage.primary.hear(), ReportMetrics)

    cache = [object()]  # made since its start
    stage.runtime.readiness.declare_ready()

    await stage.hear(Ready)
    assert not in_sight(cache)


async def test_it_may_say_so_before_its_app_has_started(make_stage: MakeStage) -> None:
    """Then it is ready as soon as that is."""
    stage = await make_stage(ready="explicit")

    def factory() -> web.Application:
        stage.runtime.readiness.declare_ready()
        return App().application

    await stage.run(factory)

    await stage.hear(Ready)


async def test_a_drain_ends_the_wait_for_its_app_to_be_ready(make_stage: MakeStage) -> None:
    """The app has started, so it is shut down; Ready is not said any more."""
    stage, app = await make_stage(ready="explicit"), App()
    await stage.run(app.application)
    await stage.hear(Online)
    await turns_until(lambda: not stage.primary.heard.empty())  # it has started, and reports

    stage.say(Drain(1000.0, moving=False))

    assert await stage.hear(Drained) == Drained([])
    assert await stage.code() == 0
    assert app.cleaned == 1


async def test_told_that_a_stop_will_follow_it_serves_on_and_is_not_ready(stage: Stage) -> None:
    """A load balancer that asks looks away, and loses nothing meanwhile."""
    await stage.ready(App().application)
    assert stage.runtime.readiness.is_ready

    stage.say(Unready())
    await turns_until(lambda: not stage.runtime.readiness.is_ready)

    client = stage.connect()
    client.send(HELLO)
    assert (await read(client)).startswith(b"HTTP/1.1 200 OK")
    client.close()


async def test_a_draining_worker_is_not_ready(stage: Stage) -> None:
    """Nobody need have said so before."""
    await stage.ready(App().application)

    stage.say(Drain(1000.0, moving=False))

    await stage.code()
    assert not stage.runtime.readiness.is_ready


async def test_it_serves_the_connections_it_is_given(stage: Stage) -> None:
    """Also those that came before it was ready; each is counted as taken."""
    before = stage.connect()
    await stage.ready(App().application)
    after = stage.connect()
    for client in (before, after):
        client.send(HELLO)
        assert (await read(client)).startswith(b"HTTP/1.1 200 OK")
        client.close()

    assert stage.row[CONNECTIONS_TAKEN] == 2


async def test_connections_that_came_at_once_are_not_visited_again(stage: Stage) -> None:
    """When one of them ends, it is freed without the garbage collector."""
    await stage.ready(App().application)
    client = stage.connect()
    client.send(HELLO)
    await read(client)
    assert handlers_in_sight() == 1
    stage.row[CONNECTIONS_TAKEN] += 1000
    await turns_until(lambda: handlers_in_sight() == 0)

    gc.disable()
    client.close()
    await turns_until(lambda: stage.open == 1000)
    await turns()
    gc.unfreeze()

    assert handlers_in_sight() == 0


async def test_a_worker_that_drains_is_not_held_up_by_a_full_collection(stage: Stage) -> None:
    """All that it has is out of the collector's sight."""
    await stage.ready(App().application)
    cache = [object()]

    stage.say(Drain(1000.0, moving=True))

    await stage.code()
    assert not in_sight(cache)


@pytest.mark.parametrize(
    ("app", "cause"),
    [
        (
            17,
            "the app: 17 is an int; expected an aiohttp.web.Application, a factory of one or a job",
        ),
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
async def test_an_app_that_cannot_start_is_told_and_ends_the_worker(
    stage: Stage, app: object, cause: str
) -> None:
    """The primary hears the cause, and the traceback when it is the user's."""
    await stage.run(app)

    failed = await stage.hear(BootFailed)

    assert failed.cause == cause
    assert ("1 / 0" in failed.traceback) is callable(app)
    assert await stage.code() == 3


async def test_what_loading_raises_is_told(stage: Stage) -> None:
    """A module that fails in the worker, since it is not imported before."""

    def load() -> object:
        raise LookupError("no module")

    ours, theirs = socket.socketpair()
    await stage.primary.open(ours)
    stage.running = asyncio.create_task(stage.runtime.run(load, stage.receiver, theirs))

    assert (await stage.hear(BootFailed)).cause == "LookupError: no module"
    assert await stage.code() == 3


async def test_a_start_that_is_cancelled_from_inside_has_failed(stage: Stage) -> None:
    """A factory that awaits a task which was cancelled does not make a worker without an app."""

    async def factory() -> None:
        raise asyncio.CancelledError

    await stage.run(factory)

    assert (await stage.hear(BootFailed)).cause.startswith("CancelledError")
    assert await stage.code() == 3


async def test_a_drain_ends_it_with_0(stage: Stage) -> None:
    """It says what it could not finish, which is nothing, cleans up once and goes."""
    app = App()
    await stage.ready(app.application)

    stage.say(Drain(1000.0, moving=False))

    assert await stage.hear(Drained) == Drained([])
    assert await stage.code() == 0
    assert app.cleaned == 1
    await soon(stage.primary.disconnected.wait())


@pytest.mark.parametrize("how", ["closed", "replaced", "shut down"])
async def test_a_broken_handoff_is_told_once_and_ends_it(
    stage: Stage, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It finishes what it has, and the primary sees that it is disconnected."""
    app = App()
    await stage.ready(app.application)
    match how:
        case "closed":
            os.close(stage.receiver.fileno())
        case "replaced":
            os.dup2(stage.group.fileno(), stage.receiver.fileno())
        case _:
            stage.receiver.shutdown(socket.SHUT_RDWR)

    assert await stage.code() == 0
    if how == "closed":
        stage.receiver.detach()

    await soon(stage.primary.disconnected.wait())
    assert app.cleaned == 1
    assert stage.row[UNWIRED] == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "lost the handoff" in caplog.text


async def test_a_channel_that_is_another_file_now_ends_it(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """What is sent there goes nowhere; that file is not closed, as it is somebody else's."""
    app = App()
    await stage.ready(app.application)
    channel = stage.runtime._channel._transport
    assert channel is not None
    fd = channel.get_extra_info("socket").fileno()
    os.dup2(stage.group.fileno(), fd)

    assert await stage.code() == 0

    await soon(stage.primary.disconnected.wait())
    assert app.cleaned == 1
    assert "lost the channel" in caplog.text
    assert os.fstat(fd).st_ino == os.fstat(stage.group.fileno()).st_ino
    channel.abort()


@pytest.mark.parametrize("wire", ["handoff", "channel"])
async def test_a_broken_wire_costs_no_connection_its_next_request(
    make_stage: MakeStage, wire: str
) -> None:
    """No other worker can have it, so it stays open for that, as in a stop."""
    stage = await make_stage(graceful_timeout=120.0, idle_grace=60.0)
    await stage.ready(App().application)
    client = stage.connect()
    assert b"Connection: close" not in await answer(client)
    channel = stage.runtime._channel._transport
    assert channel is not None
    if wire == "handoff":
        stage.receiver.shutdown(socket.SHUT_RDWR)
    else:
        os.dup2(stage.group.fileno(), channel.get_extra_info("socket").fileno())
    await turns_until(lambda: stage.row[UNWIRED] == 1)
    await turns(50)

    assert b"Connection: close" in await answer(client)

    assert await stage.code() == 0
    channel.abort()
    client.close()


async def answer(client: socket.socket) -> bytes:
    """Ask on this connection; return what comes."""
    client.send(HELLO)
    return await read(client)


async def test_a_drain_while_it_boots_stops_the_start(stage: Stage) -> None:
    """A start that hangs does not hold up the stop."""
    cancelled = asyncio.Event()

    async def factory() -> web.Application:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()
        raise AssertionError

    await stage.run(factory)
    await stage.primary.hear()

    stage.say(Drain(1000.0, moving=False))

    assert await stage.code() == 0
    assert cancelled.is_set()


async def test_a_drain_takes_what_the_primary_had_given_already(stage: Stage) -> None:
    """Connections that were on their way when the Drain was read are served."""
    await stage.ready(App().application)
    client, accepted = tcp_pair()
    client.sendall(HELLO)
    stage.say(Drain(1000.0, moving=False))
    assert give(stage.sender, [accepted.fileno()], b"\0")
    accepted.close()
    client.setblocking(False)

    assert (await read(client)).startswith(b"HTTP/1.1 200 OK")
    client.close()
    assert await stage.code() == 0


async def test_a_drain_waits_for_running_requests(stage: Stage) -> None:
    """What a handler had begun is finished."""
    app = App()
    await stage.ready(app.application)
    client = stage.connect()
    client.send(HELLO.replace(b"/", b"/wait", 1))
    await soon(app.begun.wait())
    stage.say(Drain(1000.0, moving=False))
    await turns(50)
    assert not stage.running.done()
    app.go.set()

    assert (await read(client)).startswith(b"HTTP/1.1 200 OK")
    assert await stage.hear(Drained) == Drained([])
    assert await stage.code() == 0
    client.close()


async def test_what_is_cut_is_named_and_shows_in_the_exit_code(stage: Stage) -> None:
    """A second, shorter Drain makes the first one quicker."""
    app = App()
    await stage.ready(app.application)
    client = stage.connect()
    client.send(HELLO.replace(b"/", b"/wait", 1))
    await soon(app.begun.wait())
    stage.say(Drain(1000.0, moving=False))
    await turns(50)

    stage.say(Drain(0.0, moving=False))

    assert await stage.hear(Drained) == Drained(["GET /wait from 127.0.0.1"])
    assert await stage.code() == 1
    assert app.cleaned == 1
    client.close()


async def test_it_drains_by_itself_when_the_primary_is_gone(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers do not outlive the cluster, and finish what they have."""
    stage, app = await make_stage(graceful_timeout=1000.0), App()
    await stage.ready(app.application)
    client = stage.connect()
    client.send(HELLO.replace(b"/", b"/wait", 1))
    await soon(app.begun.wait())

    stage.primary.channel.abort()
    await turns_until(lambda: stage.runtime.is_draining)
    app.go.set()

    assert (await read(client)).startswith(b"HTTP/1.1 200 OK")
    assert await stage.code() == 0
    assert "the channel to the primary is closed; finishing what is open" in caplog.text
    client.close()


@pytest.mark.parametrize(
    ("before", "end", "code"),
    [
        (None, "dies", 1001),
        (Drain(1000.0, moving=True), "dies", 1001),
        (None, "says nonsense", 1012),
        (None, "drains it", 1012),
        (None, "stops", 1001),
    ],
)
async def test_websockets_are_told_whether_anybody_goes_on(
    make_stage: MakeStage, before: Drain | None, end: str, code: int
) -> None:
    """Nobody does when the primary is gone, or says that it stops."""
    stage, goodbye = await make_stage(graceful_timeout=1000.0), asyncio.Event()
    await stage.ready(App().application)
    client = stage.connect()
    client.send(upgrade("/ws", Random(1)))
    await read(client)
    stage.runtime.readiness.on_drain(goodbye.wait)
    if before is not None:
        stage.say(before)
    await turns_until(lambda: stage.runtime._drain == before)

    match end:
        case "dies":
            stage.primary.channel.abort()
        case "says nonsense":
            stage.say(Ready())
        case "drains it" | "stops":
            stage.say(Drain(1000.0, moving=False, stopping=end == "stops"))
    await turns_until(lambda: stage.runtime._drain != before)
    goodbye.set()

    frame = await read(client)
    assert close_code(frame[2:]) == code
    client.close()
    await stage.code()


async def test_nonsense_from_the_primary_counts_as_its_end(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Who cannot be understood cannot be obeyed."""
    await stage.ready(App().application)
    stage.say(Ready())

    await stage.code()

    assert "the primary sent nonsense" in caplog.text


async def test_the_primarys_end_of_the_handoff_may_close_first(stage: Stage) -> None:
    """Nothing more comes by it; what is open goes on."""
    await stage.ready(App().application)
    client = stage.connect()
    await turns_until(lambda: stage.open == 1)
    stage.sender.close()
    client.send(HELLO)

    assert (await read(client)).startswith(b"HTTP/1.1 200 OK")
    client.close()


async def test_at_max_requests_it_asks_once_to_be_replaced(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on serving until it is told to drain."""
    monkeypatch.setattr("aiocluster.worker.runtime._LIMIT_INTERVAL", 0.001)
    stage = await make_stage(max_requests=2)
    await stage.ready(App().application)
    client = stage.connect()
    for _ in range(2):
        client.send(HELLO)
        await read(client)

    assert await stage.hear(DrainRequest) == DrainRequest("max_requests")
    for _ in range(3):
        client.send(HELLO)
        assert (await read(client)).startswith(b"HTTP/1.1 200 OK")
    client.close()
    await turns_until(lambda: stage.open == 0)
    stage.say(Drain(1000.0, moving=True))

    assert await stage.hear(Drained) == Drained([])
    assert stage.row[REQUESTS_BEGUN] == 5


async def test_who_asks_to_drain_waits_for_the_primary(stage: Stage) -> None:
    """A worker that wants to go is told when: nothing new is on its way then."""
    await stage.ready(App().application)
    stage.runtime.ask_to_drain("drain")

    assert await stage.hear(DrainRequest) == DrainRequest("drain")
    assert not stage.runtime.is_draining


async def test_messages_go_both_ways(stage: Stage) -> None:
    """From before the app serves to the end."""
    await stage.run(App().application)
    assert await stage.primary.hear() == Online()
    await stage.primary.channel.send("to the worker")
    await stage.runtime.messaging.send("to the primary")

    assert await soon(anext(stage.runtime.messaging.messages())) == "to the worker"
    while not isinstance(message := await stage.primary.hear(), UserMessage):
        continue
    assert message == UserMessage("to the primary")


async def test_it_reports_in_its_interval_and_once_more_at_the_end(
    make_stage: MakeStage,
) -> None:
    """What was measured since the last report is not lost by the end."""
    stage = await make_stage(metrics_interval=0.05)
    await stage.ready(App().application)
    client = stage.connect()
    client.send(HELLO)
    await read(client)
    while not (report := (await stage.hear(ReportMetrics)).report).latency:
        assert report.rss_bytes > 0
    client.send(HELLO)
    await read(client)
    client.close()
    await turns_until(lambda: stage.open == 0)
    stage.say(Drain(1000.0, moving=False))

    counted = 0
    while not isinstance(message := await stage.primary.hear(), Drained):
        if isinstance(message, ReportMetrics):
            counted += sum(message.report.latency.values())
    assert counted == 1
    assert sum(report.latency.values()) == 1


# ---- jobs


def context_of(runtime: Runtime) -> context.WorkerContext:
    """Return what the user's code sees of it."""
    ways = (runtime.messaging, runtime.readiness, runtime.servers, runtime.leading)
    return context.WorkerContext(1, 0, "jobs", 1, *ways)


@pytest.fixture
def _a_worker(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = stage.runtime
    worker = context_of(runtime)
    monkeypatch.setattr(context._Process, "worker", worker)


@pytest.mark.usefixtures("_a_worker")
async def test_a_job_is_ready_when_it_has_begun(stage: Stage) -> None:
    """It says that it takes no connections, reports like any worker, and ends when told."""
    begun = asyncio.Event()

    async def job(worker: context.WorkerContext) -> None:
        begun.set()
        await worker.stopping()

    await stage.run(job)
    assert await stage.hear(Ready) == Ready(serves=False)
    assert begun.is_set()
    assert stage.runtime.readiness.is_ready

    stage.say(Drain(1000.0, moving=False))

    assert await stage.hear(Drained) == Drained([])
    assert await stage.code() == 0


@pytest.mark.usefixtures("_a_worker")
async def test_a_job_that_has_returned_asks_to_go(stage: Stage) -> None:
    """Ready comes first, so that it counts as one that came up; the primary says when to go."""

    async def job(worker: context.WorkerContext) -> None:
        await turns(3)

    await stage.run(job)

    assert await stage.hear(Ready) == Ready(serves=False)
    assert await stage.hear(DrainRequest) == DrainRequest("finished")
    assert not stage.running.done()
    stage.say(Drain(1000.0, moving=False))
    assert await stage.hear(Drained) == Drained([])
    assert await stage.code() == 0


@pytest.mark.usefixtures("_a_worker")
async def test_a_job_that_raises_ends_its_worker_with_1(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is asked; the traceback is in the log."""

    async def job(worker: context.WorkerContext) -> None:
        await turns(20)
        raise LookupError("no such queue")

    await stage.run(job)
    await stage.hear(Ready)

    assert await stage.code() == 1
    assert "no such queue" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.usefixtures("_a_worker")
async def test_a_job_that_is_cut_is_named(stage: Stage) -> None:
    """As a request would be."""

    async def job(worker: context.WorkerContext) -> None:
        await asyncio.get_running_loop().create_future()

    await stage.run(job)
    await stage.hear(Ready)

    stage.say(Drain(0.0, moving=False))

    assert await stage.hear(Drained) == Drained([f"the job {job.__qualname__}"])
    assert await stage.code() == 1


@pytest.mark.usefixtures("_a_worker")
async def test_a_job_that_raises_when_told_to_go_shows_in_the_exit_code(stage: Stage) -> None:
    """Nothing was cut, and all the same it did not end well."""

    async def job(worker: context.WorkerContext) -> None:
        await worker.stopping()
        raise LookupError("no such queue")

    await stage.run(job)
    await stage.hear(Ready)

    stage.say(Drain(1000.0, moving=False))

    assert await stage.hear(Drained) == Drained([])
    assert await stage.code() == 1


@pytest.mark.usefixtures("_a_worker")
async def test_a_job_drains_by_itself_when_the_primary_is_gone(stage: Stage) -> None:
    """A job does not outlive the cluster; one that has returned meanwhile does not hang."""

    async def job(worker: context.WorkerContext) -> None:
        await worker.stopping()

    await stage.run(job)
    await stage.hear(Ready)

    stage.primary.channel.abort()

    assert await stage.code() == 0


@pytest.mark.parametrize(
    ("end", "heard"),
    [("ready", Ready(serves=False)), ("return", Ready(serves=False)), ("raise", BootFailed)],
)
async def test_a_job_may_have_to_say_that_it_is_ready(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch, end: str, heard: Any
) -> None:
    """One that returns first has done what it had to; one that raises could not start."""
    stage, go = await make_stage(ready="explicit"), asyncio.Event()
    runtime = stage.runtime
    me = context_of(runtime)
    monkeypatch.setattr(context._Process, "worker", me)

    async def job(worker: context.WorkerContext) -> None:
        await go.wait()
        match end:
            case "ready":
                worker.ready()
                await worker.stopping()
            case "raise":
                raise LookupError("no such queue")

    await stage.run(job)
    assert await stage.primary.hear() == Online()
    await turns_until(lambda: not stage.primary.heard.empty())
    await turns(20)
    while not stage.primary.heard.empty():
        assert isinstance(await stage.primary.hear(), ReportMetrics)
    go.set()

    if end == "raise":
        assert (await stage.hear(heard)).cause == "LookupError: no such queue"
        assert await stage.code() == 3
    else:
        assert await stage.hear(Ready) == heard


# ---- servers of its own


class OwnServers(Stage):
    """A runtime whose primary binds what it asks for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.binding = BindingPrimary(self.sender)
        self.binding.answer = self.say
        hear = self.primary.channel._on_message

        def heard(message: Message, size: int) -> None:
            self.binding.hear(message)
            hear(message, size)

        self.primary.channel._on_message = heard

    async def hear(self, kind: type[Message]) -> Any:
        """Return the next message of this kind; the others are about listening."""
        while not isinstance(message := await self.primary.hear(), kind):
            continue
        return message

    async def close(self) -> None:
        await super().close()
        self.binding.close()


@pytest.fixture
async def own(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OwnServers]:
    stage = OwnServers(graceful_timeout=0.0)
    runtime = stage.runtime
    worker = context_of(runtime)
    monkeypatch.setattr(context._Process, "worker", worker)
    yield stage
    await stage.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
    writer.close()


def serve_lines(ends: "asyncio.Queue[str]") -> Any:
    """A job that serves lines for as long as it may, and its server."""

    async def job(worker: context.WorkerContext) -> None:
        server = await worker.start_server(echo, "127.0.0.1", 0)
        ends.put_nowait(str(server.addresses[0][1]))
        async with server:
            await server.serve_forever()

    return job


async def connected(ends: "asyncio.Queue[str]") -> socket.socket:
    """Return a client of the server whose port is in `ends`."""
    client = socket.socket()
    client.setblocking(False)
    port = int(await soon(ends.get()))
    await soon(asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port)))
    return client


async def test_a_job_serves_and_ends_with_its_connections(own: OwnServers) -> None:
    """The drain ends serve_forever, without a word of the job's own; what is open is finished."""
    ends: asyncio.Queue[str] = asyncio.Queue()
    await own.run(serve_lines(ends))
    client = await connected(ends)
    client.send(b"hello\n")
    assert await read(client) == b"hello\n"
    assert own.open == 1

    own.say(Drain(1000.0, moving=False))
    await turns_until(lambda: own.runtime.is_draining)
    client.send(b"still there\n")
    assert await read(client) == b"still there\n"
    client.close()

    assert await own.hear(Drained) == Drained([])
    assert await own.code() == 0
    assert own.open == 0


async def test_what_was_given_before_the_drain_is_served(own: OwnServers) -> None:
    """The job closes its server as soon as it is told, and that is not too soon."""
    ends: asyncio.Queue[str] = asyncio.Queue()
    await own.run(serve_lines(ends))
    await soon(ends.get())
    await own.hear(Serving)
    own.say(Drain(1000.0, moving=False))
    client = own.binding.hand_over(1)
    client.send(b"just in time\n")

    assert await read(client) == b"just in time\n"
    client.close()
    assert await own.code() == 0


async def test_connections_that_do_not_end_are_cut(own: OwnServers) -> None:
    """And named, with who waited for them."""
    ends: asyncio.Queue[str] = asyncio.Queue()
    await own.run(serve_lines(ends))
    client = await connected(ends)
    client.send(b"hello\n")
    await read(client)

    own.say(Drain(0.0, moving=False))

    drained = await own.hear(Drained)
    assert any(name.startswith("connection from 127.0.0.1:") for name in drained.cut)
    assert await own.code() == 1
    client.close()


async def test_an_app_has_servers_beside_it(own: OwnServers) -> None:
    """Each connection goes to whose listener it came from."""
    ends: asyncio.Queue[str] = asyncio.Queue()
    app = App().application

    async def start(application: web.Application) -> None:
        worker = context.current_worker()
        assert worker is not None
        server = await worker.start_server(echo, "127.0.0.1", 0)
        ends.put_nowait(str(server.addresses[0][1]))

    app.on_startup.append(start)
    await own.run(app)
    await own.hear(Ready)
    lines, web_client = await connected(ends), own.connect()
    lines.send(b"hello\n")
    web_client.send(HELLO)

    assert await read(lines) == b"hello\n"
    assert (await read(web_client)).startswith(b"HTTP/1.1 200 OK")
    lines.close()
    web_client.close()


async def test_a_port_that_cannot_be_had_is_told_to_who_asked(own: OwnServers) -> None:
    """The job may go on; here it does not."""
    heard: asyncio.Queue[int | None] = asyncio.Queue()

    async def job(worker: context.WorkerContext) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            try:
                await worker.start_server(echo, "127.0.0.1", other.getsockname()[1])
            except OSError as error:
                heard.put_nowait(error.errno)

    await own.run(job)

    assert await soon(heard.get()) == errno.EADDRINUSE
    assert await own.hear(DrainRequest) == DrainRequest("finished")


async def test_who_waits_for_an_answer_hears_of_the_primarys_end(own: OwnServers) -> None:
    """It would wait for ever."""
    own.binding.is_silent = True
    asked: asyncio.Queue[str] = asyncio.Queue()

    async def job(worker: context.WorkerContext) -> None:
        try:
            await worker.start_server(echo, "127.0.0.1", 0)
        except ClusterStopping as error:
            asked.put_nowait(str(error))

    await own.run(job)
    await own.hear(Listen)
    own.primary.channel.abort()

    assert "this worker is draining" in await soon(asked.get())
    assert await own.code() == 0


# ---- accepting by itself


async def test_it_accepts_when_told_and_counts_that_apart(stage: Stage) -> None:
    """The primary compares what was taken with what it sent, so that must not change."""
    await stage.ready(App().application)
    stage.say(Accept(True, 1))
    with stage.knock() as client:
        client.send(HELLO)

        assert b"hello" in await read(client)
        assert (stage.row[ACCEPTED], stage.row[CONNECTIONS_TAKEN]) == (1, 0)


async def test_a_client_is_known_as_the_primary_would_tell_it(stage: Stage) -> None:
    """Accepting tells who it is, so nobody asks the kernel again."""
    who: list[object] = []

    async def tell(request: web.Request) -> web.Response:
        assert request.transport is not None
        who.append((request.remote, request.transport.get_extra_info("peername")))
        return web.Response()

    app = web.Application()
    app.router.add_get("/", tell)
    await stage.ready(app)
    stage.say(Accept(True, 1))
    with stage.knock() as client:
        client.send(HELLO)
        await read(client)

        assert who == [(client.getsockname()[0], client.getsockname())]


@pytest.mark.parametrize("limit", ["max_connections", "max_requests_in_flight"])
async def test_freed_room_is_used_at_once(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """Nobody waits until it looks by itself, which it does not here."""
    monkeypatch.setattr(acceptor, "_LOOK_INTERVAL", 1000.0)
    stage = await make_stage(**{limit: 1})
    app = App()
    await stage.ready(app.application)
    stage.say(Accept(True, 1))
    await turns_until(lambda: stage.runtime._acceptor.accepts)
    with stage.knock() as first, stage.knock() as second:
        first.send(HELLO)
        assert b"hello" in await read(first)
        first.close()
        second.send(HELLO)

        assert b"hello" in await read(second)
        assert stage.row[ACCEPTED] == 2


async def test_told_not_to_accept_it_leaves_connections_to_others(stage: Stage) -> None:
    """They wait in the backlog."""
    await stage.ready(App().application)
    stage.say(Accept(True, 1))
    stage.say(Accept(False))
    await turns(20)
    with stage.knock():
        await turns(20)

        assert stage.row[ACCEPTED] == 0


async def test_a_drain_leaves_connections_to_others(stage: Stage) -> None:
    """When others go on it gives up its sockets at once."""
    await stage.ready(App().application)
    stage.say(Accept(True, 1))
    stage.say(Drain(10.0, moving=False))
    assert await stage.code() == 0
    with stage.knock():
        assert waiting_in(stage.group) == 1
        assert stage.row[ACCEPTED] == 0


async def test_at_a_stop_who_waits_is_served(make_stage: MakeStage) -> None:
    """The last to close a socket would reset them."""
    stage = await make_stage()
    await stage.ready(App().application)
    stage.say(Accept(True, 1))
    await turns_until(lambda: stage.runtime._acceptor.accepts)
    with stage.knock() as client:
        client.send(HELLO)
        # In the same turn, so that it has not seen them yet.
        stage.runtime._on_drain(Drain(10.0, moving=False, stopping=True))

        assert b"hello" in await read(client)
    assert await stage.code() == 0


@pytest.mark.parametrize("limit", ["max_connections", "max_requests_in_flight"])
async def test_at_a_stop_who_waits_for_room_is_served(make_stage: MakeStage, limit: str) -> None:
    """Its limit is reached, by one that is idle or by a request; there is no later on."""
    stage = await make_stage(graceful_timeout=10.0, **{limit: 1})
    app = App()
    await stage.ready(app.application)
    stage.say(Accept(True, 1))
    await turns_until(lambda: stage.runtime._acceptor.accepts)
    with stage.knock() as first:
        first.send(HELLO if limit == "max_connections" else HOLD)
        await turns_until(lambda: stage.row[REQUESTS_BEGUN] == 1)
        with stage.knock() as second:
            second.send(HELLO)
            await turns(20)
            assert stage.row[ACCEPTED] == 1
            stage.runtime._on_drain(Drain(10.0, moving=False, stopping=True))
            app.go.set()

            assert b"hello" in await read(second)
    assert await stage.code() == 0


async def test_told_to_accept_while_it_drains_it_does_not(stage: Stage) -> None:
    """The two crossed on their way."""
    app = App()
    await stage.ready(app.application)
    stage.say(Drain(0.0, moving=False))
    stage.say(Accept(True, 1))

    assert await stage.code() == 0
    assert not stage.runtime._acceptor.accepts


# ---- its own code ends it


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (web.GracefulExit(), "exit", 0),
        (KeyboardInterrupt(), "exit", 0),
        (SystemExit(7), "crash", 7),
    ],
)
async def test_an_exit_of_its_own_drains_it(
    stage: Stage, error: BaseException, reason: DrainReason, code: int
) -> None:
    """The request that runs is answered, the app cleaned up, and the first exit is the code."""
    app = App()
    await stage.ready(app.application)
    client = stage.connect()
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, HOLD)
    await soon(app.begun.wait())

    stage.runtime.leave(error)

    assert await stage.hear(DrainRequest) == DrainRequest(reason)
    stage.say(Drain(1000.0, moving=False))
    await turns(20)
    stage.runtime.leave(SystemExit(8))
    app.go.set()
    assert await stage.hear(Drained) == Drained([])
    assert await stage.code() == code
    assert (await read(client)).startswith(b"HTTP/1.1 200")
    assert app.cleaned == 1
    client.close()


async def test_an_exit_while_it_starts_is_a_failure_to_start(stage: Stage) -> None:
    """Whatever raised it."""
    app = App()
    begun = asyncio.Event()

    async def wait(application: web.Application) -> None:
        begun.set()
        await asyncio.Event().wait()

    app.application.on_startup.append(wait)
    await stage.run(app.application)
    await soon(begun.wait())

    stage.runtime.leave(SystemExit("no database"))

    assert (await stage.hear(BootFailed)).cause == (
        "the app exited with code 1 before it served: no database"
    )
    assert await stage.code() == 3


async def test_an_app_that_cancels_its_hooks_task_is_drained(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """As a TaskGroup does that spans its life: it ends as a crash, and says why."""
    app, tasks = App(), list[asyncio.Task[Any] | None]()

    async def remember(application: web.Application) -> None:
        tasks.append(asyncio.current_task())

    app.application.on_startup.append(remember)
    await stage.ready(app.application)

    assert tasks[0] is not None
    tasks[0].cancel()

    assert await stage.hear(DrainRequest) == DrainRequest("crash")
    stage.say(Drain(1000.0, moving=False))
    assert await stage.code() == 1
    assert app.cleaned == 1
    assert "cancelled by the app" in caplog.text

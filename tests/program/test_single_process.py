import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.web_runner import GracefulExit

import aiocluster
from aiocluster.config.roles import Role, plan_from
from aiocluster.errors import BootError, ConfigError, MessageError, WorkerGone
from aiocluster.program.signals import release_signals
from aiocluster.program.single_process import SingleCluster, _imported, run_in_one_process
from aiocluster.worker.api.context import enter, share_process


async def hello(request: web.Request) -> web.Response:
    worker = aiocluster.current_worker()
    assert worker is not None
    where = (worker.id, worker.slot, worker.role, worker.is_leader, aiocluster.is_worker())
    return web.Response(text=repr(where))


async def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/", hello)
    return app


@pytest.mark.parametrize("given", ["of the cluster", "of the roles"])
def test_the_apps_are_imported_in_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """Each relative to where the program was started; the process stays in the first one."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"app_{name}.py").write_text(
            "from aiohttp import web\ndef make_app(): return web.Application()\n"
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    if given == "of the cluster":
        plan = plan_from("app_one:make_app", None, {"chdir": "one"})
    else:
        names = ("one", "two")
        plan = plan_from(None, {n: Role(f"app_{n}:make_app", chdir=n) for n in names}, {})

    apps = _imported(plan)

    assert len(apps) == len(plan.roles)
    assert os.getcwd() == str(tmp_path / "one")
    for name in ("app_one", "app_two"):
        sys.modules.pop(name, None)


@contextlib.asynccontextmanager
async def serving(
    app: object = make_app, roles: Any = None, **settings: Any
) -> AsyncIterator[SingleCluster]:
    """A cluster in this process, and in the test's loop."""
    given = {"graceful_timeout": 5.0, **settings}
    if roles is None:
        given = {"bind": "127.0.0.1:0", **given}
    plan = plan_from(None if roles else app, roles, given)
    share_process(None)
    try:
        cluster = SingleCluster(plan, {name: spec.app for name, spec in plan.roles.items()})
        async with cluster:
            yield cluster
    finally:
        enter("primary")


async def get(address: tuple[str, int], path: str = "/") -> str:
    url = f"http://{address[0]}:{address[1]}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


async def test_the_app_is_served_at_all_its_addresses() -> None:
    """A handler sees the worker that it would see on Linux; the program itself is the primary."""
    async with serving(bind=["127.0.0.1:0", "127.0.0.1:0"]) as cluster:
        assert len({*cluster.addresses}) == 2
        for address in cluster.addresses:
            assert await get(address) == "(1, 0, 'web', True, True)"
        assert (aiocluster.is_primary(), aiocluster.current_worker()) == (True, None)


async def test_messages_go_both_ways() -> None:
    """An app that asks the primary, and an on_start that answers, need not be changed."""

    async def job(worker: aiocluster.WorkerContext) -> None:
        await worker.send({"question": (1, 2)})
        async for message in worker.messages():
            await worker.send({"heard": message})

    heard: asyncio.Queue[Any] = asyncio.Queue()
    async with serving(job, graceful_timeout=0.0) as cluster:
        cluster.on(aiocluster.WorkerMessage, lambda event: heard.put_nowait(event.message))
        cluster.announce()
        assert await cluster.broadcast("all of you") == 1
        assert await heard.get() == {"question": [1, 2]}
        assert await heard.get() == {"heard": "all of you"}
        (worker,) = cluster.workers.values()
        with pytest.raises(MessageError):
            await worker.send({1, 2})
    with pytest.raises(WorkerGone):
        await worker.send("too late")
    assert (worker.is_dead, worker.is_connected, worker.phase) == (True, False, "exited")


async def test_each_role_has_a_worker_in_the_process() -> None:
    """A job runs beside the app, and each sees its own role."""
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def job(worker: aiocluster.WorkerContext) -> None:
        here = aiocluster.current_worker()
        assert here is worker
        seen.put_nowait(worker.role)
        await worker.stopping()

    roles = {"web": Role(make_app, bind="127.0.0.1:0"), "jobs": Role(job)}
    async with serving(roles=roles) as cluster:
        assert await seen.get() == "jobs"
        assert await get(cluster.addresses[0]) == "(1, 0, 'web', True, True)"
        assert [*cluster.addresses_of] == ["web", "jobs"]


async def test_what_needs_processes_says_so() -> None:
    """Nothing pretends to have reloaded or scaled."""
    async with serving() as cluster:
        for refused in (cluster.reload, cluster.fork, cluster.upgrade, lambda: cluster.scale(2)):
            with pytest.raises(ConfigError, match="only on Linux"):
                await refused()


async def test_a_snapshot_never_comes_and_the_stop_ends_the_wait() -> None:
    """A program that shows metrics runs, and shows none."""
    async with serving() as cluster:
        with pytest.raises(ConfigError):
            await anext(cluster.subscribe(-1.0))
        waiting = asyncio.ensure_future(anext(cluster.subscribe(), None))
    assert await waiting is None


async def test_a_factory_that_raises_is_a_boot_error() -> None:
    """The start fails with the app's own traceback."""

    def broken() -> web.Application:
        raise RuntimeError("no database")

    with pytest.raises(BootError, match="no database") as raised:
        async with serving(broken):
            pass
    assert "in broken" in raised.value.traceback


async def test_an_address_in_use_is_a_boot_error() -> None:
    """It names the address; the app's clean-up hooks run."""
    cleaned = []

    async def clean(app: web.Application) -> None:
        cleaned.append(app)

    app = web.Application()
    app.on_cleanup.append(clean)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BootError, match=f"cannot listen on {address}"):
            async with serving(app, bind=address):
                pass
    assert cleaned == [app]


async def test_an_app_that_is_not_ready_in_time_is_a_boot_error() -> None:
    """boot_timeout holds here too."""
    with pytest.raises(BootError, match="boot_timeout"):
        async with serving(ready="explicit", boot_timeout=0.01):
            pass


async def test_a_worker_that_drains_has_no_successor(caplog: pytest.LogCaptureFixture) -> None:
    """The code that asked for it runs as on Linux, and the log says what is different."""

    async def leave(request: web.Request) -> web.Response:
        worker = aiocluster.current_worker()
        assert worker is not None
        worker.drain()
        return web.Response()

    app = web.Application()
    app.router.add_get("/", leave)
    async with serving(app) as cluster:
        await get(cluster.addresses[0])
        await cluster.wait_empty()
        assert not cluster.workers
    assert "nothing takes its place" in caplog.text


async def test_a_request_that_runs_is_finished_by_a_stop() -> None:
    """graceful_timeout is aiohttp's shutdown_timeout; on_drain and the events come first."""
    begun, told = asyncio.Event(), []

    async def slow(request: web.Request) -> web.Response:
        worker = aiocluster.current_worker()
        assert worker is not None
        worker.on_drain(lambda: told.append("on_drain"))
        begun.set()
        await worker.stopping()
        return web.Response(text="finished")

    app = web.Application()
    app.router.add_get("/", slow)
    async with serving(app) as cluster:
        cluster.on(aiocluster.StopBegan, lambda event: told.append("StopBegan"))
        cluster.announce()
        answer = asyncio.ensure_future(get(cluster.addresses[0]))
        await begun.wait()
        assert await cluster.stop() == []
    assert await answer == "finished"
    assert told == ["StopBegan", "on_drain"]


async def test_a_stop_without_time_cuts_what_runs() -> None:
    """QUIT, or a second INT, ends the program though a handler waits for ever."""
    begun = asyncio.Event()

    async def endless(request: web.Request) -> web.Response:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    app = web.Application()
    app.router.add_get("/", endless)
    async with serving(app, graceful_timeout=3600.0) as cluster:
        answer = asyncio.ensure_future(get(cluster.addresses[0]))
        await begun.wait()
        stopping = asyncio.ensure_future(cluster.stop())
        await asyncio.sleep(0)
        cluster.kill()
        assert await stopping == ["worker 1 (web): what it was doing"]
        answer.cancel()


# ---- the program


def live(app: object, when_up: Callable[[SingleCluster], Any], **settings: Any) -> int:
    """Run the program; `when_up(cluster)` is called once it serves."""

    async def on_start(cluster: Any) -> None:
        result = when_up(cluster)
        if asyncio.iscoroutine(result):
            await result

    given = {"bind": "127.0.0.1:0", "graceful_timeout": 5.0, **settings}
    plan = plan_from(app, None, given)
    before = {**os.environ}
    try:
        return run_in_one_process(plan, on_start)
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        release_signals()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_program(number: int, caplog: pytest.LogCaptureFixture) -> None:
    """Exit code 0, and one warning, which names what has no effect."""
    assert live(make_app, lambda cluster: os.kill(os.getpid(), number), workers=3) == 0
    warnings = [record.message for record in caplog.records if record.levelno > logging.INFO]
    assert len(warnings) == 1
    assert warnings[0].endswith("without effect here: workers=3")


def test_a_signal_for_a_reload_is_told_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    """HUP neither ends the program nor pretends."""

    async def reload_and_stop(cluster: SingleCluster) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)

    assert live(make_app, reload_and_stop) == 0
    assert "reload: only on Linux" in caplog.text


def test_a_job_that_returns_ends_the_program() -> None:
    """Exit code 0, as on Linux."""

    async def job(worker: aiocluster.WorkerContext) -> None:
        pass

    assert live(job, lambda cluster: None) == 0


def test_a_job_that_raises_ends_the_program_with_1() -> None:
    """Nothing starts it again here; the failure is not hidden."""

    async def job(worker: aiocluster.WorkerContext) -> None:
        raise RuntimeError("broken")

    assert live(job, lambda cluster: None) == 1


def test_an_app_that_does_not_start_is_code_3(caplog: pytest.LogCaptureFixture) -> None:
    """As on Linux, with the traceback."""

    def broken() -> web.Application:
        raise RuntimeError("no database")

    assert live(broken, lambda cluster: None) == 3
    assert "in broken" in caplog.text
    assert live("nothing_of_that_name:app", lambda cluster: None) == 3


@pytest.mark.parametrize(
    ("exit_", "code"), [(GracefulExit(), 0), (KeyboardInterrupt(), 0), (SystemExit(7), 7)]
)
def test_what_exits_within_the_app_stops_it_gracefully(exit_: BaseException, code: int) -> None:
    """As under web.run_app: the clean-up hooks run, and the code is that of the exit."""
    cleaned = []

    async def clean(app: web.Application) -> None:
        cleaned.append(app)

    async def leave(request: web.Request) -> web.Response:
        raise exit_

    app = web.Application()
    app.router.add_get("/", leave)
    app.on_cleanup.append(clean)

    async def ask(cluster: SingleCluster) -> None:
        with contextlib.suppress(aiohttp.ClientError):
            await get(cluster.addresses[0])

    assert live(app, ask) == code
    assert cleaned == [app]

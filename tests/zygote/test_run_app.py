"""What stands in the place of aiohttp's run_app, with the test as what serves."""

import asyncio
import inspect
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web

from aiocluster.errors import ConfigError
from aiocluster.zygote.run_app import CallsRun, RunApp, end_imports_under_way, note_call_of_run

AIOHTTPS = web.run_app


class Stage:
    """A RunApp in the place of aiohttp's, and the calls that it serves."""

    def __init__(self, *, for_script: bool = True) -> None:
        self.calls: list[tuple[object, Mapping[str, Any]]] = []
        self.error: Exception | None = None
        self.run_app = RunApp(self.serve, "server.py", for_script=for_script)
        self.run_app.install()

    def serve(self, app: object, arguments: Mapping[str, Any]) -> None:
        self.calls.append((app, arguments))
        if self.error is not None:
            raise self.error


@pytest.fixture(autouse=True)
def original(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Note what reaches aiohttp's own; put everything back."""
    reached: list[str] = []
    monkeypatch.setattr(web, "run_app", lambda app, **_: reached.append("aiohttp"))
    monkeypatch.setattr(RunApp, "installed", None)
    yield reached
    if RunApp.installed is not None:
        RunApp.installed.imported()


def test_a_call_is_served_with_its_arguments() -> None:
    """The app, and what was given beside it; the call returns when that is over."""
    stage, app = Stage(), web.Application()

    web.run_app(app, port=9000)

    assert stage.calls == [(app, {"port": 9000})]
    assert stage.run_app.was_called


def test_a_second_call_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process serves once; one that catches even that is ended, since it would spin."""
    stage = Stage()
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    web.run_app(web.Application())

    with pytest.raises(SystemExit):
        web.run_app(web.Application())
    assert codes == []
    web.run_app(web.Application())

    assert codes == [0]
    assert len(stage.calls) >= 1


def test_a_wrong_call_is_told_as_by_aiohttp(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names run_app, which the user has called, and nothing of ours."""
    monkeypatch.setattr(web, "run_app", AIOHTTPS)
    Stage()
    wrong: Any = web.run_app

    with pytest.raises(TypeError, match=r"^run_app\(\) takes 1 positional argument but 2 were"):
        wrong(web.Application(), "127.0.0.1")
    with pytest.raises(TypeError, match=r"^run_app\(\) missing 1 required positional argument"):
        wrong(port=9000)

    assert inspect.signature(web.run_app) == inspect.signature(AIOHTTPS)


def make_app() -> web.Application:
    return web.Application()


@pytest.mark.parametrize(
    ("app", "said"),
    [
        (None, r"None, a NoneType; give an Application or an awaitable"),
        ("server:app", r"'server:app', a str; give an Application or an awaitable"),
        (web.Application, r"Application itself, .*; call it: web\.run_app\(Application\(\)\)"),
        (make_app, r"make_app itself, .*; call it: web\.run_app\(make_app\(\)\)"),
    ],
)
def test_what_is_no_app_is_refused(app: Any, said: str) -> None:
    """run_app takes no factory, under aiohttp neither."""
    stage = Stage()

    with pytest.raises(ConfigError, match=rf"^server\.py: web\.run_app was given {said}"):
        web.run_app(app)

    assert stage.calls == []
    assert isinstance(stage.run_app.refusal, ConfigError)


def test_a_coroutine_that_no_one_awaited_here_ends_without_a_warning() -> None:
    """Each worker awaits its own copy."""

    async def init() -> web.Application:
        return web.Application()

    Stage()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        web.run_app(init())


async def test_a_call_in_a_running_loop_is_refused() -> None:
    """As that of a factory which serves by itself."""
    Stage()
    with pytest.raises(
        ConfigError, match=r"in a running event loop \(under asyncio\.run, .* outside of"
    ):
        web.run_app(web.Application())


def test_why_it_cannot_be_served_is_remembered() -> None:
    """The program may catch the error."""
    stage = Stage()
    stage.error = ConfigError("no TLS")

    with pytest.raises(ConfigError):
        web.run_app(web.Application())

    assert stage.run_app.refusal is stage.error


def test_other_threads_and_processes_have_aiohttps_own(original: list[str]) -> None:
    """What an app starts beside itself serves as before."""
    stage = Stage()
    stage.run_app.imported()
    thread = threading.Thread(target=web.run_app, args=(web.Application(),))
    thread.start()
    thread.join()

    stage.run_app._pid = os.getpid() - 1  # as in a process that was forked from this one
    web.run_app(web.Application())

    assert (original, stage.calls) == (["aiohttp", "aiohttp"], [])


def test_a_call_in_a_thread_is_refused_while_the_code_is_imported(original: list[str]) -> None:
    """It would serve in the zygote, and the service would never start."""
    stage = Stage()

    def serve() -> None:
        with suppress(SystemExit):  # which ends a thread in silence, but not under pytest
            web.run_app(web.Application())
        assert stage.run_app.refusal is not None

    thread = threading.Thread(target=serve, name="server")
    thread.start()
    thread.join()

    refusal = str(stage.run_app.refusal)
    assert refusal.startswith("server.py calls web.run_app in the thread 'server', while it is")
    assert (original, stage.calls) == ([], [])


async def start_a_site() -> None:
    runner = web.AppRunner(web.Application())
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
    finally:
        await runner.cleanup()


async def listen() -> None:
    loop = asyncio.get_running_loop()
    (await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)).close()


@pytest.mark.parametrize("loop_factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
@pytest.mark.parametrize("start", [start_a_site, listen])
def test_a_server_that_the_import_starts_is_refused(start: Any, loop_factory: Any) -> None:
    """It would serve in the zygote; once the import is over the app may start what it likes."""
    stage = Stage()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        with pytest.raises(ConfigError, match=r"^server\.py starts a server by itself"):
            runner.run(start())
        assert stage.run_app.refusal is not None
        stage.run_app.imported()
        runner.run(start())


def test_a_script_that_calls_run_is_the_program() -> None:
    """That call is taken: it is raised through the script, which may clean up."""
    stage = Stage()
    with pytest.raises(CallsRun):
        note_call_of_run()
    assert isinstance(stage.run_app.refusal, CallsRun)


def test_a_call_of_run_elsewhere_is_not_its_business() -> None:
    """A module that is imported must not call it, which has an error of its own."""
    note_call_of_run()
    Stage(for_script=False)
    note_call_of_run()


def test_a_module_that_serves_counts_as_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise what imports it in a thread, say to unpickle, would wait for ever."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "serving_now.py").write_text("import sys\nsys.hook()\n")
    found: list[object] = []

    def hook() -> None:
        end_imports_under_way()
        thread = threading.Thread(target=lambda: found.append(__import__("serving_now")))
        thread.start()
        thread.join(30)

    monkeypatch.setattr(sys, "hook", hook, raising=False)
    try:
        module = __import__("serving_now")
    finally:
        sys.modules.pop("serving_now", None)
    assert found == [module]

"""run(), as far as it can be tested without becoming a cluster."""

import asyncio
import errno
import os
import threading
from typing import Any

import pytest
import uvloop

from aiocluster.config.roles import Role
from aiocluster.errors import ConfigError
from aiocluster.program.run import run
from tests.support.connections import open_fds


def print_nothing() -> None: ...
async def handler(request: object) -> None: ...
async def init(loop: object) -> None: ...


async def test_run_in_a_running_loop_says_what_to_use_there() -> None:
    """A second loop cannot run inside the first."""
    with pytest.raises(ConfigError, match=r"running event loop; .* aiocluster\.Cluster"):
        run("pkg.module:name")


def test_run_in_a_thread_says_why_not() -> None:
    """Signals reach the main thread only."""
    raised: list[BaseException] = []

    def in_thread() -> None:
        try:
            run("pkg.module:name")
        except ConfigError as error:
            raised.append(error)

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()

    assert "must be called in the main thread" in str(raised[0])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"worker": 2}, "unknown setting: 'worker'; did you mean 'workers'?"),
        ({"port": 80}, "unknown setting: 'port'; give the address as bind='127.0.0.1:PORT'"),
        ({"backlog": "x"}, "backlog: 'x' is not allowed; give a whole number from 1 to 2147483647"),
        ({"app": None}, "give an app to serve, or roles={name: Role(app, ...)}"),
    ],
)
def test_a_wrong_setting_ends_the_program_with_2_and_one_line(
    given: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As it ends the command; the line says what is wrong and what to do."""
    with pytest.raises(SystemExit) as caught:
        run(**{"app": "pkg.module:name", **given})

    assert caught.value.code == 2
    assert [record.message for record in caplog.records] == [f"could not start: {said}"]


def test_an_app_of_any_role_that_is_none_ends_the_program_with_3(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As that of the only one does."""
    with pytest.raises(SystemExit) as caught:
        run(roles={"web": Role("pkg.module:name", bind="127.0.0.1:0"), "jobs": Role(17)})

    assert caught.value.code == 3
    assert "17 is an int; expected an aiohttp.web.Application" in caplog.text


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        (
            17,
            "17 is an int; expected an aiohttp.web.Application, a factory of one, a job, or an",
        ),
        ({"a": 1}, "{'a': 1} is a dict"),
        (handler, "handler is a request handler, for it takes 'request'; give a function"),
        (init, "init cannot be called without the argument 'loop': remove this parameter"),
        ("no colon", "app 'no colon' is not of the form 'pkg.module:name'"),
    ],
)
def test_an_app_that_is_none_ends_the_program_with_3(
    app: object, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing came up, and the log says what was given and what is expected."""
    with pytest.raises(SystemExit) as caught:
        run(app)

    assert caught.value.code == 3
    assert reason in caplog.text


def test_run_in_an_imported_module_of_a_child_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A program without `if __name__` would start a cluster in each of its children."""
    monkeypatch.setattr("aiocluster.worker.api.context._Process.kind", "zygote")

    with pytest.raises(ConfigError, match='under `if __name__ == "__main__":`'):
        run("pkg.module:name")


@pytest.mark.parametrize(
    ("app", "call", "refused"),
    [
        (print_nothing, "fork", "the fork of a zygote"),
        ("pkg:name", "memfd_create", "a file in memory (memfd_create)"),
        (print_nothing, "new_event_loop", "an event loop"),
    ],
)
def test_what_the_kernel_refuses_ends_the_program_with_3_and_one_line(
    app: object,
    call: str,
    refused: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Which says what that was, and which limit to look at; nothing is left."""

    def refuse(*given: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    before = open_fds()
    monkeypatch.setattr(uvloop if call == "new_event_loop" else os, call, refuse)
    with pytest.raises(SystemExit) as caught:
        run(app, workers=1, bind="127.0.0.1:0")

    assert caught.value.code == 3
    (told,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert told.startswith(f"could not start: the kernel refused {refused}: Resource temporarily")
    assert "look at the limit of processes" in told
    assert open_fds() <= before


@pytest.fixture(autouse=True)
def _no_loop_is_left_behind(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level("INFO")
    yield
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()

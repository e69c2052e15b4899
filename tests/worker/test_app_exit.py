"""Exits of the app's own code: which they are, and the code of each."""

import asyncio

import pytest
from aiohttp import web

from aiocluster.worker.app_exit import describe_start, exit_code, expect_exits, is_exit


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (web.GracefulExit(), 0, ""),
        (KeyboardInterrupt(), 0, ""),
        (SystemExit(), 0, ""),
        (SystemExit(0), 0, ""),
        (SystemExit(7), 7, ""),
        (SystemExit(-1), 255, ""),
        (SystemExit(10**20), 0, ""),
        (SystemExit("no database"), 1, "no database"),
        (RuntimeError("Event loop stopped before Future completed."), 1, ""),
    ],
)
def test_the_code_is_that_of_run_app(
    error: BaseException, code: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And a text is logged, as the interpreter would print it."""
    assert exit_code(error) == code
    assert said in caplog.text


def test_an_exit_before_it_served_is_told_in_one_line() -> None:
    """With its code; what fails otherwise has a traceback, and no code."""
    assert describe_start(SystemExit("no\udcff"), "server.py") == (
        "server.py exited with code 1 before it served: no\\udcff",
        "",
        1,
    )
    assert describe_start(web.GracefulExit(), "the app")[2] == 0
    assert describe_start(LookupError("x"), "the app") == (
        "LookupError: x",
        "LookupError: x\n",
        None,
    )


def test_an_exit_is_what_a_loop_lets_through() -> None:
    """A cancellation stays in its task."""
    assert is_exit(web.GracefulExit())
    assert is_exit(KeyboardInterrupt())
    assert not is_exit(asyncio.CancelledError())
    assert not is_exit(None)


async def test_an_exit_is_no_error_of_its_task(caplog: pytest.LogCaptureFixture) -> None:
    """What a task raises otherwise, and nothing reads, is logged as ever."""
    loop = asyncio.get_running_loop()
    expect_exits(loop)

    for error in (SystemExit(3), KeyboardInterrupt(), web.GracefulExit(), LookupError("x")):
        loop.call_exception_handler(
            {"message": "Task exception was never retrieved", "exception": error}
        )
    loop.call_exception_handler({"message": "a callback raised", "exception": SystemExit(4)})

    assert [record.message.splitlines()[0] for record in caplog.records] == [
        "Task exception was never retrieved",
        "a callback raised",
    ]


async def test_an_exception_handler_of_the_app_stays() -> None:
    """It hears of an exit too, as under `web.run_app`."""
    heard: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: heard.append(context["exception"]))
    expect_exits(loop)
    error = SystemExit(3)

    loop.call_exception_handler(
        {"message": "Task exception was never retrieved", "exception": error}
    )

    assert heard == [error]

"""The hooks at an app's end: each has its turn, and what they raise means something or nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from aiocluster.worker.http.hooks import clean_up, faults, shut_down


class App:
    """An app whose hooks raise what they are given, and are written down."""

    def __init__(self, signal: str, *errors: BaseException | None) -> None:
        self.run: list[int] = []
        self.application = web.Application()
        for number, error in enumerate(errors):
            getattr(self.application, signal).append(self._hook(number, error))

    def _hook(self, number: int, error: BaseException | None) -> Any:
        async def hook(app: web.Application) -> None:
            self.run.append(number)
            if error is not None:
                raise error

        return hook


CANCELLED = asyncio.CancelledError()
ERRORS = [LookupError("x"), CANCELLED, SystemExit(3), KeyboardInterrupt(), web.GracefulExit()]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(("signal", "run"), [("on_shutdown", shut_down), ("on_cleanup", clean_up)])
async def test_whatever_a_hook_raises_the_others_run(
    signal: str, run: Any, error: BaseException
) -> None:
    """And its error comes out, in the end."""
    app = App(signal, None, error, None)
    app.application.freeze()

    with pytest.raises(type(error)) as raised:
        await run(app.application)

    assert raised.value is error
    assert app.run == [0, 1, 2]


async def test_several_errors_come_out_together() -> None:
    """None hides another."""
    app = App("on_cleanup", LookupError("x"), SystemExit(3))
    app.application.freeze()

    with pytest.raises(web.CleanupError) as raised:
        await clean_up(app.application)

    assert [type(error) for error in faults(raised.value)] == [LookupError, SystemExit]


@pytest.mark.parametrize("is_started", [True, False])
async def test_each_context_has_its_turn_whatever_another_raises(is_started: bool) -> None:
    """In the reverse order, after an exit too; every error comes out."""
    app, cleaned = App("on_cleanup"), list[int]()

    def context(number: int, error: BaseException | None) -> Any:
        async def run(application: web.Application) -> AsyncIterator[None]:
            yield
            cleaned.append(number)
            if error is not None:
                raise error

        return run

    for number, error in enumerate([None, SystemExit(3), None, LookupError("x"), None]):
        app.application.cleanup_ctx.append(context(number, error))
    if is_started:
        app.application.freeze()
    app.application.on_startup.freeze()
    await app.application.startup()

    with pytest.raises(web.CleanupError) as raised:
        await clean_up(app.application)

    assert cleaned == [4, 3, 2, 1, 0]
    assert [type(error) for error in faults(raised.value)] == [LookupError, SystemExit]


async def test_an_app_that_did_not_start_has_its_contexts_cleaned_up() -> None:
    """Those that have begun; its other clean-up hooks have nothing to clean up."""
    app, cleaned = App("on_cleanup", None), list[str]()

    async def context(application: web.Application) -> AsyncIterator[None]:
        yield
        cleaned.append("context")

    app.application.cleanup_ctx.append(context)
    app.application.on_startup.freeze()
    await app.application.startup()

    await clean_up(app.application)

    assert cleaned == ["context"]
    assert app.run == []


@pytest.mark.parametrize(
    ("error", "count"),
    [
        (asyncio.CancelledError(), 0),
        (BaseExceptionGroup("", [CANCELLED]), 0),
        (web.CleanupError("", [CANCELLED, CANCELLED]), 0),
        (web.CleanupError("", [CANCELLED, LookupError("x")]), 1),
        (BaseExceptionGroup("", [CANCELLED, LookupError("x")]), 1),
        (ExceptionGroup("", [LookupError("x"), LookupError("y")]), 1),
        (web.CleanupError("", [web.CleanupError("", [KeyError("x")]), KeyError("y")]), 2),
        (SystemExit(0), 1),
    ],
)
def test_a_cancellation_is_no_fault(error: BaseException, count: int) -> None:
    """Alone or among others; a group of a TaskGroup's stays whole, for its traceback."""
    assert len(faults(error)) == count

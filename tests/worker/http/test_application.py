"""What may be given as an app."""

import asyncio
import functools
from collections.abc import Awaitable

import pytest
from aiohttp import web

from aiocluster.errors import ConfigError
from aiocluster.worker.http.application import application_from

APP = web.Application()


def factory() -> web.Application:
    return APP


async def async_factory() -> web.Application:
    await asyncio.sleep(0)
    return APP


def returns_coroutine() -> Awaitable[web.Application]:
    return async_factory()


def returns_future() -> "asyncio.Future[web.Application]":
    future: asyncio.Future[web.Application] = asyncio.get_running_loop().create_future()
    future.set_result(APP)
    return future


def with_argument(app: web.Application) -> web.Application:
    return app


class Maker:
    def make(self) -> web.Application:
        return APP

    async def make_async(self) -> web.Application:
        return APP

    @classmethod
    def make_of_class(cls) -> web.Application:
        return APP

    @staticmethod
    def make_static() -> web.Application:
        return APP

    def __call__(self) -> web.Application:
        return APP


class AsyncCallable:
    async def __call__(self) -> web.Application:
        return APP


@pytest.mark.parametrize(
    "given",
    [
        APP,
        factory,
        async_factory,
        returns_coroutine,
        returns_future,
        lambda: APP,
        functools.partial(with_argument, APP),
        functools.partial(async_factory),
        Maker().make,
        Maker().make_async,
        Maker.make_of_class,
        Maker.make_static,
        Maker(),
        AsyncCallable(),
    ],
    ids=lambda given: getattr(given, "__qualname__", type(given).__name__),
)
async def test_an_application_or_any_kind_of_factory_of_one_is_served(given: object) -> None:
    """Sync or async, function, method, partial or object: what it makes is the app."""
    assert await application_from(given) is APP


async def test_a_class_that_is_an_application_is_its_own_factory() -> None:
    """Called, a class makes an instance."""
    assert isinstance(await application_from(web.Application), web.Application)


def returns_none() -> None:
    return None


async def returns_text() -> str:
    return "an app"


class NoApp:
    def __repr__(self) -> str:
        return "<NoApp>"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (returns_none, "returns_none() returned None, a NoneType"),
        (returns_text, "returns_text() returned 'an app', a str"),
        (lambda: NoApp(), "<lambda>() returned <NoApp>, a NoApp"),
        (lambda: factory, "<lambda>() returned <function factory at"),
        (NoApp(), "<NoApp> is a NoApp"),
    ],
)
async def test_anything_else_is_refused_by_name(given: object, found: str) -> None:
    """The user reads what was called, what came of it, and what is expected."""
    with pytest.raises(ConfigError) as caught:
        await application_from(given)

    assert found in str(caught.value)
    assert "expected an aiohttp.web.Application" in str(caught.value)


async def test_a_coroutine_is_awaited() -> None:
    """`web.run_app` takes one too; each worker has a copy of its own."""
    assert await application_from(async_factory()) is APP


async def test_what_a_coroutine_returned_is_named() -> None:
    """It was awaited, not called."""
    with pytest.raises(ConfigError, match="returns_text returned 'an app', a str"):
        await application_from(returns_text())


async def test_a_factory_whose_parameters_are_unknown_is_called() -> None:
    """As it is with some types that are written in C."""

    class Silent:
        __signature__ = 5

        def __call__(self) -> web.Application:
            return APP

    assert await application_from(Silent()) is APP


async def test_what_a_factory_raises_comes_through() -> None:
    """The user's own error is told as it is."""

    def broken() -> web.Application:
        raise LookupError("no database")

    with pytest.raises(LookupError, match="no database"):
        await application_from(broken)

"""What a target is, decided from the object alone; and what is said of one that is none."""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Optional

import pytest
from aiohttp import web

from aiocluster import WorkerContext
from aiocluster import WorkerContext as W
from aiocluster.config.kinds import Kind, check_app, is_job, kind_of, refused_result
from aiocluster.config.roles import RoleSpec
from aiocluster.config.settings import settings_from
from aiocluster.errors import ConfigError

if TYPE_CHECKING:
    from nowhere import Context  # type: ignore[import-not-found]

APP = web.Application()

# Nothing here is ever called.


async def job(worker): ...  # type: ignore[no-untyped-def]
async def job_unused(_worker: object) -> None: ...
async def job_annotated(w: WorkerContext, interval: float = 1.0, *more: int) -> None: ...
async def job_by_another_name(w: W) -> None: ...
async def job_optional(w: Optional[WorkerContext]) -> None: ...  # noqa: UP045
async def job_of_two(worker: WorkerContext, interval: float) -> None: ...
async def job_unknown(worker: Context) -> None: ...
async def job_at_the_end(x: int, worker: WorkerContext) -> None: ...
async def by_name_only(*, worker: WorkerContext) -> None: ...
def plain(worker: WorkerContext) -> None: ...
def factory() -> web.Application: ...  # type: ignore[empty-body]
async def async_factory(debug: bool = False, **more: Any) -> web.Application: ...  # type: ignore[empty-body]
async def init(loop): ...  # type: ignore[no-untyped-def]
async def init_of_config(config): ...  # type: ignore[no-untyped-def]
async def init_annotated(loop: object) -> web.Application: ...  # type: ignore[empty-body]
def init_func(argv: list[str]) -> web.Application: ...  # type: ignore[empty-body]
async def handler(request): ...  # type: ignore[no-untyped-def]
def sync_handler(request): ...  # type: ignore[no-untyped-def]
async def handler_annotated(req: web.Request) -> web.Response: ...  # type: ignore[empty-body]
async def proxy(base: web.BaseRequest) -> web.StreamResponse: ...  # type: ignore[empty-body]
async def asgi(scope: Any, receive: Any, send: Any) -> None: ...
def wsgi(environ: Any, start_response: Any) -> list[bytes]: ...  # type: ignore[empty-body]


@web.middleware
async def middleware(request: web.Request, handler: Any) -> web.StreamResponse: ...  # type: ignore[empty-body]


async def context(app: web.Application) -> AsyncIterator[None]:
    yield


async def endless() -> AsyncIterator[None]:
    yield


def generator() -> Iterator[None]:
    yield


@types.coroutine
def old_coroutine() -> Iterator[None]:
    yield


class Jobs:
    async def method(self, worker: WorkerContext) -> None: ...
    async def make(self) -> web.Application: ...  # type: ignore[empty-body]
    @classmethod
    async def of_class(cls, worker: WorkerContext) -> None: ...
    @staticmethod
    async def static(worker: WorkerContext) -> None: ...
    async def __call__(self, worker: WorkerContext) -> None: ...


class Own(WorkerContext): ...


class Fast:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Flask:
    def __call__(self, environ: Any, start_response: Any) -> None: ...


class View(web.View): ...


class Nothing: ...


class Made:
    def __new__(cls) -> Any:
        return APP


class ByMeta(type):
    def __call__(cls) -> Any:
        return APP


class MadeByMeta(metaclass=ByMeta): ...


class Later:
    def __await__(self) -> Iterator[Any]: ...  # type: ignore[empty-body]


class Silent:
    __signature__ = 5

    def __call__(self) -> web.Application:
        return APP


JOBS = [
    job,
    job_unused,
    job_annotated,
    job_by_another_name,
    job_optional,
    job_unknown,
    functools.partial(job),
    functools.partial(job_of_two, interval=2.0),
    functools.partial(functools.partial(job_at_the_end), 1),
    Jobs().method,
    Jobs.of_class,
    Jobs.static,
    Jobs(),
    functools.partial(Jobs()),
]


@pytest.mark.parametrize("given", JOBS, ids=lambda given: type(given).__name__)
def test_what_takes_the_worker_is_a_job(given: object) -> None:
    """By the name of its one parameter, or by its annotation, in whatever form."""
    assert kind_of(given) is Kind.JOB
    assert kind_of(given, is_role=True) is Kind.JOB
    assert is_job(given)


FACTORIES = [
    factory,
    async_factory,
    functools.partial(init, None),
    functools.partial(init_func, []),
    lambda debug=True: APP,
    Jobs().make,
    web.Application,
    functools.partial(web.Application),
    Made,
    MadeByMeta,
    Silent(),
    old_coroutine,
]


@pytest.mark.parametrize("given", FACTORIES, ids=lambda given: type(given).__name__)
def test_what_needs_no_argument_is_a_factory(given: object) -> None:
    """A class that is an Application too, and one that makes something else than instances."""
    assert kind_of(given) is Kind.FACTORY
    assert not is_job(given)


def test_an_application_is_one() -> None:
    """Though it can be called."""
    assert kind_of(APP) is Kind.APPLICATION
    assert not is_job(APP)


def test_what_can_be_awaited_is_awaited() -> None:
    """`web.run_app` takes a coroutine too."""
    coroutine = async_factory()
    assert kind_of(coroutine) is Kind.AWAITABLE
    assert kind_of(Later()) is Kind.AWAITABLE
    coroutine.close()


def test_as_a_role_any_coroutine_function_of_one_argument_is_a_job() -> None:
    """There jobs are usual; one that turns out to be a factory is refused by what it returns."""
    assert kind_of(init, is_role=True) is Kind.JOB
    assert is_job(init)


REFUSED: list[tuple[object, str]] = [
    (init, "init cannot be called without the argument 'loop': remove this parameter, and call a"),
    (init_of_config, "without the argument 'config'; give a function without parameters that"),
    (init_of_config, "A job is `async def job.worker.`, with this parameter"),
    (job_at_the_end, "cannot be called without the arguments 'x', 'worker'"),
]

REFUSED_ALSO_AS_ROLES: list[tuple[object, str]] = [
    (init_annotated, "cannot be called without the argument 'loop': remove this parameter, and"),
    (init_func, "the argument 'argv'; .*, say functools.partial.init_func, "),
    (Jobs.method, "Jobs.method cannot be called without the arguments 'self', 'worker'"),
    (plain, "plain is no job: that is `async def job.worker.`, a coroutine function"),
    (job_of_two, "job_of_two is no job: that is"),
    (by_name_only, "by_name_only is no job: that is `async def job.worker.`"),
    (handler, "handler is a request handler, for it takes 'request'; give a function without"),
    (handler, "with a route to the handler: app.router.add_get"),
    (sync_handler, "sync_handler is a request handler"),
    (handler_annotated, "is a request handler, for it takes 'req'"),
    (proxy, "is a request handler, for it takes 'base'"),
    (functools.partial(handler), "is a request handler"),
    (middleware, "middleware is a middleware; give a factory that has it in web.Application.midd"),
    (asgi, "asgi is an ASGI application .*; aiocluster serves aiohttp applications only"),
    (Fast(), "is an ASGI application"),
    (wsgi, "wsgi is a WSGI application"),
    (Flask(), "is a WSGI application"),
    (View, "View is a class of views; give a factory that adds it"),
    (Nothing, "Nothing is a class; give a function without parameters"),
    (Jobs, "Jobs is a class; give an object of it, or a function"),
    (context, "context is a generator function, .* goes into app.cleanup_ctx"),
    (endless, "endless is a generator function, since it has a `yield`"),
    (generator, "generator is a generator function"),
    (web.AppRunner(APP), "is an AppRunner; give the Application itself"),
    (web.RouteTableDef(), "is a RouteTableDef; .* app.add_routes.routes."),
    (web.Response(), "is a Response; give a function"),
    (asyncio, "'asyncio' is a module; give 'asyncio:name', the name in it"),
    (None, "None is a NoneType; expected an aiohttp.web.Application, a factory of one, a job, or"),
    (17, "17 is an int; expected"),
    ({"a": 1}, "{'a': 1} is a dict"),
    ("pkg:name", "'pkg:name' is a str"),
]


@pytest.mark.parametrize(("given", "found"), REFUSED)
def test_what_is_no_target_is_refused_with_what_to_give(given: object, found: str) -> None:
    """What it is, by its name, and what to give in its place."""
    with pytest.raises(ConfigError, match=found):
        kind_of(given)


@pytest.mark.parametrize(("given", "found"), REFUSED_ALSO_AS_ROLES)
@pytest.mark.parametrize("is_role", [False, True])
def test_what_can_never_be_a_job_is_refused_as_a_role_too(
    given: object, found: str, is_role: bool
) -> None:
    """A role's job may have any parameter, but not a request's."""
    with pytest.raises(ConfigError, match=found):
        kind_of(given, is_role=is_role)


def test_a_view_is_no_application() -> None:
    """Though its instances can be awaited, as the answer to their request."""
    view = View.__new__(View)
    with pytest.raises(ConfigError, match="is a View; give a factory"):
        kind_of(view)


def test_a_class_of_the_worker_s_context_counts_too() -> None:
    """An annotation may be more special than ours."""

    async def own(w: Own) -> None: ...

    own.__annotations__["w"] = Own
    assert kind_of(own) is Kind.JOB


def spec(app: object, *, is_named: bool) -> RoleSpec:
    return RoleSpec("jobs", app, settings_from({}), is_named=is_named)


def test_an_app_is_checked_by_how_it_was_given() -> None:
    """An import string by its form, since it is not imported yet; an object by what it is."""
    check_app(spec("pkg:init", is_named=False))
    check_app(spec(init, is_named=True))
    with pytest.raises(ConfigError, match="'loop'"):
        check_app(spec(init, is_named=False))
    with pytest.raises(ConfigError, match="is not of the form"):
        check_app(spec("pkg", is_named=True))


@pytest.mark.parametrize(
    ("result", "found"),
    [(APP, "init was called as a job, .*It is a factory"), (web.Response(), "a request handler")],
)
def test_a_job_may_not_return_what_only_others_make(result: object, found: str) -> None:
    """Then it was none, whatever it looked like."""
    refused = refused_result(init, result)
    assert refused is not None
    with pytest.raises(ConfigError, match=found):
        raise refused


@pytest.mark.parametrize("result", [None, 0, "done", [APP]])
def test_a_job_may_return_anything_else(result: object) -> None:
    """Nobody looks at it."""
    assert refused_result(job, result) is None


def test_annotations_that_cannot_be_evaluated_are_read_as_text() -> None:
    """They may be any text, and say nothing then."""

    async def odd(x: object) -> None: ...

    odd.__annotations__["x"] = "no such name"

    with pytest.raises(ConfigError, match="the argument 'x'"):
        kind_of(odd)


def test_a_call_is_not_made() -> None:
    """Nothing of the user's runs to find out what it is."""

    def explode() -> None:
        raise AssertionError

    checked: list[Callable[[], Any]] = [explode]
    assert [kind_of(one) for one in checked] == [Kind.FACTORY]

"""The kind of a target: an Application, a factory of one, or a job; all else is refused by name.

The kind is decided from the object alone, before any of its code is called. Each refusal says
what was given and what to give in its place.
"""

import inspect
import re
import sys
from collections.abc import Callable, Coroutine
from enum import Enum
from functools import partial
from types import ModuleType
from typing import Any, TypeGuard, get_args

from aiohttp import web

from aiocluster.config.roles import RoleSpec
from aiocluster.config.script import Script
from aiocluster.config.target import check_target
from aiocluster.errors import ConfigError

_EXPECTED = (
    "expected an aiohttp.web.Application, a factory of one, a job, or an import string"
    " 'pkg.module:name'"
)
_A_FACTORY = "a function without parameters that makes an aiohttp.web.Application and returns it"
_A_JOB = "`async def job(worker)`"

# The names of parameters that show another kind of web application.
_FOREIGN = {
    ("scope", "receive", "send"): "an ASGI application (FastAPI, Starlette, Quart, ...)",
    ("environ", "start_response"): "a WSGI application (Flask, Django, ...)",
}

# Classes of aiohttp that are no Application, with what to give in their place.
_PARTS_OF_AIOHTTP: dict[type | tuple[type, ...], str] = {
    web.BaseRunner: "give the Application itself: each worker makes a runner of its own",
    web.BaseSite: "give the Application itself, and its address as `bind`",
    web.Server: "a low-level server cannot be served yet; give an Application",
    web.RouteTableDef: "give a factory that adds it to an Application: app.add_routes(routes)",
    (web.View, web.AbstractRoute, web.UrlDispatcher): (
        "give a factory that adds it to an Application"
    ),
    web.StreamResponse: f"give {_A_FACTORY}",
}

# The argument by which Python 3.14 returns annotations that cannot be evaluated. Older versions
# return them as they are written.
_UNEVALUATED: dict[str, Any] = {}
if sys.version_info >= (3, 14):
    import annotationlib

    _UNEVALUATED["annotation_format"] = annotationlib.Format.FORWARDREF


class Kind(Enum):
    """A kind of target, which decides how a worker serves it."""

    APPLICATION = "an Application"
    AWAITABLE = "a coroutine, or whatever can be awaited, that gives an Application"
    FACTORY = "called for an Application, or for an awaitable of one"
    JOB = "called with the worker"


def kind_of(given: object, *, is_role: bool = False) -> Kind:
    """Return the kind of `given`; raise ConfigError, with what to give instead, if it has none.

    As a role (`is_role`), each coroutine function that needs one argument is a job. Otherwise its
    parameter must be named `worker` or annotated as WorkerContext, because a handler, and a
    factory that needs a loop or a configuration, look the same.
    """
    if isinstance(given, web.Application):
        return Kind.APPLICATION
    if reason := _no_target(given):
        raise ConfigError(f"the app: {reason}")
    if not callable(given):
        return Kind.AWAITABLE
    needed = needed_parameters(given)
    if not needed:
        return Kind.FACTORY
    if reason := _no_job(given, needed, is_role=is_role):
        raise ConfigError(f"the app: {name_of(given)} {reason}")
    return Kind.JOB


def check_app(spec: RoleSpec) -> None:
    """Raise ConfigError if the app is invalid, as far as can be seen before it is imported."""
    if isinstance(spec.app, str):
        check_target(spec.app)
    elif not isinstance(spec.app, Script):
        kind_of(spec.app, is_role=spec.is_named)


def is_job(given: object) -> TypeGuard[Callable[[Any], Coroutine[Any, Any, object]]]:
    """Return True if `given`, which `kind_of` has accepted, is a job."""
    return callable(given) and is_async(given) and takes_one(needed_parameters(given))


def refused_result(job: object, result: object) -> ConfigError | None:
    """Return the error that a job returned `result`, or None if a job may return it."""
    if isinstance(result, web.Application):
        reason = f"a factory, but needs an argument: give {_A_FACTORY}"
    elif isinstance(result, web.StreamResponse):
        reason = f"a request handler: give {_A_FACTORY}, with a route to the handler"
    else:
        return None
    return ConfigError(
        f"the app: {name_of(job)} was called as a job, with the worker, and returned"
        f" {kind_name(result)}. It is {reason}"
    )


def returned_at_once(job: object) -> ConfigError:
    """Return the error that a job returned at once though `restart="always"` repeats it."""
    return ConfigError(
        f"the app: {name_of(job)} was called as a job, with the worker, and returned at once. It"
        " would be called again and again: give a job that runs until `await worker.stopping()`"
        " returns, or restart='on_failure' for one that is done when it returns. If it is no job,"
        f" give {_A_FACTORY}"
    )


def name_of(given: object) -> str:
    """Return the name of a target for a message."""
    while isinstance(given, partial):
        given = given.func
    return f"{getattr(given, '__qualname__', None) or repr(given):.80}"


def kind_name(given: object) -> str:
    """Return the name of an object's class with its article, as in "an AppRunner"."""
    name = type(given).__name__
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


# ---- objects that cannot be a target, whatever their parameters


def _no_target(given: object) -> str:
    """Return why `given` is no target, apart from its parameters; "" if it may be one."""
    if isinstance(given, type):
        return _no_factory_class(given)
    if (reason := _part_of_aiohttp(given)) is not None:
        return f"{name_of(given)} is {reason}"
    if isinstance(given, ModuleType):
        return f"{given.__name__!r} is a module; give '{given.__name__}:name', the name in it"
    if not callable(given) and not inspect.isawaitable(given):
        return f"{given!r:.80} is {kind_name(given)}; {_EXPECTED}"
    function = _function_of(given)
    if inspect.isasyncgenfunction(function) or _is_plain_generator(function):
        return (
            f"{name_of(given)} is a generator function, since it has a `yield`; give"
            f" {_A_FACTORY}. A context of clean-up goes into app.cleanup_ctx"
        )
    return ""


def _no_factory_class(given: type) -> str:
    """Return why a class is no target; "" if it is an Application or makes another object."""
    is_called_as_usual = _first_with("__call__", inspect.getmro(type(given))) is type
    makes_instances = _first_with("__new__", inspect.getmro(given)) is object
    if issubclass(given, web.Application) or not (is_called_as_usual and makes_instances):
        return ""
    if issubclass(given, web.View):
        kind = "a class of views; give a factory that adds it to an Application: web.view(path, it)"
    elif any("__call__" in vars(base) for base in given.__mro__):
        kind = f"a class; give an object of it, or {_A_FACTORY}"
    else:
        kind = f"a class; give {_A_FACTORY}"
    return f"{given.__qualname__:.80} is {kind}"


def _first_with(name: str, bases: tuple[type, ...]) -> type:
    return next(base for base in bases if name in vars(base))


def _part_of_aiohttp(given: object) -> str | None:
    if hasattr(given, "__middleware_version__"):
        return "a middleware; give a factory that has it in web.Application(middlewares=[...])"
    found = (text for kind, text in _PARTS_OF_AIOHTTP.items() if isinstance(given, kind))
    instead = next(found, None)
    return instead and f"{kind_name(given)}; {instead}"


def _is_plain_generator(function: object) -> bool:
    # If types.coroutine has decorated a generator function, its result can be awaited.
    flags: int = getattr(getattr(function, "__code__", None), "co_flags", 0)
    return inspect.isgeneratorfunction(function) and not flags & inspect.CO_ITERABLE_COROUTINE


# ---- targets that need an argument


def _no_job(given: object, needed: list[inspect.Parameter], *, is_role: bool) -> str:
    """Return why `given`, which needs these arguments, is no job; "" if it is one."""
    names = tuple(parameter.name for parameter in needed)
    if (foreign := _FOREIGN.get(names)) is not None:
        return f"is {foreign}; aiocluster serves aiohttp applications only"
    if _takes_request(needed):
        return (
            f"is a request handler, for it takes {needed[0].name!r}; give {_A_FACTORY}, with a"
            " route to the handler: app.router.add_get('/', handler)"
        )
    if is_async(given) and takes_one(needed) and not _makes_application(given):
        if is_role or _is_worker(needed[0]):
            return ""
        if names != ("loop",):
            return f"{_needs(names)}; give {_A_FACTORY}. A job is {_A_JOB}, with this parameter"
    if _is_worker(needed[0]):
        return f"is no job: that is {_A_JOB}, a coroutine function that needs only this argument"
    if names == ("loop",):
        return (
            f"{_needs(names)}: remove this parameter, and call asyncio.get_running_loop() where"
            " the loop is needed; the function is called in the loop that serves"
        )
    return f"{_needs(names)}; give {_A_FACTORY}, say functools.partial({name_of(given)}, ...)"


def _needs(names: tuple[str, ...]) -> str:
    plural = "s" if len(names) > 1 else ""
    return f"cannot be called without the argument{plural} {', '.join(map(repr, names))}"


def takes_one(needed: list[inspect.Parameter]) -> bool:
    """Return True if exactly one argument is needed, and it may be positional."""
    return len(needed) == 1 and needed[0].kind is not inspect.Parameter.KEYWORD_ONLY


def needed_parameters(given: Callable[..., object]) -> list[inspect.Parameter]:
    """Return the parameters that have no default; none if the signature is unknown."""
    signature = _signature(given)
    return [] if signature is None else [*filter(_is_needed, signature.parameters.values())]


def _signature(given: Callable[..., object]) -> inspect.Signature | None:
    try:
        return inspect.signature(given, eval_str=True)
    except (TypeError, ValueError):  # some functions written in C have no signature
        return None
    except Exception:  # annotations may be any text, or names that are imported for types only
        return inspect.signature(given, **_UNEVALUATED)


def _is_needed(parameter: inspect.Parameter) -> bool:
    collects = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not collects


def is_async(given: object) -> bool:
    """Return True for a coroutine function, or an object that is called like one."""
    while isinstance(given, partial):
        given = given.func
    # If an object is callable, its type has the method.
    return inspect.iscoroutinefunction(given) or inspect.iscoroutinefunction(
        getattr(type(given), "__call__", None)  # noqa: B004 (not whether it can be called)
    )


def _function_of(given: object) -> Any:
    while isinstance(given, partial):
        given = given.func
    is_plain = inspect.isroutine(given) or not callable(given)
    return given if is_plain else getattr(type(given), "__call__", given)  # noqa: B004


# ---- annotations: classes, or their names as text


def _is_worker(parameter: inspect.Parameter) -> bool:
    return parameter.name.strip("_") == "worker" or _names(parameter.annotation, "WorkerContext")


def _takes_request(needed: list[inspect.Parameter]) -> bool:
    first = needed[0]
    is_named = len(needed) == 1 and first.name == "request"
    return (
        is_named or _names(first.annotation, "Request") or _names(first.annotation, "BaseRequest")
    )


def _makes_application(given: object) -> bool:
    return _names(getattr(_function_of(given), "__annotations__", {}).get("return"), "Application")


def _names(annotation: object, name: str) -> bool:
    """Return True if an annotation names this class or a subclass, alone or among others."""
    text = getattr(annotation, "__forward_arg__", annotation)
    if isinstance(text, str):
        return re.search(rf"\b{name}\b", text) is not None
    if isinstance(annotation, type) and not get_args(annotation):
        return any(base.__name__ == name for base in annotation.__mro__)
    return any(_names(part, name) for part in get_args(annotation))

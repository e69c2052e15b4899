"""What is known of aiohttp, and that what is not known is noticed."""

import sys
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from aiocluster.worker.http import aiohttp_internals as module
from aiocluster.worker.http.aiohttp_internals import (
    CACHES_PEER,
    COUNTS_COMPRESSED,
    EMPTY_PAYLOAD,
    KEEPS_TAIL,
    LIMITS_HEADERS,
    MAX_QUEUED,
    NO_LIMIT,
    UNKNOWN,
    Handler,
    handler_options,
    refused_options,
    shown_version,
    unknown_parts,
    with_newest_names,
)

VERSION = tuple(int(part) for part in aiohttp.__version__.split(".")[:3] if part.isdigit())


def test_the_installed_aiohttp_is_known() -> None:
    """Each that is tested here is served in full."""
    assert UNKNOWN == []


@pytest.mark.parametrize(
    ("capability", "since"),
    [
        (module.KEEPS_CLOSE_CODE, (3, 10, 2)),
        (CACHES_PEER, (3, 11, 18)),
        (COUNTS_COMPRESSED, (3, 13, 0)),
        (LIMITS_HEADERS, (3, 13, 4)),
        (MAX_QUEUED < NO_LIMIT, (3, 14, 1)),
        (KEEPS_TAIL, (3, 14, 4)),
    ],
)
def test_each_range_has_its_capabilities(capability: bool, since: tuple[int, ...]) -> None:
    """What is there says it; this only holds the table in the module's docstring."""
    assert capability == (since <= VERSION)


def test_the_newest_handler_is_left_as_it_is() -> None:
    """Nothing is paid where nothing is missing."""
    assert (Handler is web.RequestHandler) == (VERSION >= (3, 14, 4))


def test_the_empty_body_has_a_size() -> None:
    """A chunk is counted against the body of the last message, and that may be empty."""
    assert EMPTY_PAYLOAD.total_bytes == 0


def renamed(*names: str) -> type:
    """Return a handler class whose state has other names for these."""
    slots = {slot for part in web.RequestHandler.__mro__ for slot in _slots_of(part)}
    kept = {slot: getattr(web.RequestHandler, slot) for slot in slots - {*names}}
    methods = {
        name: getattr(web.RequestHandler, name)
        for name in ("connection_made", "data_received", "log_access", "set_parser")
        if name not in names
    }
    other = [f"{name}_renamed" for name in names]
    return type(
        "RequestHandler",
        (object,),
        {**kept, **methods, "__slots__": other, "__module__": web.RequestHandler.__module__},
    )


def _slots_of(part: type) -> tuple[str, ...]:
    return tuple(part.__dict__.get("__slots__", ()))


@pytest.mark.parametrize("name", ["_waiter", "_messages", "_current_request", "_force_close"])
def test_a_renamed_attribute_is_missing_and_its_new_name_is_unknown(name: str) -> None:
    """It is named, and not met by the first request."""
    assert unknown_parts(renamed(name)) == [
        f"no RequestHandler.{name}",
        f"a new RequestHandler.{name}_renamed",
    ]


def test_a_method_that_is_another_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiohttp 4.0's access log is written by a coroutine, and its factory takes more."""

    class Newer(web.RequestHandler):
        __slots__ = ()

        async def log_access(self, request: Any, response: Any, time: Any) -> None: ...  # type: ignore[override]

    Newer.__module__ = web.RequestHandler.__module__

    def make(self: Any, message: Any, pre_handler_error: Any) -> None: ...

    monkeypatch.setattr(web.Application, "_make_request", make)

    assert unknown_parts(Newer) == ["another Application._make_request", "another Newer.log_access"]


def test_a_server_that_is_made_in_another_way_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiohttp 4.0's takes no loop."""

    class Newer:
        def __init__(self, handler: Any) -> None: ...

    monkeypatch.setattr(web, "Server", Newer)

    assert unknown_parts(web.RequestHandler) == ["another Server.__init__"]


def test_state_that_no_range_has_is_unknown() -> None:
    """It may be what a connection between two requests holds, and another process would miss."""

    class Newer(web.RequestHandler):
        __slots__ = ("_half_a_request",)

    Newer.__module__ = web.RequestHandler.__module__

    assert unknown_parts(Newer) == ["a new Newer._half_a_request"]


def test_what_an_older_one_has_under_another_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read and written by the newest name, it is the same."""

    class Older:
        __slots__ = ("_msg_queue_paused", "_request_parser", "_upgrade", "access_logger")

    handler: Any = with_newest_names(Older)()
    handler._request_parser, handler._upgrade = "parser", True
    handler._msg_queue_paused, handler.access_logger = True, None

    assert (handler._parser, handler._upgraded) == ("parser", True)
    assert (handler._buffer_paused, handler._logging_enabled) == (True, False)
    handler._upgraded = False
    assert handler._upgrade is False


def test_without_a_queue_nothing_pauses_for_it() -> None:
    """And the parser never stops."""

    class Older:
        __slots__ = ("access_logger",)

    assert with_newest_names(Older)()._buffer_paused is False


def test_only_what_differs_from_aiohttps_own_default_is_passed_on() -> None:
    """Each option is paid by every connection."""
    options = handler_options({"lingering_time": 10.0, "max_line_size": 99, "no_such": 1})

    assert options == {"max_line_size": 99}


def test_an_option_without_effect_is_named() -> None:
    """The older parsers take `max_headers`, and do not count."""
    refused = refused_options({"lingering_time": 1.0, "max_headers": 5, "no_such": 1})

    assert refused == ["no_such"] + ["max_headers"] * (not LIMITS_HEADERS)


def test_the_version_is_shown() -> None:
    """A warning names it."""
    assert shown_version() == f"aiohttp {aiohttp.__version__}"


def test_a_queue_whose_limit_is_not_found_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parser stops at a number of requests that is not known, and may hold the next one."""

    class Newer(web.RequestHandler):
        __slots__ = (
            () if hasattr(web.RequestHandler, "_max_msg_queue_size") else ("_max_msg_queue_size",)
        )

    Newer.__module__ = web.RequestHandler.__module__
    monkeypatch.delattr(sys.modules[Newer.__module__], "MAX_MSG_QUEUE_SIZE", raising=False)

    assert "no MAX_MSG_QUEUE_SIZE" in unknown_parts(Newer)


def test_the_queues_limit_is_that_of_the_handlers_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none the queue takes any number."""
    monkeypatch.delattr(
        sys.modules[web.RequestHandler.__module__], "MAX_MSG_QUEUE_SIZE", raising=False
    )

    assert module._queue_limit(web.RequestHandler) == NO_LIMIT

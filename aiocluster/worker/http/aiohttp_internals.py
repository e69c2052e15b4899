"""All private parts of aiohttp that are used, and how its ranges of versions differ in them.

The other modules of this folder take private parts from here only. They are written for the
newest range; `Handler` gives an older one the newest names. Capabilities are detected by what is
present, once, when this module is imported:

since      capability           without it
3.10.2     KEEPS_CLOSE_CODE     if another task closes a WebSocket while its handler waits in
                                receive(), the close code is 1000
3.11.18    CACHES_PEER          each request asks the transport for the client's address
3.13.0     COUNTS_COMPRESSED    a body does not say that it was decompressed
3.13.4     LIMITS_HEADERS       the parser does not count header fields
3.14.1     MAX_QUEUED           any number of requests is queued: the parser does not stop
3.14.4     KEEPS_TAIL           data behind a declined upgrade is lost, or is out of order

From 3.11.0 to 3.11.11 the empty body has no size; this module gives it one.

Before 3.14.0 `_parser` was named `_request_parser`, and `_upgraded` was named `_upgrade`. Before
3.14.4 `_buffer_paused` was named `_msg_queue_paused`.

An aiohttp is *unknown* if one of these names is missing, or if the state of its handler or parser
has a name that no range has: the proof in request_boundary.py does not cover it. It is served all
the same, by degraded_server.py, with public API only.

aiohttp 4.0 (its master branch, read at 495e778, August 2026) would be unknown, and served, except
for the requests that limiting.py turns away. It breaks the following:

- `Server` takes no `loop`; RequestHandler takes no `debug`. Both, BaseRunner and AppRunner are
  generic classes, and `AppRunner._make_server` passes its own `_make_request`:
  `Application._make_request` and `Application._make_handler` have gone.
- A request factory takes a sixth argument, `pre_handler_error`; a request that cannot be parsed
  goes to the app's handler, and not to one of `_make_error_handler`.
- `log_access` and the access loggers behind it are coroutines, and take the time at which the
  request began. metered_server.py overrides a function.
- The queue's flag is `_msg_queue_paused` again, and `_buffer_paused` has gone; `_keepalive`
  begins as False. Data behind a declined upgrade is kept in order, as from 3.14.4.
- A response without a look-up of the request's route, as in limiting.py, cannot be prepared.
- Sites take no `shutdown_timeout`, and `create_server` may be that of aiofastnet.
"""

import inspect
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from aiohttp import EMPTY_PAYLOAD, StreamReader, web

__all__ = ["EMPTY_PAYLOAD", "Handler", "Protocol", "StreamReader"]

# A queue that never fills.
NO_LIMIT = sys.maxsize

# The newest name of each renamed attribute, and its older name.
_OLDER_NAMES = {
    "_parser": "_request_parser",
    "_upgraded": "_upgrade",
    "_buffer_paused": "_msg_queue_paused",
}

# The attributes that this and the other modules of this folder use.
_NEEDED = {
    "_buffer_paused",
    "_close",
    "_current_request",
    "_force_close",
    "_keepalive",
    "_loop",
    "_logging_enabled",
    "_manager",
    "_message_tail",
    "_messages",
    "_parser",
    "_payload_parser",
    "_reading_paused",
    "_request_count",
    "_task_handler",
    "_upgraded",
    "_waiter",
    "connection_made",
    "data_received",
    "log_access",
    "set_parser",
    "transport",
}

# The state of a handler in every range. A new attribute may be state of a connection between two
# requests, which another process would not know.
_STATE = {
    *(_NEEDED - {"connection_made", "data_received", "log_access", "set_parser"}),
    *_OLDER_NAMES.values(),
    "_cache",
    "_connection_lost",
    "_data_received_cb",
    "_drain_waiter",
    "_handler_waiter",
    "_keepalive_handle",
    "_keepalive_time",
    "_keepalive_timeout",
    "_lingering_time",
    "_max_msg_queue_size",
    "_msg_queue_resume_size",
    "_next_keepalive_close_time",
    "_paused",
    "_read_bufsize",
    "_request_factory",
    "_request_handler",
    "_request_in_progress",
    "_tcp_keepalive",
    "_timeout_ceil_threshold",
    "access_log",
    "access_logger",
    "debug",
    "logger",
    "max_field_size",
    "max_headers",
    "max_line_size",
}

# The parser's methods that a handler uses, in every range.
_PARSER = {
    "feed_data",
    "feed_eof",
    "message_consumed",
    "pause_reading",
    "protocol",
    "set_upgraded",
}

_FACTORY = ["self", "message", "payload", "protocol", "writer", "task", "_cls"]
_LOG_ACCESS = ["self", "request", "response", "time"]
_SERVER = {"_connections", "_kwargs", "_loop", "request_factory", "request_handler"}
_WEBSOCKET = {"_close_wait", "_closing", "_reader", "prepare"}
_MESSAGE = {"_replace", "compression", "should_close", "upgrade"}


def _queue_limit(handler: type) -> int:
    """Return how many messages of a connection are queued before its parser stops."""
    module = sys.modules[handler.__module__]
    return int(getattr(module, "MAX_MSG_QUEUE_SIZE", NO_LIMIT))


def with_newest_names(handler: type) -> type:
    """Return a subclass of `handler` with the newest names, or `handler` itself if it has them.

    Reading a slot under another name costs nothing.
    """
    members: dict[str, Any] = {
        newest: getattr(handler, older)
        for newest, older in _OLDER_NAMES.items()
        if not hasattr(handler, newest) and hasattr(handler, older)
    }
    if _queue_limit(handler) == NO_LIMIT and not hasattr(handler, "_buffer_paused"):
        members.setdefault("_buffer_paused", False)
    if not hasattr(handler, "_logging_enabled"):
        members["_logging_enabled"] = property(lambda self: self.access_logger is not None)
    return type("Handler", (handler,), {"__slots__": (), **members}) if members else handler


def unknown_parts(handler: type) -> list[str]:
    """Return the parts that an aiohttp with this handler lacks, and those no known one has."""
    return [*_missing(handler), *_added(handler)]


def _missing(handler: type) -> Iterator[str]:
    name = handler.__name__
    yield from _absent(name, _NEEDED, dir(with_newest_names(handler)))
    if hasattr(handler, "_max_msg_queue_size") and _queue_limit(handler) == NO_LIMIT:
        yield "no MAX_MSG_QUEUE_SIZE"
    yield from _changed_server()
    yield from _absent("BaseRequest", {"_message"}, getattr(web.BaseRequest, "ATTRS", ()))
    yield from _absent("AppRunner", {"_make_server"}, dir(web.AppRunner))
    yield from _absent("WebSocketResponse", _WEBSOCKET, dir(web.WebSocketResponse()))
    yield from _absent("StreamReader", {"total_bytes", "is_eof"}, dir(StreamReader))
    message = getattr(sys.modules[handler.__module__], "RawRequestMessage", None)
    yield from _absent("RawRequestMessage", _MESSAGE, dir(message))
    yield from _changed(web.Application, "_make_request", _FACTORY)
    yield from _changed(handler, "log_access", _LOG_ACCESS)


def _absent(owner: str, needed: set[str], present: Iterable[str]) -> Iterator[str]:
    return (f"no {owner}.{name}" for name in sorted(needed - {*present}))


def _changed_server() -> Iterator[str]:
    try:
        names = dir(web.Server(cast(Any, None), loop=cast(Any, object())))
    except Exception:
        yield "another Server.__init__"
    else:
        yield from _absent("Server", _SERVER, names)


def _changed(owner: type, name: str, parameters: list[str]) -> Iterator[str]:
    function: Any = getattr(owner, name, None)
    if (
        function is None
        or inspect.iscoroutinefunction(function)
        or [*inspect.signature(function).parameters] != parameters
    ):
        yield f"another {owner.__name__}.{name}"


def _added(handler: type) -> Iterator[str]:
    slots = {slot for part in handler.__mro__ for slot in part.__dict__.get("__slots__", ())}
    yield from (f"a new {handler.__name__}.{name}" for name in sorted(slots - _STATE))
    parser = getattr(sys.modules[handler.__module__], "HttpRequestParser", None)
    public = {name for name in dir(parser) if not name.startswith("_")} if parser else set()
    # The class attributes of the Python parser are no state of a connection.
    yield from (f"a new parser.{name}" for name in sorted(public - _PARSER - {"lax"} - _METHODS))


# Methods of the Python parser, which is also the base of the response parser.
_METHODS = {"parse_headers", "parse_message"}

CACHES_PEER = hasattr(web.RequestHandler, "_cache")
COUNTS_COMPRESSED = hasattr(StreamReader, "total_compressed_bytes")
LIMITS_HEADERS = hasattr(web.RequestHandler, "max_headers")
MAX_QUEUED = _queue_limit(web.RequestHandler)
KEEPS_TAIL = hasattr(web.RequestHandler, "_buffer_paused")

UNKNOWN = unknown_parts(web.RequestHandler)

KEEPS_CLOSE_CODE = bool(UNKNOWN) or hasattr(web.WebSocketResponse, "_set_closed")

if not UNKNOWN and not hasattr(EMPTY_PAYLOAD, "total_bytes"):
    EMPTY_PAYLOAD.total_bytes = 0

if TYPE_CHECKING:
    from aiohttp.base_protocol import BaseProtocol as Protocol

    Handler = web.RequestHandler
else:
    Handler = with_newest_names(web.RequestHandler)
    Protocol = web.RequestHandler.__mro__[1]

_PARAMETERS = inspect.signature(web.RequestHandler).parameters


def handler_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that aiohttp's handler takes and that differ from its defaults.

    Each option passes through three calls for every connection: 2 µs for all.
    """
    return {
        name: value
        for name, value in options.items()
        if name in _PARAMETERS and _PARAMETERS[name].default != value
    }


def refused_options(options: dict[str, Any]) -> list[str]:
    """Return the names of the options that this aiohttp does not take, or ignores."""
    refused = [name for name in options if name not in _PARAMETERS]
    if "max_headers" in options and not LIMITS_HEADERS and "max_headers" not in refused:
        refused.append("max_headers")
    return refused


def each_context(app: web.Application) -> Iterator[Any]:
    """Yield the hooks of `on_cleanup`; the one of `cleanup_ctx` once a context, last one first.

    aiohttp's own loop over the contexts ends at the first one that raises an exit. If the app's
    start has failed, the other hooks are left out, as in aiohttp.
    """
    exits = getattr(app.cleanup_ctx, "_exits", None)
    for hook in app.on_cleanup:
        is_of_contexts = getattr(hook, "__self__", None) is app.cleanup_ctx
        if is_of_contexts and isinstance(exits, list):
            for context in reversed([*exits]):
                exits[:] = [context]
                yield hook
        elif is_of_contexts or app.on_cleanup.frozen:
            yield hook


def shown_version() -> str:
    """Return the version of aiohttp, for the log."""
    return f"aiohttp {getattr(aiohttp, '__version__', '(of no version)')}"

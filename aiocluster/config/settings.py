"""The settings: one frozen record, and the one function that makes it from loose values.

A setting's type, bounds, default and help stand together, once. The command line and the errors
are made from them, and the manual is checked against them (see setting_texts.py). This module
does not know where values come from.
"""

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta, Struct

from aiocluster.config.addresses import Address
from aiocluster.config.allowed import allowed
from aiocluster.config.autoscale import Autoscale
from aiocluster.config.environment import Environment
from aiocluster.config.special import SPECIAL
from aiocluster.errors import ConfigError

__all__ = ["Address", "Settings", "Workers", "settings_from"]

# Whole numbers are passed to C, to listen() and to aiohttp's parser. C would refuse a larger
# number too late: when the socket opens, or for each client that connects.
_C_INT = 2**31 - 1
# The largest float: this bound only refuses infinity.
_FINITE = sys.float_info.max
# A year: longer than any useful wait, and within the range of every timer.
_YEAR = 365 * 24 * 3600.0

Positive = Annotated[int, Meta(ge=1, le=_C_INT)]
Count = Annotated[int, Meta(ge=0, le=_C_INT)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=_YEAR)]
Seconds = Annotated[float, Meta(ge=0, le=_YEAR)]
Bytes = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Amount = Annotated[float, Meta(ge=0, le=_FINITE)]
# Each report is a message from every worker: more than 20 a second would cost noticeable time.
Interval = Annotated[float, Meta(ge=0.05, le=_YEAR)]

Restart = Literal["always", "on_failure", "never"]
Workers = Positive | Literal["auto", "cpu", "io"]

# The settings that no role has for itself: they apply to the program, not to its workers.
OF_THE_CLUSTER = frozenset({"pre_drain_wait", "log_level"})

# The names that other servers give to the parts of `bind`.
PARTS_OF_AN_ADDRESS = frozenset({"host", "port"})

# The present name of each renamed setting, by its old name (docs/changes.md).
RENAMED = {"affinity": "cpu_affinity"}


def checked_seconds(what: str, value: object) -> float:
    """Return a number of seconds as a float; raise ConfigError, naming `what`, if it is invalid."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _YEAR:
        raise ConfigError(f"{what} must be a number of seconds, 0 to {_YEAR:.0f}, not {value!r}")
    return float(value)


def _about(text: str) -> Meta:
    return Meta(description=text)


class Settings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The settings of a cluster, made by `settings_from`: the constructor checks nothing."""

    workers: Annotated[
        Workers,
        _about("Number of workers. auto or cpu: one for each CPU this process may use; io: two."),
    ] = "auto"
    bind: Annotated[tuple[Address, ...], _about("Address to listen on, or several.")] = (
        Address("127.0.0.1", 8000),
    )
    policy: Annotated[
        Any,
        _about("Policy that chooses the worker for a new connection; may differ for each address."),
    ] = "round_robin"
    env: Annotated[Environment, _about("Environment variables of the workers.")] = Environment()
    autoscale: Annotated[
        Autoscale | None, _about("Scale the number of workers with the load; off by default.")
    ] = None
    max_connections: Annotated[
        Count | Literal["unlimited"],
        _about("Most connections that one worker may have at a time; 0 allows none."),
    ] = "unlimited"
    max_connections_total: Annotated[
        Count | Literal["unlimited"],
        _about("Most connections that all workers of a role may have together; 0 allows none."),
    ] = "unlimited"
    max_requests_in_flight: Annotated[
        Positive | Literal["unlimited"],
        _about("Most requests that one worker may handle at a time."),
    ] = "unlimited"
    when_full: Annotated[
        Literal["wait", "503", "close"],
        _about(
            "What to do with a connection when all workers are full: wait, answer 503, or close."
        ),
    ] = "wait"
    retry_after: Annotated[
        Positive, _about("Seconds after which a client that got a 503 may try again (Retry-After).")
    ] = 1
    peek_timeout: Annotated[
        PositiveSeconds,
        _about(
            "Seconds to wait for a PROXY header, or for what a sticky policy needs of a request."
        ),
    ] = 1.0
    proxy_protocol: Annotated[
        bool, _about("Expect the PROXY protocol (v1 or v2) at the beginning of each connection.")
    ] = False
    trusted_proxies: Annotated[
        tuple[str, ...],
        _about("Networks of the trusted proxies; connections from elsewhere are closed."),
    ] = ()
    cpu_affinity: Annotated[
        Literal["none", "auto"],
        _about(
            "auto: pin each worker to a CPU of its own, if there are enough CPUs for all roles."
        ),
    ] = "none"
    rebalance: Annotated[
        bool, _about("Move idle connections when workers have unequal numbers of them.")
    ] = False
    restart: Annotated[
        Restart,
        _about("Which exited workers are replaced: always, on_failure (a crash), or never."),
    ] = "always"
    preload: Annotated[
        bool | Literal["auto"],
        _about(
            "Import the app once, before the fork; auto: if what the import left survives a fork."
        ),
    ] = "auto"
    chdir: Annotated[
        str | None,
        _about("Folder in which the app is imported, anew at each reload; none: the current one."),
    ] = None
    backlog: Annotated[
        Positive, _about("Connections that the kernel keeps waiting while all workers are full.")
    ] = 2048

    ready: Annotated[
        Literal["auto", "explicit"],
        _about(
            "When a worker is ready: once its app has started (auto), or once it calls ready()."
        ),
    ] = "auto"
    boot_timeout: Annotated[
        PositiveSeconds, _about("Seconds a new worker may take until it is ready.")
    ] = 60.0
    graceful_timeout: Annotated[
        Seconds, _about("Seconds a draining worker may take to finish what is open.")
    ] = 30.0
    idle_grace: Annotated[
        Seconds,
        _about("Seconds a stop leaves idle keep-alive connections open for one more request."),
    ] = 1.0
    reload_surge: Annotated[
        Positive, _about("Workers that a reload starts at the same time, beside the old ones.")
    ] = 1
    min_ready_seconds: Annotated[
        Seconds, _about("Seconds a reload's new worker must be ready before the old one goes.")
    ] = 0.0
    min_uptime: Annotated[
        Seconds,
        _about("Fail a reload if a new worker does not live for so many seconds; 0 disables."),
    ] = 1.0
    pre_drain_wait: Annotated[
        Seconds,
        _about(
            "Seconds that a stop serves as before, but not ready, so that load balancers turn away."
        ),
    ] = 0.0
    behind_after: Annotated[
        PositiveSeconds,
        _about("Seconds a connection may wait at a worker before other workers are preferred."),
    ] = 0.05

    steal_after: Annotated[
        PositiveSeconds,
        _about("Seconds a connection may wait at a worker before another worker gets it."),
    ] = 0.25
    lag_warning: Annotated[
        Seconds,
        _about(
            "Log a worker's stacks if its event loop is blocked for so many seconds; 0 disables."
        ),
    ] = 1.0
    hang_timeout: Annotated[
        Seconds,
        _about("Replace a worker if its event loop is blocked for so many seconds; 0 disables."),
    ] = 30.0

    max_failures: Annotated[
        Amount, _about("Recent worker failures after which restarts are delayed.")
    ] = 10.0
    failure_half_life: Annotated[
        PositiveSeconds, _about("Seconds until a failure counts half.")
    ] = 30.0
    max_restart_delay: Annotated[
        Seconds, _about("Longest delay of a restart, in seconds; 0 disables delays.")
    ] = 15.0
    max_requests: Annotated[
        Count, _about("Replace a worker after so many requests; 0 disables.")
    ] = 0
    max_requests_jitter: Annotated[
        Count,
        _about("Random number, up to this, that is added to each worker's max_requests."),
    ] = 0
    max_memory: Annotated[
        Bytes,
        _about("Replace a worker that has more than so many bytes, the new one first; 0 disables."),
    ] = 0
    max_memory_hard: Annotated[
        Bytes, _about("Kill and replace a worker that has more than so many bytes; 0 disables.")
    ] = 0
    memory_measure: Annotated[
        Literal["rss", "pss"],
        _about(
            "How a worker's memory is measured: rss, or pss, which divides shared pages by sharers."
        ),
    ] = "rss"
    max_age: Annotated[
        Seconds, _about("Replace a worker after so many seconds, the new one first; 0 disables.")
    ] = 0.0
    metrics_interval: Annotated[
        Interval, _about("Seconds between two metrics reports of a worker.")
    ] = 1.0

    # The settings from here on are aiohttp's own, with its own defaults.
    keepalive_timeout: Annotated[
        Seconds, _about("Seconds an idle keep-alive connection stays open.")
    ] = 75.0
    tcp_keepalive: Annotated[
        bool, _about("Let the kernel probe idle connections, to detect clients that vanished.")
    ] = True
    handler_cancellation: Annotated[
        bool, _about("Cancel a request's handler when its client disconnects.")
    ] = False
    lingering_time: Annotated[
        Seconds,
        _about(
            "Seconds to read the rest of a body that the handler left unread; 0 closes at once."
        ),
    ] = 10.0
    max_line_size: Annotated[Positive, _about("Longest request line, in bytes.")] = 8190
    max_field_size: Annotated[Positive, _about("Longest header field, in bytes.")] = 8190
    max_headers: Annotated[Positive, _about("Most header fields of a request.")] = 128
    read_bufsize: Annotated[
        Positive,
        _about(
            "Bytes of a body that are buffered before the worker pauses reading from the socket."
        ),
    ] = 2**18
    auto_decompress: Annotated[bool, _about("Decompress bodies that have a Content-Encoding.")] = (
        True
    )

    access_log: Annotated[bool, _about("Log each request.")] = False
    access_log_format: Annotated[
        str, _about("Format of an access log line, in aiohttp's placeholders.")
    ] = '%a %t "%r" %s %b "%{Referer}i" "%{User-Agent}i"'
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _about("Least severe level that is logged.")
    ] = "info"


# The type of each setting, with its bounds and its help.
HINTS: Mapping[str, Any] = get_type_hints(Settings, include_extras=True)


def settings_from(values: Mapping[str, Any]) -> Settings:
    """Return the settings with these checked `values`, and with defaults for all others."""
    refuse_unknown(values)
    return Settings(**{name: _checked(name, value) for name, value in values.items()})


def refuse_unknown(values: Mapping[str, Any]) -> None:
    """Raise ConfigError, with what may have been meant, if a name is not that of a setting."""
    unknown = [str(name) for name in values if name not in HINTS]
    if not unknown:
        return
    others = [name for name in unknown if name not in RENAMED]
    near = [match for name in others for match in get_close_matches(name, HINTS, n=1)]
    hint = f"; did you mean {' and '.join(map(repr, near))}?" if near else ""
    if PARTS_OF_AN_ADDRESS.intersection(unknown):
        hint += "; give the address as bind='127.0.0.1:PORT'"
    plural = "s" if len(unknown) > 1 else ""
    names = [
        f"{name!r} (now {RENAMED[name]!r})" if name in RENAMED else repr(name) for name in unknown
    ]
    raise ConfigError(f"unknown setting{plural}: {', '.join(names)}{hint}")


def _checked(name: str, value: Any) -> Any:
    if (special := SPECIAL.get(name)) is not None:
        return special.read(value)
    if name == "when_full" and value == 503:
        value = "503"  # a status is often given as a number
    return converted(name, value, strict=True)


def converted(name: str, value: Any, *, strict: bool) -> Any:
    """Return one value, converted by itself, so that an error can name its setting."""
    try:
        return msgspec.convert(value, HINTS[name], strict=strict)
    except msgspec.ValidationError:
        raise ConfigError(
            f"{name}: {value!r} is not allowed; give {allowed(HINTS[name])}"
        ) from None

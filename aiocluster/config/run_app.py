"""The arguments of a call of aiohttp's `run_app`, as settings.

The arguments of `run_app` are defaults: settings that were given to the cluster come first. No
argument is dropped in silence: one that cannot be honoured is refused by its name.
"""

from collections.abc import Collection, Iterable, Mapping
from logging import Logger
from typing import Any

from msgspec import Struct

from aiocluster.config.addresses import Address, addresses_from
from aiocluster.config.settings import settings_from
from aiocluster.errors import ConfigError

# The port on which aiohttp listens if it was given none.
_DEFAULT_PORT = 8080

# The arguments that have the meaning of a setting, with the same name or another.
_SETTINGS = {
    "shutdown_timeout": "graceful_timeout",
    **{
        name: name
        for name in (
            "access_log_format",
            "auto_decompress",
            "backlog",
            "handler_cancellation",
            "keepalive_timeout",
            "lingering_time",
            "max_field_size",
            "max_headers",
            "max_line_size",
            "read_bufsize",
            "tcp_keepalive",
        )
    },
}

# The arguments that say where to listen; `bind` replaces all of them.
_PLACES = ("host", "port", "path", "sock")

# The arguments that are refused, with the reason or what to do instead.
_REFUSED = {
    "path": "Unix sockets cannot be served yet: give an address in its place, with bind",
    "sock": "sockets of the program's own cannot be served: give an address, with bind",
    "ssl_context": "TLS cannot be served yet: let a proxy in front end it, and leave it out here",
    "access_log_class": "give an access_log_format in its place, or log in a middleware",
    "reuse_address": "the cluster needs it: leave it out",
    "reuse_port": "the primary alone listens, for all workers: leave it out",
}

# The values with which these arguments change nothing.
_HARMLESS: Mapping[str, tuple[object, ...]] = {
    "path": (None,),
    "sock": (None,),
    "ssl_context": (None,),
    "reuse_address": (None, True),
    "reuse_port": (None, False),
    "loop": (None,),
}

# The arguments without effect: the primary prints its addresses and handles signals itself.
_WITHOUT_EFFECT = ("print", "handle_signals")


class RunAppCall(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A call of `run_app` that was accepted: its arguments as settings, and in its own words."""

    settings: dict[str, Any]
    words: str

    def words_of(self, what: str, given: Collection[str]) -> str:
        """Return the log line for the call in `what`, with the arguments that `given` overrides."""
        names = [
            name for name in ("bind", *self.settings) if name in given and name != "access_log"
        ]
        beside = f" (given to aiocluster, which comes first: {', '.join(names)})" if names else ""
        return f"{what}: web.run_app gave {self.words}{beside}"


def read_call(
    arguments: Mapping[str, Any], named: Collection[str] = (), standard_log_class: object = None
) -> RunAppCall:
    """Return the call `run_app(app, **arguments)`; raise ConfigError for a refused argument.

    `named` has the names of the settings that were given to the cluster itself: if `bind` is one,
    the call's own address does not matter. An access_log_class that is `standard_log_class`,
    aiohttp's own, counts as not given.
    """
    given = dict(arguments)
    given["host"] = _hosts(given.get("host"))
    if given.get("access_log_class") is standard_log_class:
        given.pop("access_log_class", None)
    overridden = _PLACES if "bind" in named else ()
    _refuse_what_cannot_be_had({k: v for k, v in given.items() if k not in overridden})
    settings = {
        _SETTINGS[name]: _checked(name, value) for name, value in given.items() if name in _SETTINGS
    }
    settings["access_log"] = given.get("access_log", True) is not None
    if not overridden:
        settings["bind"] = _bind(given["host"], _port(given.get("port")))
    return RunAppCall(settings, _words(given))


def _refuse_what_cannot_be_had(given: Mapping[str, Any]) -> None:
    refused = [text for name, value in given.items() if (text := _refusal(name, value))]
    if refused:
        raise ConfigError(f"web.run_app was given {'; '.join(refused)}")


def _refusal(name: str, value: object) -> str:
    """Return why this argument is refused; "" if it is accepted."""
    if name in _HARMLESS and any(value is harmless for harmless in _HARMLESS[name]):
        return ""
    if name in _REFUSED:
        return f"{name} ({_REFUSED[name]})"
    if name == "access_log" and not (value is None or isinstance(value, Logger)):
        return f"access_log ({value!r:.80} is no logger)"
    known = name in (*_SETTINGS, *_PLACES, *_WITHOUT_EFFECT, "access_log", "loop")
    return "" if known else f"{name} (this argument is unknown here: leave it out)"


def _checked(name: str, value: Any) -> Any:
    """Return the value of an argument, checked as a setting; an error names the argument."""
    setting = _SETTINGS[name]
    try:
        return getattr(settings_from({setting: value}), setting)
    except ConfigError as error:
        text = str(error).removeprefix(setting)
        raise ConfigError(f"web.run_app was given {name}{text}") from None


def _hosts(host: Any) -> str | list[str]:
    """Return the host or the hosts; "" means all interfaces, as None does for aiohttp."""
    if host is None or isinstance(host, str):
        return host or ""
    if isinstance(host, Iterable) and (hosts := [*host]) and all(isinstance(h, str) for h in hosts):
        return hosts
    raise ConfigError(f"web.run_app was given host {host!r:.80}; give a text or several")


def _bind(host: str | list[str], port: int) -> list[str]:
    hosts = [host] if isinstance(host, str) else host
    try:
        return [*map(str, addresses_from([str(Address(one, port)) for one in hosts]))]
    except ConfigError:
        raise ConfigError(f"web.run_app was given host {host!r:.80}, which is no host") from None


def _port(port: Any) -> int:
    if port is None:
        return _DEFAULT_PORT
    # aiohttp looks the address up, so it also takes a port as digits, as from an environment.
    if isinstance(port, str) and port.isascii() and port.isdigit():
        port = int(port)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise ConfigError(f"web.run_app was given port {port!r:.80}; give a number from 0 to 65535")
    return port


def _words(given: Mapping[str, Any]) -> str:
    """Return the arguments of a call in words, with the address it would listen on."""
    words = [f"{name} {given[name]}" for name in ("path", "sock") if given.get(name) is not None]
    if not words or given["host"] or given.get("port") is not None:
        host = given["host"] if isinstance(given["host"], str) else " and ".join(given["host"])
        # 0.0.0.0 is aiohttp's name for all interfaces.
        port = _DEFAULT_PORT if given.get("port") is None else given["port"]
        words += [f"host {host or '0.0.0.0'}", f"port {port}"]
    words += [
        f"{name} {value.name if isinstance(value, Logger) else value}"
        for name, value in given.items()
        if name in _SETTINGS or name == "access_log"
    ]
    if not given.get("handle_signals", True):
        words.append("handle_signals False (which changes nothing: the primary handles them)")
    return ", ".join(words)

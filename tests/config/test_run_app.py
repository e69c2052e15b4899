"""What a call of run_app gave, as settings, and what of it is refused."""

import inspect
import logging
import socket
from typing import Any

import pytest
from aiohttp import web
from aiohttp.web_log import AccessLogger

from aiocluster.config.run_app import RunAppCall, read_call
from aiocluster.errors import ConfigError


def bind_of(**arguments: Any) -> Any:
    return read_call(arguments).settings["bind"]


def test_a_bare_call_listens_where_aiohttp_does() -> None:
    """On all interfaces, port 8080; the access log is on, for whoever listens to its logger."""
    assert read_call({}) == RunAppCall(
        {"access_log": True, "bind": [":8080"]}, "host 0.0.0.0, port 8080"
    )


@pytest.mark.parametrize(
    ("arguments", "bind"),
    [
        ({"host": None, "port": None}, [":8080"]),
        ({"host": ""}, [":8080"]),
        ({"host": "127.0.0.1"}, ["127.0.0.1:8080"]),
        ({"host": "::1", "port": 80}, ["[::1]:80"]),
        ({"port": 0}, [":0"]),
        ({"port": "9000"}, [":9000"]),  # from an environment variable, as they often are
        ({"host": ["127.0.0.1", "::1"], "port": 1}, ["127.0.0.1:1", "[::1]:1"]),
        ({"host": iter(["a", "b"]), "port": 1}, ["a:1", "b:1"]),
        ({"host": {"a"}, "port": 0}, ["a:0"]),
    ],
)
def test_host_and_port_become_addresses(arguments: dict[str, Any], bind: list[str]) -> None:
    """As aiohttp understands them, in every form that it takes."""
    assert bind_of(**arguments) == bind


@pytest.mark.parametrize(
    ("name", "value", "setting"),
    [
        ("shutdown_timeout", 5, ("graceful_timeout", 5.0)),
        ("keepalive_timeout", 3.5, ("keepalive_timeout", 3.5)),
        ("backlog", 7, ("backlog", 7)),
        ("handler_cancellation", True, ("handler_cancellation", True)),
        ("access_log_format", "%r", ("access_log_format", "%r")),
        ("access_log", None, ("access_log", False)),
        ("access_log", logging.getLogger("mine"), ("access_log", True)),
        ("max_line_size", 100, ("max_line_size", 100)),
    ],
)
def test_arguments_become_settings(name: str, value: object, setting: tuple[str, object]) -> None:
    """Those that mean the same here, by whatever name."""
    call = read_call({name: value})
    assert setting in call.settings.items()
    assert name in call.words


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("path", "/tmp/app.sock"),
        ("sock", socket.AF_UNIX),
        ("ssl_context", object()),
        ("access_log_class", type("Mine", (AccessLogger,), {})),
        ("access_log", "a text"),
        ("reuse_address", False),
        ("reuse_port", True),
        ("client_max_size", 1),
        ("debug", True),
    ],
)
def test_what_cannot_be_had_is_refused_by_its_name(name: str, value: object) -> None:
    """Nothing is dropped in silence."""
    with pytest.raises(ConfigError, match=rf"^web.run_app was given {name} \("):
        read_call({name: value}, standard_log_class=AccessLogger)


def test_all_that_is_refused_is_named_at_once() -> None:
    """Whoever has to mend a call does it once."""
    with pytest.raises(ConfigError, match=r"ssl_context .*; reuse_port "):
        read_call({"ssl_context": object(), "reuse_port": True})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("path", None),
        ("sock", None),
        ("ssl_context", None),
        ("access_log_class", AccessLogger),
        ("reuse_address", None),
        ("reuse_address", True),
        ("reuse_port", False),
        ("loop", None),
        ("print", None),
        ("print", print),
        ("handle_signals", True),
    ],
)
def test_what_changes_nothing_is_taken(name: str, value: object) -> None:
    """aiohttp's own defaults may be written out."""
    call = read_call({name: value}, standard_log_class=AccessLogger)
    assert call == read_call({})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"port": 65536}, "port 65536; give a number from 0 to 65535"),
        ({"port": "http"}, "port 'http'; give"),
        ({"port": True}, "port True; give"),
        ({"host": "a b"}, "host 'a b', which is no host"),
        ({"host": []}, "host []; give"),
        ({"host": 7}, "host 7; give"),
        ({"shutdown_timeout": -1}, "shutdown_timeout: -1 is not allowed; give a finite number"),
        ({"keepalive_timeout": None}, "keepalive_timeout: None is not allowed"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(arguments: dict[str, Any], text: str) -> None:
    """By the name that it has in the call, not by the setting's."""
    with pytest.raises(ConfigError) as caught:
        read_call(arguments)
    assert f"web.run_app was given {text}" in str(caught.value)


def test_bind_comes_before_every_place_of_the_call() -> None:
    """A Unix socket too: that is the way out for who cannot change the script."""
    call = read_call({"path": "/tmp/x", "port": 70000}, {"bind"})
    assert "bind" not in call.settings


def test_the_words_name_the_call_and_what_comes_before_it() -> None:
    """What is printed says where it listens by aiohttp's words, and why it may not."""
    call = read_call({"host": "::1", "shutdown_timeout": 5, "handle_signals": False})
    assert call.words_of("server.py", ()).startswith(
        "server.py: web.run_app gave host ::1, port 8080, shutdown_timeout 5, handle_signals False"
    )
    beside = read_call({"port": 1, "backlog": 5}, {"bind"}).words_of("s.py", {"bind", "workers"})
    assert beside == (
        "s.py: web.run_app gave host 0.0.0.0, port 1, backlog 5"
        " (given to aiocluster, which comes first: bind)"
    )


def is_unknown(name: str) -> bool:
    try:
        read_call({name: object()})
    except ConfigError as error:
        return "unknown here" in str(error)
    return False


def test_every_argument_of_aiohttps_own_is_known() -> None:
    """A new one of a later aiohttp is decided upon, and until then refused."""
    parameters = inspect.signature(web.run_app).parameters
    for name in parameters.keys() - {"app", "kwargs"}:
        assert not is_unknown(name), name
    assert is_unknown("client_max_size")

"""What a supervisor hands down: taken, hidden from children, or refused by name."""

import fcntl
import os
import re
import socket
from collections.abc import Callable

import pytest

from aiocluster.errors import ConfigError
from aiocluster.primary.sockets import activation as module
from aiocluster.primary.sockets.activation import take_inherited
from tests.support.connections import open_fds

# The test's own descriptors begin at 3; what is handed down begins here instead.
FIRST = 700


def environment(count: object, names: str | None = None) -> dict[str, str]:
    given = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "OTHER": "stays"}
    return given if names is None else {**given, "LISTEN_FDNAMES": names}


@pytest.fixture(autouse=True)
def _first_fd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_FD", FIRST)


def hand_down(*sockets: socket.socket) -> None:
    """Duplicate them to where they are looked for, as for a program to be started."""
    for index, sock in enumerate(sockets):
        assert fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, FIRST + index) == FIRST + index
        os.set_inheritable(FIRST + index, True)


def test_listening_sockets_are_taken_in_their_order() -> None:
    """No child sees them: neither their descriptors nor what the environment says."""
    environ = environment(2, "web:admin")
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.2", 0)) as two,
    ):
        hand_down(one, two)
        taken = take_inherited(environ)
        names = [sock.getsockname() for sock in taken]
        assert names == [one.getsockname(), two.getsockname()]

    assert [os.get_inheritable(sock.fileno()) for sock in taken] == [False, False]
    assert [sock.getblocking() for sock in taken] == [False, False]
    assert environ == {"OTHER": "stays"}
    assert take_inherited(environ) == []
    for sock in taken:
        sock.close()


def test_what_is_meant_for_another_process_is_left_alone() -> None:
    """A shell between the supervisor and us has another pid."""
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}

    assert take_inherited(environ) == []
    assert take_inherited({}) == []
    assert environ == {"LISTEN_PID": "1", "LISTEN_FDS": "1"}


def test_none_handed_down_is_none() -> None:
    """Then `bind` says where to listen."""
    environ = environment(0)

    assert take_inherited(environ) == []
    assert environ == {"OTHER": "stays"}


@pytest.mark.parametrize("count", ["", "two", "-1", "1.5", "9" * 30, "²"])
def test_a_count_that_is_none_is_refused(count: str) -> None:
    """By its value, and at once, however large it is."""
    with pytest.raises(ConfigError, match=f"LISTEN_FDS: '{re.escape(count)}' is no number of"):
        take_inherited(environment(count))


def not_listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def datagrams() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def local() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("")
    sock.listen()
    return sock


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (not_listening, "is not listening"),
        (datagrams, "is a SOCK_DGRAM"),
        (local, "is of the family AF_UNIX"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    make: Callable[[], socket.socket], fault: str
) -> None:
    """Which one, and why; nothing that was handed down stays open."""
    before = open_fds()
    with socket.create_server(("127.0.0.1", 0)) as good, make() as bad:
        hand_down(good, bad)
        with pytest.raises(ConfigError, match=rf"descriptor {FIRST + 1} \('admin'\) {fault}; only"):
            take_inherited(environment(2, "web:admin"))

    assert open_fds() <= before


def test_what_is_no_socket_is_refused() -> None:
    """A file, or nothing at all."""
    with pytest.raises(ConfigError, match=f"descriptor {FIRST} is no socket: Bad file descriptor"):
        take_inherited(environment(1))
    with open("/dev/null") as file:
        assert fcntl.fcntl(file.fileno(), fcntl.F_DUPFD, FIRST) == FIRST
    with pytest.raises(ConfigError, match=f"descriptor {FIRST} is no socket: Socket operation on"):
        take_inherited(environment(1))
    os.close(FIRST)

"""Socket activation: a supervisor such as systemd hands down listening sockets, sd_listen_fds(3).

The supervisor has bound the sockets. They listen already, and still do after the cluster stops:
the next program that the supervisor starts serves the connections in their backlogs.
"""

import os
import socket
from collections.abc import MutableMapping

from aiocluster.errors import ConfigError

_FIRST_FD = 3

_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def take_inherited(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the sockets that are meant for this process; the caller owns them.

    Afterwards the environment does not name the sockets, and child programs do not inherit them.
    If one is not a listening TCP socket, close all and raise ConfigError.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    given = {name: environ.pop(name, "") for name in _VARIABLES}
    count = _count(given["LISTEN_FDS"])
    names = given["LISTEN_FDNAMES"].split(":")
    fds = range(_FIRST_FD, _FIRST_FD + count)
    sockets: list[socket.socket] = []
    try:
        for index, fd in enumerate(fds):
            name = names[index] if index < len(names) else ""
            sockets.append(_listening(fd, f"descriptor {fd}" + (f" ({name!r:.80})" * bool(name))))
    except ConfigError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _count(text: str) -> int:
    # A process cannot have more open, and a loop over a huge count would take for ever.
    if not text.isascii() or not text.isdigit() or int(text) > os.sysconf("SC_OPEN_MAX"):
        raise ConfigError(f"LISTEN_FDS: {text!r:.80} is no number of descriptors")
    return int(text)


def _listening(fd: int, what: str) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise ConfigError(f"LISTEN_FDS: {what} is no socket: {error.strerror}") from error
    if (fault := _fault(sock)) is not None:
        sock.close()
        raise ConfigError(f"LISTEN_FDS: {what} is {fault}; only listening TCP sockets are served")
    sock.setblocking(False)
    return sock


def _fault(sock: socket.socket) -> str | None:
    """Return what is wrong with the socket, or None if it is a listening TCP socket."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return f"of the family {getattr(sock.family, 'name', sock.family)}"
    if sock.type != socket.SOCK_STREAM:
        return f"a {getattr(sock.type, 'name', sock.type)}"
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "not listening"
    return None

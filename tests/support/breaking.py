"""An app that breaks its worker's wires to the primary, as faulty code does by accident."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from aiohttp import web

from tests.support.apps import routes as plain

routes = web.RouteTableDef()


def make_app() -> web.Application:
    app = web.Application()
    app.add_routes(plain)
    app.add_routes(routes)
    return app


def wire(kind: int) -> int:
    """Return the descriptor of the wire to the primary that is a socket of this kind."""
    (found,) = (fd for fd in map(int, os.listdir("/proc/self/fd")) if is_wire(fd, kind))
    return found


def is_wire(fd: int, kind: int) -> bool:
    with contextlib.suppress(OSError), same_as(fd) as sock:
        if (sock.family, sock.type) == (socket.AF_UNIX, kind):
            peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4)
            return int.from_bytes(peer, sys.byteorder) != os.getpid()  # else it is the loop's own
    return False


def same_as(fd: int) -> socket.socket:
    return socket.socket(fileno=os.dup(fd))


def shut_down(fd: int, how: int) -> None:
    with same_as(fd) as sock:
        sock.shutdown(how)


def replace(fd: int) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, fd)
    os.close(null)


def send(fd: int, packet: bytes, count: int = 0) -> None:
    """Send a packet with so many descriptors."""
    with same_as(fd) as sock:
        socket.send_fds(sock, [packet], [0] * count)


FAULTS: dict[str, Callable[[int], None]] = {
    "close": os.close,
    "replace": replace,
    "shut_down": partial(shut_down, how=socket.SHUT_RDWR),
    "shut_down_writing": partial(shut_down, how=socket.SHUT_WR),
    "shut_down_reading": partial(shut_down, how=socket.SHUT_RD),
    "junk": partial(send, packet=b"\xc1" * 100),
    "empty": partial(send, packet=b""),
    "too_few": partial(send, packet=b"\0\0\0", count=1),
    "too_many": partial(send, packet=b"\0", count=2),
}

# Those that each wire may have.
FAULTS_OF = {
    "handoff": [*FAULTS],
    "channel": [
        *("close", "replace", "shut_down", "shut_down_writing", "shut_down_reading", "junk"),
    ],
}

KINDS = {"handoff": socket.SOCK_SEQPACKET, "channel": socket.SOCK_STREAM}


@routes.get("/break_loop")
async def break_loop(request: web.Request) -> web.Response:
    """Close a socket of the event loop: the next connection gets its number, which epoll has."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError), same_as(fd) as sock:
            mine = (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
            if mine and not is_wire(fd, socket.SOCK_STREAM):
                os.close(fd)
                break
    return web.Response(text=str(os.getpid()))


@routes.get("/spoil")
async def spoil(request: web.Request) -> web.Response:
    """Fill this worker's row of the scoreboard with ones, as a pointer that has run wild may."""
    maps = Path("/proc/self/maps").read_text().splitlines()  # noqa: ASYNC240
    (row,) = [line for line in maps if "aiocluster-scoreboard" in line]
    begin, end = (int(number, 16) for number in row.split()[0].split("-"))
    ctypes.memset(begin, 0xFF, end - begin)
    return web.Response(text=str(os.getpid()))


@routes.get("/break/{wire}/{fault}")
async def break_(request: web.Request) -> web.Response:
    """Answer with a wire that is broken now; where it is to be held, when SIGUSR1 has come."""
    released = asyncio.Event()
    if "hold" in request.query:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, released.set)
    else:
        released.set()
    FAULTS[request.match_info["fault"]](wire(KINDS[request.match_info["wire"]]))
    await released.wait()
    return web.Response(text=str(os.getpid()))

"""Socket operations on the bare descriptor of a connection.

Creating a `socket.socket` costs 0.6 µs more than creating its base type, `socket.SocketType`.
"""

import socket
from typing import Any

# Plain numbers: each use of an enum of `socket` costs half a microsecond. The family sets how
# large an address getpeername can return; AF_INET6 is large enough for both.
_FAMILY, _STREAM = int(socket.AF_INET6), int(socket.SOCK_STREAM)

# A connection that was just accepted is in blocking mode.
_PEEK = int(socket.MSG_PEEK | getattr(socket, "MSG_DONTWAIT", 0))


def peek(fd: int, size: int) -> bytes | None:
    """Return the bytes that have arrived: None if none have, b"" at the end or after an error."""
    sock = socket.SocketType(_FAMILY, _STREAM, 0, fd)
    try:
        return sock.recv(size, _PEEK)
    except BlockingIOError:
        return None
    except OSError:
        return b""
    finally:
        sock.detach()


def skip(fd: int, length: int) -> bool:
    """Read exactly `length` bytes that `peek` returned; return False if they are not there."""
    sock = socket.SocketType(_FAMILY, _STREAM, 0, fd)
    try:
        while length and (got := len(sock.recv(length))):
            length -= got
    except OSError:  # no bytes have arrived, or the connection was reset
        return False
    finally:
        sock.detach()
    return length == 0


def host_of(fd: int) -> str:
    """Return the client's address, or "" if the connection is no longer open."""
    sock = socket.SocketType(_FAMILY, _STREAM, 0, fd)
    try:
        address = sock.getpeername()
    except OSError:
        return ""
    finally:
        sock.detach()
    return str(address[0])


def packed_address(peer: Any) -> bytes:
    """Pack the peer address that `accept` returned: 4 or 16 bytes; b"" if there is no address."""
    try:
        host = peer[0]
        if ":" not in host:
            return socket.inet_pton(socket.AF_INET, host)
        # A link-local address ends in "%interface": an interface of this machine.
        return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, IndexError, TypeError):
        return b""

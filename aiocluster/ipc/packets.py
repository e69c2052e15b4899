"""One message a packet, with file descriptors: the wire between the primary and a zygote.

The wire is an AF_UNIX SOCK_SEQPACKET pair. The kernel keeps packets whole, so the receiver need
not collect parts, and a descriptor always comes with its message.
"""

import array
import os
import socket
from collections.abc import Sequence
from typing import Any

import msgpack
import msgspec

from aiocluster.errors import ChannelClosed, ProtocolError
from aiocluster.ipc.framing import NOT_MSGPACK, message_from
from aiocluster.ipc.messages import Message

# The largest packet: below the kernel's default send buffer (208 KiB), which it may not exceed.
MAX_PACKET_BYTES = 160 * 1024

# An answer carries one descriptor at most; a Fork carries four, and each listening socket that the
# worker shares. The maximum is one less than the kernel takes (SCM_MAX_FD).
MAX_FDS = 252
MAX_SHARED_SOCKETS = MAX_FDS - 4

_FD_BYTES = array.array("i").itemsize


def packet_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends, which are blocking sockets."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send_packet(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send `message` with duplicates of `fds`.

    Raises ProtocolError if the message is too large, ChannelClosed if the other side is gone, and
    BlockingIOError on a full non-blocking socket.
    """
    packet = msgpack.packb(msgspec.to_builtins(message))
    if len(packet) > MAX_PACKET_BYTES:
        raise ProtocolError(
            f"{type(message).__name__} of {len(packet)} bytes: at most {MAX_PACKET_BYTES} bytes"
        )
    try:
        socket.send_fds(sock, [packet], list(fds))
    except (BrokenPipeError, ConnectionResetError) as error:
        raise ChannelClosed("the other side of the zygote's socket is gone") from error


def receive_packet(sock: socket.socket, expected: Any) -> tuple[Message, list[int]] | None:
    """Receive one message of the `expected` kinds and its descriptors, which the caller owns.

    If the kernel had to destroy a descriptor, since this process is at its fd limit, the list is
    empty. Return None if the other side has closed. Raises ProtocolError for any other packet, and
    BlockingIOError on an empty non-blocking socket.
    """
    try:
        packet, ancillary, flags, _ = sock.recvmsg(
            MAX_PACKET_BYTES,
            # Room for one descriptor too many, so that too many differ from lost ones.
            socket.CMSG_SPACE((MAX_FDS + 1) * _FD_BYTES),
            socket.MSG_CMSG_CLOEXEC,
        )
    except ConnectionResetError:
        # The other side closed without reading all packets; its own packets can still be read.
        return receive_packet(sock, expected)
    fds = _descriptors(ancillary)
    if not packet:
        _close_all(fds)
        return None
    try:
        if flags & socket.MSG_TRUNC or len(fds) > MAX_FDS:
            raise ProtocolError("a packet did not arrive whole")
        message = message_from(msgpack.unpackb(packet, strict_map_key=False), expected)
    except NOT_MSGPACK as error:
        _close_all(fds)
        raise ProtocolError(f"not a packet: {str(error) or type(error).__name__}") from None
    except ProtocolError:
        _close_all(fds)
        raise
    if flags & socket.MSG_CTRUNC:
        # This process is at its limit of open files.
        _close_all(fds)
        return message, []
    return message, fds


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for _, kind, data in ancillary:
        if kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _FD_BYTES])
    return list(fds)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)

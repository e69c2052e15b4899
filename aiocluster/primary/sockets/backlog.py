"""Closing a listening socket without a reset for clients that are just connecting.

When a listener closes, the kernel resets the connections in its backlog. The kernel may add more
after the last `accept`; only a filter that drops the first packet of each new connection prevents
that. The client of a dropped packet tries again a second later, and is then refused.
"""

import ctypes
import socket
import struct
from collections.abc import Iterable

# From the kernel's asm-generic/socket.h; Python's socket module does not name it.
_SO_ATTACH_FILTER = 26

# One instruction of the classic packet filter: code, jump if true, jump if false, operand.
_INSTRUCTION = struct.Struct("=HBBI")

# The socket's filter sees a packet from its TCP header on. Byte 13 holds the flags: a first
# packet has SYN set and ACK not. The filter returns how many bytes to let through.
_NO_FIRST_PACKETS = b"".join(
    _INSTRUCTION.pack(*instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load byte 13
        (0x54, 0, 0, 0x12),  # keep its SYN and ACK bits
        (0x15, 0, 1, 0x02),  # SYN alone?
        (0x06, 0, 0, 0),  # then nothing
        (0x06, 0, 0, 0xFFFFFFFF),  # else everything
    )
)

# The state of a half-open connection, as /proc/net/tcp writes it.
_SYN_RECV = "03"


def drop_new_syns(sock: socket.socket) -> bool:
    """Let no new connection begin at this listening socket; return False if that is impossible.

    The filter holds for every process that has the socket. Connections accepted later inherit
    the filter, but never send a packet that it drops.
    """
    program = ctypes.create_string_buffer(_NO_FIRST_PACKETS, len(_NO_FIRST_PACKETS))
    length = len(_NO_FIRST_PACKETS) // _INSTRUCTION.size
    try:
        sock.setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            struct.pack("@HP", length, ctypes.addressof(program)),
        )
    except OSError:  # some kernels and sandboxes have no socket filters
        return False
    return True


def has_half_open(ports: set[int]) -> bool:
    """Return True if a connection to one of `ports` is half open (SYN_RECV).

    Its client may believe that it is connected, but the connection is in no backlog yet.
    """
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(name) as table:
                if half_open(table, ports):
                    return True
        except OSError:
            continue
    return False


def half_open(table: Iterable[str], ports: set[int]) -> bool:
    """Return True if this table of the kernel's has a half-open connection to one of `ports`."""
    ends = {f":{port:04X}" for port in ports}
    for line in table:
        _, local, _, state, *_ = line.split(maxsplit=4)
        if state == _SYN_RECV and local[-5:] in ends:
            return True
    return False

"""How a listening socket is closed without a reset for those who are just connecting.

The kernel resets what waits in a backlog when its listener closes, and nothing can stop it
from putting more there after the last look: but for a filter, which drops the first packet of
each new connection. Such a client tries again a second later, and is then refused.
"""

import ctypes
import socket
import struct
from collections.abc import Iterable

# From the kernel's asm-generic/socket.h; Python's socket does not name them.
_SO_ATTACH_FILTER = 26

# One instruction of the classic packet filter: code, jump if true, jump if false, operand.
_INSTRUCTION = struct.Struct("=HBBI")

# The socket's filter sees a packet from its TCP header on. Its byte 13 are the flags: of a
# first packet SYN is set and ACK is not, and the filter returns how many bytes to let through.
_NO_FIRST_PACKETS = b"".join(
    _INSTRUCTION.pack(*instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load byte 13
        (0x54, 0, 0, 0x12),  # keep SYN and ACK of it
        (0x15, 0, 1, 0x02),  # SYN alone?
        (0x06, 0, 0, 0),  # then nothing
        (0x06, 0, 0, 0xFFFFFFFF),  # else everything
    )
)

# How the kernel writes a socket's state in /proc/net/tcp.
_SYN_RECV = "03"


def drop_new_syns(sock: socket.socket) -> bool:
    """Let no new connection begin at this listening socket; False where that is impossible.

    It holds for every process that has the socket, and connections that come by it later have
    the filter too, which never concerns them.
    """
    program = ctypes.create_string_buffer(_NO_FIRST_PACKETS, len(_NO_FIRST_PACKETS))
    length = len(_NO_FIRST_PACKETS) // _INSTRUCTION.size
    try:
        sock.setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            struct.pack("@HP", length, ctypes.addressof(program)),
        )
    except OSError:  # not every kernel has it, nor every sandbox
        return False
    return True


def has_half_open(ports: set[int]) -> bool:
    """Are there clients whom the kernel has answered, and whose own answer is on its way?

    They believe that they are connected, and are in no backlog yet.
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
    """Does the kernel's table of sockets have such a client of one of these local ports?"""
    ends = {f":{port:04X}" for port in ports}
    for line in table:
        _, local, _, state, *_ = line.split(maxsplit=4)
        if state == _SYN_RECV and local[-5:] in ends:
            return True
    return False

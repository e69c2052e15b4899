"""Accepted connections, as file descriptors, from the primary to one worker, and back.

Each worker has one AF_UNIX SOCK_SEQPACKET pair. A message is a batch: the connections that one
wake-up of a listener gave this worker (SCM_RIGHTS) and, as its bytes, the listener of each. In
the other direction a draining worker gives back, in the same form, the connections that other
workers can serve. No message is acknowledged: the kernel's queue is the truth, and its EAGAIN is
backpressure. The primary keeps a duplicate of the worker's end, so it can read back the
connections that a dead worker had not taken.

If a proxy has named a connection's client, the connection has a message of its own with the client.
"""

import array
import errno
import os
import socket
import struct
from collections.abc import Callable, Sequence
from itertools import repeat

import msgpack
import msgspec

from aiocluster.errors import ProtocolError
from aiocluster.ipc.forks import keep_from_children

# The kernel's own limit (SCM_MAX_FD).
MAX_BATCH = 253

# Like the other constants of `socket` here: 0 on a system that has none, and so no handoff.
_SOL_SOCKET, _SCM_RIGHTS = socket.SOL_SOCKET, getattr(socket, "SCM_RIGHTS", 0)

_FD_BYTES = array.array("i").itemsize

_INT = struct.Struct("i")

_ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_BATCH * _FD_BYTES) if _SCM_RIGHTS else 0

# A listener is one byte. The one value that no listener has begins the message of a connection with
# a client that a proxy has named: the listener and the client follow.
MAX_LISTENERS = _TOLD = 255

# Plain numbers: each use of the enums in `socket` costs half a microsecond.
_CLOEXEC, _CTRUNC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0)), int(socket.MSG_CTRUNC)

# Errors that pass: the queue is full, the kernel is short of buffers, or too many descriptors
# are in flight for this user (ETOOMANYREFS).
_FULL_ERRNOS = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS}


# The (host, port) of a connection's client, if that is not the address of the socket's peer.
Client = tuple[str, int]

_clients = msgspec.msgpack.Decoder(Client)

# A descriptor, the index of its listener, its client if a proxy has named one.
Taken = tuple[int, int, Client | None]


class TruncatedBatch(OSError):
    """A batch of which the kernel destroyed descriptors, since this process is at its fd limit.

    `arrived` are the descriptors that came through; the code that catches the error owns them.
    """

    def __init__(self, arrived: list[Taken], lost: int) -> None:
        super().__init__(errno.EMFILE, f"{lost} connections lost: at the fd limit")
        self.arrived = arrived
        self.lost = lost


def handoff_pair() -> tuple[socket.socket, socket.socket]:
    """Return (the primary's end, the worker's end)."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    keep_from_children(sender, receiver)
    sender.setblocking(False)
    receiver.setblocking(False)
    return sender, receiver


def give(sender: socket.socket, fds: Sequence[int], listeners: bytes) -> bool:
    """Put a batch of at most MAX_BATCH connections into the other side's queue.

    `listeners` has one byte a connection. Return False if the queue is full or the other side is
    gone; the caller still owns its `fds` in either case.
    """
    try:
        # socket.send_fds does the same, but imports a module in each call.
        sender.sendmsg((listeners,), ((_SOL_SOCKET, _SCM_RIGHTS, array.array("i", fds)),))
    except OSError as error:
        if error.errno in _FULL_ERRNOS or error.errno in (errno.EPIPE, errno.ECONNRESET):
            return False
        raise
    return True


def untaken_bytes(sender: socket.socket) -> int:
    """Return the kernel's count of the bytes that the other side has not taken yet."""
    import fcntl  # Windows has no such module
    import termios

    (count,) = _INT.unpack(fcntl.ioctl(sender.fileno(), termios.TIOCOUTQ, bytes(_INT.size)))
    return int(count)


def give_told(sender: socket.socket, fd: int, listener: int, client: Client) -> bool:
    """Put one connection and the address of its client into the other side's queue. See `give`."""
    return give(sender, [fd], bytes([_TOLD, listener]) + msgpack.packb(client))


def take(receiver: socket.socket) -> list[Taken] | None:
    """Take the next batch: its descriptors are close-on-exec, and the caller owns them.

    Return None if the other side has closed its end, or has sent an empty packet. Raise
    BlockingIOError if the queue is empty, TruncatedBatch if the kernel had to destroy
    descriptors, ProtocolError for a packet that is no batch.
    """
    # socket.recv_fds ignores its flags, and an accepted connection must not leak into the
    # programs that a worker starts.
    listeners, ancillary, flags, _ = receiver.recvmsg(MAX_BATCH, _ANCILLARY_BYTES, _CLOEXEC)
    fds = array.array("i")
    for _, kind, data in ancillary:
        if kind == _SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _FD_BYTES])
    if len(fds) == len(listeners) > 0:
        return list(zip(fds, listeners, repeat(None)))
    try:
        return _uneven(fds, listeners, flags)
    except ProtocolError:
        _close_all(fds)
        raise


def _uneven(fds: "array.array[int]", listeners: bytes, flags: int) -> list[Taken] | None:
    """Read a packet with unequal numbers: one with a client, the end, or a truncated batch."""
    if not listeners and not fds:
        return None
    client = None
    if listeners[:1] == bytes([_TOLD]):
        client = _client_from(listeners[2:])
        listeners = listeners[1:2]
    batch = list(zip(fds, listeners, repeat(client)))
    if flags & _CTRUNC and len(fds) <= len(listeners):
        raise TruncatedBatch(batch, len(listeners) - len(fds))
    if len(fds) != len(listeners):
        raise ProtocolError(f"a batch of {len(listeners)} connections with {len(fds)} descriptors")
    return batch


def _client_from(packed: bytes) -> Client:
    try:
        return _clients.decode(packed)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"a connection of no client: {error}") from None


def next_batch_size(receiver: socket.socket) -> int:
    """Return how many connections the next `take` would return; 0 if the queue is empty."""
    try:
        listeners = receiver.recv(MAX_BATCH, socket.MSG_PEEK)
    except BlockingIOError:
        return 0
    return 1 if listeners[:1] == bytes([_TOLD]) else len(listeners)


def take_all(receiver: socket.socket, on_lost: Callable[[int], object]) -> list[Taken]:
    """Take all batches; `on_lost(count)` is called with how many connections the kernel destroyed.

    Packets that are no batch are left out: callers read the last packets of a worker that ends.
    """
    taken: list[Taken] = []
    while True:
        try:
            batch = take(receiver)
        except BlockingIOError:
            return taken
        except TruncatedBatch as truncated:
            on_lost(truncated.lost)
            batch = truncated.arrived
        except ProtocolError:
            continue
        if batch is None:
            return taken
        taken += batch


def _close_all(fds: "array.array[int]") -> None:
    for fd in fds:
        os.close(fd)

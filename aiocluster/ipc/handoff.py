"""Accepted connections, as file descriptors, from the primary to one worker, and back.

One AF_UNIX SOCK_SEQPACKET pair a worker. A message is a batch: the connections one wake-up
of a listener gave this worker (SCM_RIGHTS) and, as its bytes, which listener each came from.
The other way a draining worker gives back, in the same form, those that others can go on
with. Nothing is ever acknowledged: the kernel's queue is the truth, its EAGAIN is
backpressure, and since the primary keeps a duplicate of the worker's end it can read back
what a dead worker had not taken.

A connection whose client a proxy has told comes in a message of its own, which says who it is.
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

# As the other constants of `socket` here, 0 where the system has none, and no handoff.
_SOL_SOCKET, _SCM_RIGHTS = socket.SOL_SOCKET, getattr(socket, "SCM_RIGHTS", 0)

_FD_BYTES = array.array("i").itemsize

_INT = struct.Struct("i")

_ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_BATCH * _FD_BYTES) if _SCM_RIGHTS else 0

# A listener is one byte. The one value that none has begins the message of a connection whose
# client a proxy has told: its listener and that client follow.
MAX_LISTENERS = _TOLD = 255

# Plain numbers: as the enums they are in `socket`, each use costs half a microsecond.
_CLOEXEC, _CTRUNC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0)), int(socket.MSG_CTRUNC)

# No room now, for whatever reason: the queue is full, the kernel is short of buffers, or
# too many descriptors are in flight for this user (ETOOMANYREFS). All of them pass.
_FULL_ERRNOS = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS}


# The (host, port) of a connection's client, where that is not who has connected.
Client = tuple[str, int]

_clients = msgspec.msgpack.Decoder(Client)

# A descriptor, the index of its listener, its client if a proxy has told.
Taken = tuple[int, int, Client | None]


class TruncatedBatch(OSError):
    """The kernel destroyed descriptors because this process is at its fd limit.

    `arrived` are those that did come through; their owner is the catcher.
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

    `listeners` has one byte a connection. Return False when the queue is full or nobody
    can take from it any more; the caller still owns its `fds` in either case.
    """
    try:
        # socket.send_fds does the same, and imports a module each time it is called.
        sender.sendmsg((listeners,), ((_SOL_SOCKET, _SCM_RIGHTS, array.array("i", fds)),))
    except OSError as error:
        if error.errno in _FULL_ERRNOS or error.errno in (errno.EPIPE, errno.ECONNRESET):
            return False
        raise
    return True


def untaken_bytes(sender: socket.socket) -> int:
    """Return how much the other side has not taken yet, in the kernel's own count of bytes."""
    import fcntl  # which Windows does not have
    import termios

    (count,) = _INT.unpack(fcntl.ioctl(sender.fileno(), termios.TIOCOUTQ, bytes(_INT.size)))
    return int(count)


def give_told(sender: socket.socket, fd: int, listener: int, client: Client) -> bool:
    """Put one connection, and who its client is, into the other side's queue. See `give`."""
    return give(sender, [fd], bytes([_TOLD, listener]) + msgpack.packb(client))


def take(receiver: socket.socket) -> list[Taken] | None:
    """Take the next batch: descriptors are close-on-exec, and owned by the caller.

    Return None when the other side has closed, or has sent an empty packet. Raise
    BlockingIOError when there is nothing, TruncatedBatch when the kernel had to destroy some,
    ProtocolError for a packet that is no batch.
    """
    # socket.recv_fds drops its flags, and an accepted connection must not leak into the
    # programs a worker starts.
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
    """Not as many descriptors as listeners: a client is told, or the end, or the fd limit."""
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
    """Return how many connections the next `take` would bring; 0 when there is nothing."""
    try:
        listeners = receiver.recv(MAX_BATCH, socket.MSG_PEEK)
    except BlockingIOError:
        return 0
    return 1 if listeners[:1] == bytes([_TOLD]) else len(listeners)


def take_all(receiver: socket.socket, on_lost: Callable[[int], object]) -> list[Taken]:
    """Take every batch that waits; `on_lost(count)` hears of what the kernel had to destroy.

    What is no batch is left out: those who read like this have the last of one that ends.
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

"""Reads the descriptors, threads and children of this process for leftovers.py."""

import contextlib
import gc
import os
import socket
import stat
import sys
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from aiocluster.private_apis import multiprocessing_children
from aiocluster.zygote.leftovers import Descriptor, Holdings, Socket

# The first bytes of every SQLite database that is not empty.
_SQLITE_MAGIC = b"SQLite format 3\0"

# The number of characters by which a command is named.
_MAX_COMMAND = 60

# TCP_CLOSE: the socket is neither connected nor about to be.
_TCP_CLOSED = 7


def look() -> Holdings:
    """Return what this process holds now."""
    return Holdings(
        descriptors=dict(_descriptors()),
        threads=_threads(),
        children={pid: _name(pid) for pid in running_children()},
        sqlite=frozenset(map(id, _sqlite_connections())),
    )


def inherited(ours: Collection[int] = ()) -> Holdings:
    """Return the descriptors that this process was started with, and `ours`, and its threads.

    The program's code has opened none of them: Python's descriptors are close-on-exec, and so are
    those of careful libraries.
    """
    kept = {fd: one for fd, one in _descriptors() if fd in ours or _is_inheritable(fd)}
    return Holdings(descriptors=kept, threads=_threads())


def anonymous_bytes() -> int:
    """Return the bytes of this process's memory that belong to no file; 0 if unknown."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


# ---- children


def children() -> list[int]:
    """Return the pids of this process's children, dead ones that are not reaped included."""
    found: list[int] = []
    # This opens one descriptor at a time: a process at its limit may have no other.
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            found += map(int, Path(f"/proc/self/task/{thread}/children").read_text().split())
    return found


def running_children() -> list[int]:
    """Return the pids of children that run, except for multiprocessing's resource tracker.

    The tracker is made to be shared, and ends with the last process that has its pipe.
    """
    return [pid for pid in children() if pid != _tracker() and not _is_zombie(pid)]


def _tracker() -> int | None:
    module = sys.modules.get("multiprocessing.resource_tracker")
    return getattr(getattr(module, "_resource_tracker", None), "_pid", None)


def _is_zombie(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _name(pid: int) -> str:
    """Return the name of a child: the one that multiprocessing has for it, or its command."""
    for process in multiprocessing_children():
        if process.pid == pid:
            return str(process.name)
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").strip()
    except OSError:
        command = b""
    text = " ".join(command.decode(errors="backslashreplace").split())
    return text[:_MAX_COMMAND] or "without a command"


# ---- threads


def _threads() -> dict[int, str]:
    """Return the names of threads that run Python code; a few have no Thread object."""
    unnamed = dict.fromkeys(sys._current_frames(), "(without a name)")
    return unnamed | {one.ident or 0: one.name for one in threading.enumerate()}


# ---- descriptors


def open_descriptors() -> set[int]:
    """Return the open descriptors, and the one with which they were read."""
    try:
        return {*map(int, os.listdir("/proc/self/fd"))}
    except OSError:
        return set()


def _descriptors() -> Iterator[tuple[int, Descriptor]]:
    for fd in sorted(open_descriptors()):
        # The descriptor with which they were read is closed already.
        with contextlib.suppress(OSError):
            yield fd, _descriptor(fd)


def _descriptor(fd: int) -> Descriptor:
    target = os.readlink(f"/proc/self/fd/{fd}")
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        return Descriptor(target, socket=_socket(fd))
    return Descriptor(target, is_sqlite=stat.S_ISREG(mode) and _is_sqlite(fd))


def _socket(fd: int) -> Socket:
    # A duplicate, since the object closes its descriptor.
    with socket.socket(fileno=os.dup(fd)) as sock:
        kind = sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        return Socket(
            is_stream=kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET),
            listens=bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)),
            local=_address(sock, sock.getsockname()),
            peer=_peer(sock),
        )


def _peer(sock: socket.socket) -> str | None:
    try:
        return _address(sock, sock.getpeername())
    except OSError:
        return "an address that does not answer yet" if _is_connecting(sock) else None


def _is_connecting(sock: socket.socket) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return False
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    state: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return not listens and state != _TCP_CLOSED


def _address(sock: socket.socket, address: object) -> str:
    match address:
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"
        case bytes():  # the abstract namespace
            return "@" + address[1:].decode(errors="backslashreplace")
        case _:
            return str(address)


def _is_sqlite(fd: int) -> bool:
    try:
        return os.pread(fd, len(_SQLITE_MAGIC), 0) == _SQLITE_MAGIC
    except OSError:  # the descriptor is open for writing only
        return False


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


# ---- sqlite3


def _sqlite_connections() -> list[object]:
    """Return the open connections of the sqlite3 module: a database in memory has no file."""
    module = sys.modules.get("_sqlite3")
    if module is None:
        return []
    kind: type = module.Connection
    # The type decides: an object may claim any class, and run any code at isinstance.
    return [one for one in gc.get_objects() if issubclass(type(one), kind) and _is_open(one)]


def _is_open(connection: object) -> bool:
    try:
        connection.total_changes  # type: ignore[attr-defined]  # noqa: B018
    except Exception:  # the connection was closed, or never opened
        return False
    return True

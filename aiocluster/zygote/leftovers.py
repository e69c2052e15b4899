"""Things an import leaves that break in a fork: found by comparing the process before and after.

A connection that a fork copies has several readers, and each takes a part of the data; the epoll
of a loop wakes the wrong process; a thread does not exist in the copy, and its locks stay locked;
a child process has one parent. So each worker must import an app that has any of these.

Some things are not looked for. Datagram sockets (syslog, statsd): each message is whole. Pipes:
the other end is a child that is found itself, or the same process. signalfds: they read the
signals of the process that reads. Threads that Python does not know (numpy's): their libraries
handle forks. inotify and timerfd count: what one process reads, the others miss.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

# The most things that a warning names; the rest are counted, since a warning is one line.
_MAX_NAMED = 8

# The names of descriptors without a file, by the kernel's names.
_KINDS = {
    "anon_inode:[eventpoll]": "an epoll",
    "anon_inode:[eventfd]": "an eventfd",
    "anon_inode:[io_uring]": "an io_uring",
    "anon_inode:[timerfd]": "a timerfd",
    "anon_inode:inotify": "an inotify",
    "anon_inode:[fanotify]": "a fanotify",
}

# The kinds of descriptors that an event loop has. It has at least an epoll.
_EPOLL = "an epoll"
_PAIR = "a socket pair"
_OF_A_LOOP = (_EPOLL, "an eventfd", "an io_uring", _PAIR)

_GPU = "/dev/nvidia"


@dataclass(frozen=True, slots=True)
class Socket:
    """A socket as read from its descriptor. `peer` is None if it is not connected."""

    is_stream: bool
    listens: bool
    local: str
    peer: str | None


@dataclass(frozen=True, slots=True)
class Descriptor:
    """An open descriptor. `target` is its link in /proc/self/fd: a path, or "socket:[4711]"."""

    target: str
    socket: Socket | None = None
    is_sqlite: bool = False  # the file is an SQLite database


@dataclass(frozen=True, slots=True)
class Holdings:
    """The descriptors, threads, children and databases that a process has at one moment."""

    descriptors: Mapping[int, Descriptor] = field(default_factory=dict)
    threads: Mapping[int, str] = field(default_factory=dict)  # by identity: the name
    children: Mapping[int, str] = field(default_factory=dict)  # by pid: the name of a running child
    sqlite: frozenset[int] = frozenset()  # open sqlite3 connections, by identity


def left_behind(before: Holdings, after: Holdings) -> list[str]:
    """Return the names of new holdings after the import that break in a fork."""
    new = _new_descriptors(before, after)
    databases = [
        f"the SQLite database {one.target} (descriptor {fd})"
        for fd, one in new.items()
        if one.is_sqlite
    ]
    # A database in memory, or one that is still empty, is not found by its file.
    if after.sqlite - before.sqlite and not databases:
        databases = ["an sqlite3 connection"]
    threads = [name for one, name in after.threads.items() if one not in before.threads]
    children = [(pid, name) for pid, name in after.children.items() if pid not in before.children]
    return [
        *_sockets(new),
        *databases,
        *_without_a_file(new),
        *_gpus(new),
        *(f"thread {name!r}" for name in threads),
        *(f"child process {pid} ({name})" for pid, name in children),
    ]


def listed(names: list[str]) -> str:
    """Return the names in one line; beyond a maximum, only how many more there are."""
    more = [f"{len(names) - _MAX_NAMED} more"] if len(names) > _MAX_NAMED else []
    return ", ".join([*names[:_MAX_NAMED], *more])


def mib(count: int) -> str:
    """Return a number of bytes in words, to the next MiB."""
    return f"about {max(round(count / 2**20), 1)} MiB"


def fallback_note(what: str, left: list[str], grown: int) -> str:
    """Return the note on an import of `what` by each worker, which takes `grown` bytes each."""
    return (
        f"importing {what} left what no fork survives: {listed(left)}. So each worker now holds"
        f" its own import: {mib(grown)} more each, and slower starts. Make them in the app's"
        " factory or its on_startup, and the import is shared again; preload=False imports in"
        " each worker without this try and this warning; preload=True shares the import with"
        " all that it left"
    )


def insistence_note(what: str, left: list[str]) -> str:
    """Return the note on what all workers share, since the user insists with preload=True."""
    return (
        f"importing {what} left what no fork survives: {listed(left)}. preload=True shares it"
        " with all workers: connections are read by all of them, and threads are missing in"
        ' them; preload="auto" imports in each worker instead'
    )


def program_note(left: list[str]) -> str:
    """Return the note on what the program held before it called run, and all workers share."""
    return (
        f"the program holds what no fork survives: {listed(left)}. All workers share it, since"
        " they are forked from the program that made the app: make it in the app's factory or"
        " its on_startup, or give run an import string ('pkg.module:name'), which each worker"
        " then imports for itself"
    )


def generators_note(names: list[str]) -> str:
    """Return the note on random generators that give the same numbers in all workers."""
    return (
        f"random generators were made by the import, and give equal numbers in all workers:"
        f" {listed(names)}. Make them in the app's factory, or use the functions of the random"
        " module, which each worker seeds anew"
    )


def _new_descriptors(before: Holdings, after: Holdings) -> dict[int, Descriptor]:
    """Return the descriptors that were not there before; a socket may have another number."""
    sockets = {one.target for one in before.descriptors.values() if one.socket is not None}
    return {
        fd: one
        for fd, one in after.descriptors.items()
        # A file without an inode of its own is known by its number only.
        if before.descriptors.get(fd) is None or before.descriptors[fd].target != one.target
        if one.target not in sockets
    }


def _sockets(new: Mapping[int, Descriptor]) -> list[str]:
    named: list[str] = []
    for fd, one in new.items():
        if one.socket is None or not one.socket.is_stream:
            continue
        if one.socket.listens:
            named.append(f"a listening socket on {one.socket.local} (descriptor {fd})")
        elif one.socket.peer:
            named.append(f"a connection to {one.socket.peer} (descriptor {fd})")
    return named


def _without_a_file(new: Mapping[int, Descriptor]) -> list[str]:
    kinds = {fd: kind for fd, one in new.items() if (kind := _kind(one))}
    found: dict[str, list[int]] = {}
    for fd, kind in kinds.items():
        is_loops = _EPOLL in kinds.values() and kind in _OF_A_LOOP
        found.setdefault("an event loop" if is_loops else kind, []).append(fd)
    return [f"{kind} ({_numbers(fds)})" for kind, fds in found.items()]


def _kind(one: Descriptor) -> str | None:
    if (sock := one.socket) is not None:
        # A socket without a name, and with a peer that has none, is one of a pair.
        return _PAIR if sock.is_stream and not sock.listens and sock.peer == "" else None
    return _KINDS.get(one.target)


def _gpus(new: Mapping[int, Descriptor]) -> list[str]:
    found: dict[str, list[int]] = {}
    for fd, one in new.items():
        if one.target.startswith(_GPU):
            found.setdefault(one.target, []).append(fd)
    return [f"{target} ({_numbers(fds)})" for target, fds in found.items()]


def _numbers(fds: list[int]) -> str:
    return f"descriptor{'s' if len(fds) > 1 else ''} {', '.join(map(str, fds))}"

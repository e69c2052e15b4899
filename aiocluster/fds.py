"""How many descriptors this process and its children may have open."""

import contextlib
import os


def fd_limit() -> int:
    """Return how many this process may have."""
    import resource  # which Windows does not have

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_fd_limit() -> None:
    """Raise the soft limit of open files to the hard one; every child inherits it."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The system's own bound, fs.nr_open, may have been lowered since.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_fds_left(count: int, any_fd: int) -> None:
    """Raise OSError unless this process may have `count` more; `any_fd` is one that it has."""
    spare: list[int] = []
    try:
        for _ in range(count):
            spare.append(os.dup(any_fd))  # noqa: PERF401 (an error leaves those before it)
    finally:
        for fd in spare:
            os.close(fd)


def open_fd_count(unseen: int = 3) -> int:
    """Return how many descriptors this process has open; `unseen` where that is not to be seen."""
    try:
        if _SIZE_IS_COUNT:  # to list 16,000 takes 20 ms
            return os.stat(_OPEN).st_size
        return len(os.listdir(_OPEN)) - 1  # without the one that lists them
    except OSError:
        return unseen


def open_fds() -> set[int]:
    """Return the descriptors of this process; none where they cannot be seen."""
    try:
        listed = [int(name) for name in os.listdir(_OPEN)]
    except OSError:
        return set()
    return {fd for fd in listed if _is_open(fd)}  # without the one that lists them


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


_OPEN = "/proc/self/fd"


def _is_size_count() -> bool:
    """Is the size of the folder the number of its entries, as from Linux 6.2 on?"""
    with contextlib.suppress(OSError):
        return os.stat(_OPEN).st_size == len(os.listdir(_OPEN)) - 1
    return False


_SIZE_IS_COUNT = _is_size_count()

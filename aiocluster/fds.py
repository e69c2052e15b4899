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


def open_fd_count() -> int:
    """Return how many descriptors this process has open; where that is not to be seen, 3."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # without the one that lists them
    except OSError:
        return 3

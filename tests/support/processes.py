"""Short real processes, children of the test."""

import os


def start_process(script: str) -> int:
    """Start a shell, our child."""
    return os.posix_spawn("/bin/sh", ["sh", "-c", script], os.environ)


def reap(pid: int) -> None:
    """Take the status of a child of ours that is about to end."""
    os.waitpid(pid, 0)


def is_reaped(pid: int) -> bool:
    """Has somebody taken the status of this child of ours?"""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False

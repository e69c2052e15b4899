"""Ports for tests that must know theirs before anybody has bound it."""

import contextlib
import random
import socket


def unused_port() -> int:
    """Return one below those that the kernel deals out: nobody is given it meanwhile."""
    while True:
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port

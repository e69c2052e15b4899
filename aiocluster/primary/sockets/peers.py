"""From where a client comes, as the bytes that a policy goes by."""

import socket
from typing import Any


def packed_address(peer: Any) -> bytes:
    """Pack what `accept` tells of a client: 4 bytes or 16; b"" where there is no address."""
    try:
        host = peer[0]
        if ":" not in host:
            return socket.inet_pton(socket.AF_INET, host)
        # A link-local one comes with its interface, which is not the client's.
        return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, IndexError, TypeError):
        return b""

"""The connections that the primary has accepted."""

from typing import NamedTuple


class Connection(NamedTuple):
    """An accepted connection: its descriptor, and the index of the listener that accepted it.

    `affinity` is the key for a sticky policy. `slot` is the slot of the worker that gave the
    connection back, or -1 for a new connection. `client` is the address that a proxy named.
    """

    fd: int
    listener: int
    affinity: bytes = b""
    slot: int = -1
    client: tuple[str, int] | None = None

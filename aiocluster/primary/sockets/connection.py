"""An accepted connection, on its way to a worker."""

from typing import NamedTuple


class Connection(NamedTuple):
    """An accepted connection: its descriptor, and the index of the listener that accepted it.

    `affinity` is the key of a sticky policy. `slot` is the slot of the worker that gave the
    connection back, -1 for a new one. `client` is the address that a proxy has named.
    """

    fd: int
    listener: int
    affinity: bytes = b""
    slot: int = -1
    client: tuple[str, int] | None = None

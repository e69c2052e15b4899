"""The address of a client that a proxy told."""

import asyncio
from typing import cast

from aiocluster.worker.http.client_transport import with_client


class FakeTransport:
    def __init__(self) -> None:
        self.written = b""

    def get_extra_info(self, name: str, default: object = None) -> object:
        return {"peername": ("proxy", 1), "socket": "a socket"}.get(name, default)

    def write(self, data: bytes) -> None:
        self.written += data


def test_the_peer_is_the_client_and_all_else_is_the_real_transports() -> None:
    """An app sees who asks, and writes to the proxy."""
    real = FakeTransport()

    transport = with_client(cast(asyncio.Transport, real), ("client", 2))
    transport.write(b"hello")

    assert transport.get_extra_info("peername") == ("client", 2)
    assert transport.get_extra_info("socket") == "a socket"
    assert transport.get_extra_info("other", "default") == "default"
    assert real.written == b"hello"

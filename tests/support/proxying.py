"""A proxy in front of the cluster that speaks the PROXY protocol, and what it says."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from struct import pack
from typing import Any

from aiocluster import Cluster
from tests.support.cluster import Heard, serving, url_of
from tests.support.mirror import MIRROR_APP, door_of
from tests.support.wire import Response, Wire

WORKERS = 4
PROXY = "127.0.0.7"  # trusted

BEHIND = {
    "workers": WORKERS,
    "proxy_protocol": True,
    "trusted_proxies": [PROXY, "::1"],
    "peek_timeout": 3600.0,
    "graceful_timeout": 3600.0,
    "keepalive_timeout": 3600.0,
    "min_uptime": 0.0,
}

GET = b"GET /page HTTP/1.1\r\nHost: test\r\n\r\n"

V2_START = b"\r\n\r\n\x00\r\nQUIT\n"


def v1(client: str, port: int = 4321) -> bytes:
    """Return a header of version 1."""
    kind, server = ("TCP6", "2001:db8::1") if ":" in client else ("TCP4", "192.0.2.1")
    return f"PROXY {kind} {client} {server} {port} 80\r\n".encode()


def v2(client: str, port: int = 4321, more: bytes = b"") -> bytes:
    """Return a header of version 2, with `more` behind its addresses."""
    family, server = socket.AF_INET, "192.0.2.1"
    if is_ipv6 := ":" in client:
        family, server = socket.AF_INET6, "2001:db8::1"
    ends = socket.inet_pton(family, client) + socket.inet_pton(family, server)
    body = ends + pack("!HH", port, 80) + more
    return V2_START + pack("!BBH", 0x21, 0x21 if is_ipv6 else 0x11, len(body)) + body


V2_LOCAL = V2_START + pack("!BBH", 0x20, 0x00, 0)
V2_LOCAL_WITH_ADDRESSES = V2_START + pack("!BBH", 0x20, 0x11, 12) + bytes(range(12))
V1_UNKNOWN = b"PROXY UNKNOWN\r\n"


@asynccontextmanager
async def behind_a_proxy(**settings: Any) -> AsyncIterator[tuple[Cluster, Heard]]:
    async with serving(MIRROR_APP, **(BEHIND | settings)) as both:
        yield both


def by_proxy(cluster: Cluster, *, nth: int = 1) -> Wire:
    """Return a connection of the proxy's, to be opened."""
    return Wire(url_of(cluster, "", nth=nth), source=PROXY)


async def get(cluster: Cluster, header: bytes) -> Response:
    """Ask as a client of which the proxy says this."""
    async with by_proxy(cluster) as wire:
        await wire.send(header + GET)
        return await wire.response()


def refusals(cluster: Cluster) -> dict[str, int]:
    return door_of(cluster).counts().refusals

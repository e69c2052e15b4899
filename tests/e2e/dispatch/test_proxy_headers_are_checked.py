"""Who is no trusted proxy, or sends what is no PROXY header, is closed; others live on."""

import contextlib
from struct import pack
from typing import Any

import pytest

from aiocluster import ConfigError, Role
from tests.support.cluster import serving_roles, url_of
from tests.support.mirror import (
    MIRROR_APP,
    Visitor,
    place_in,
)
from tests.support.proxying import (
    GET,
    PROXY,
    V2_START,
    behind_a_proxy,
    by_proxy,
    get,
    refusals,
    v1,
    v2,
)
from tests.support.wire import Wire

STRANGER = "127.0.0.66"


# ---- who is not believed


async def is_closed(wire: Wire) -> None:
    """Wait until the connection is closed without an answer."""
    with contextlib.suppress(ConnectionResetError):  # what it had sent was not read
        assert await wire.rest() == b""


async def test_a_stranger_is_closed() -> None:
    """Whatever it sends; others are served, and it is counted."""
    async with behind_a_proxy() as (cluster, _):
        for data in (b"", GET, v1("203.0.113.9") + GET, v2("203.0.113.9")):
            async with Wire(url_of(cluster, ""), source=STRANGER) as wire:
                if data:
                    wire.writer.write(data)
                await is_closed(wire)
        assert refusals(cluster) == {"untrusted": 4}
        assert (await get(cluster, v1("203.0.113.9"))).status == 200


MALFORMED = {
    "no header": GET,
    "not the name": b"PROXZ TCP4 203.0.113.9 192.0.2.1 1 2\r\n",
    "no such family": b"PROXY TCP5 203.0.113.9 192.0.2.1 1 2\r\n" + GET,
    "no address": b"PROXY TCP4 203.0.113.999 192.0.2.1 1 2\r\n" + GET,
    "other family": b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n" + GET,
    "port too large": b"PROXY TCP4 203.0.113.9 192.0.2.1 65536 2\r\n" + GET,
    "no carriage return": b"PROXY TCP4 203.0.113.9 192.0.2.1 1 2\n" + GET,
    "two spaces": b"PROXY  TCP4 203.0.113.9 192.0.2.1 1 2\r\n" + GET,
    "line without end": b"PROXY TCP4 " + b"1" * 200,
    "version 3": V2_START + pack("!BBH", 0x31, 0x11, 12) + bytes(12),
    "command 2": V2_START + pack("!BBH", 0x22, 0x11, 12) + bytes(12),
    "unknown family": V2_START + pack("!BBH", 0x21, 0x51, 12) + bytes(12),
    "too short": V2_START + pack("!BBH", 0x21, 0x21, 12) + bytes(12),
    "too long": V2_START + pack("!BBH", 0x21, 0x11, 60_000),
    "tls": b"\x16\x03\x01\x02\x00\x01",
}


@pytest.mark.parametrize("policy", ["round_robin", "sticky:path:1"])
async def test_what_is_no_header_is_closed(policy: str) -> None:
    """Without an answer, at once; others live on, and each is counted."""
    async with behind_a_proxy(policy=policy) as (cluster, _), by_proxy(cluster) as other:
        await other.send(v1("203.0.113.9") + GET)
        before = place_in(await other.response())
        for count, data in enumerate(MALFORMED.values(), 1):
            async with by_proxy(cluster) as wire:
                wire.writer.write(data)
                await is_closed(wire)
            assert refusals(cluster) == {"malformed": count}

        assert place_in(await other.get()) == before
        assert {worker.backend.sent for worker in cluster.workers.values()} <= {0, 1}


async def test_a_header_that_never_comes_whole_ends_with_its_time() -> None:
    """Nobody can tell who that would have been."""
    async with behind_a_proxy(peek_timeout=0.05) as (cluster, _):
        for count, data in enumerate(
            (b"", b"PROX", v1("203.0.113.9")[:-1], v2("203.0.113.9")[:20]), 1
        ):
            async with by_proxy(cluster) as wire:
                if data:
                    await wire.send(data)
                await is_closed(wire)
            assert refusals(cluster) == {"timeout": count}
        async with by_proxy(cluster) as wire:
            await wire.send(v1("203.0.113.9")[:9])
            wire.writer.write_eof()
            await is_closed(wire)
        assert refusals(cluster) == {"timeout": 4, "closed": 1}


# ---- with other settings


async def test_each_role_says_for_itself_whether_a_proxy_is_before_it() -> None:
    """What one must not do without, the other does not expect."""
    roles = {
        "web": Role(MIRROR_APP, bind="127.0.0.1:0", proxy_protocol=True, trusted_proxies=PROXY),
        "admin": Role(MIRROR_APP, bind="127.0.0.1:0"),
    }
    async with serving_roles(roles, workers=1) as (cluster, _):
        assert (await get(cluster, v1("203.0.113.9"))).headers["x-remote"] == "203.0.113.9"
        visitor = Visitor(cluster, 3, nth=2)
        async with visitor.connect() as wire:
            await wire.send(visitor.request())
            assert (await wire.response()).headers["x-remote"] == visitor.address


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"trusted_proxies": ()}, "proxy_protocol: give the networks of your proxies"),
        ({"trusted_proxies": "10.0.0.1/8"}, "trusted_proxies: '10.0.0.1/8' is not allowed"),
        ({"trusted_proxies": "proxy.example"}, "'proxy.example' is not allowed"),
        ({"policy": "shared"}, "proxy_protocol: cannot be used with the policy 'shared'"),
        (
            {"policy": {"127.0.0.1:0": "shared"}},
            "proxy_protocol: cannot be used with the policy 'shared'",
        ),
    ],
)
async def test_what_makes_no_sense_is_told(settings: dict[str, Any], cause: str) -> None:
    """Before anything starts."""
    with pytest.raises(ConfigError, match=cause):
        async with behind_a_proxy(**settings):
            raise AssertionError


async def test_who_is_turned_away_is_turned_away() -> None:
    """With all workers full, once it is known who it is."""
    settings = {"workers": 1, "max_connections": 1, "when_full": "503"}
    async with behind_a_proxy(**settings) as (cluster, _), by_proxy(cluster) as one:
        await one.send(v1("203.0.113.9") + GET)
        assert (await one.response()).status == 200
        assert (await get(cluster, v1("203.0.113.8"))).status == 503
        assert (await one.get()).headers["x-remote"] == "203.0.113.9"

"""What a sticky policy looks at is only looked at: every byte arrives, in whatever form it came."""

import asyncio
import os
import socket
import ssl

import pytest

from aiocluster import Cluster, sticky
from aiocluster.policies.sticky import Sticky
from tests.support.candidates import workers
from tests.support.cluster import serving
from tests.support.looks import Looks
from tests.support.mirror import (
    MIRROR_APP,
    Visitor,
    door_of,
    peeker_of,
    place_in,
    soon_true,
    visitors,
    visits,
)
from tests.support.waiting import soon

WORKERS = 4
IN_HEAD = ["header:x-session-id", "cookie:sid", "path:1"]

# What is held is held until all of its head has come, however busy the machine.
FOR_EVER = {"policy": "sticky:header:x-session-id", "peek_timeout": 3600.0}


def slot_by_ip(client: Visitor) -> int:
    """Return the slot of a client of which nothing is known but its address."""
    packed = socket.inet_aton(client.address)
    return Sticky("ip").choose(workers(*range(WORKERS)), packed).slot


def given(cluster: Cluster) -> dict[int, int]:
    """Return how many connections each slot was given so far."""
    return {worker.slot: worker.backend.sent for worker in cluster.workers.values()}


def fallbacks(cluster: Cluster) -> dict[str, int]:
    """Return how often which reason led to a client's address, so far."""
    return door_of(cluster).counts().fallbacks


# ---- all of it arrives


# node: send-socket-to-worker-http-server
@pytest.mark.parametrize("size", [0, 1, 10_000, 500_000])
@pytest.mark.parametrize("by", IN_HEAD)
async def test_a_body_in_the_same_packet_arrives(by: str, size: int) -> None:
    """Smaller and far larger than what is looked at."""
    body = os.urandom(size)
    async with serving(MIRROR_APP, workers=WORKERS, policy=sticky(by)) as (cluster, _):
        for client in visitors(cluster, 6):
            home = await client.visit()
            async with client.connect() as wire:
                await wire.send(client.request(body))
                response = await wire.response()
                assert response.body == body
                assert place_in(response) == home


async def test_pipelined_requests_arrive_in_order() -> None:
    """Those behind the first are its connection's, whoever they say they are."""
    async with serving(MIRROR_APP, workers=WORKERS, policy="sticky:cookie:sid") as (cluster, _):
        clients = visitors(cluster, 8)
        homes = await visits(clients)
        bodies = [os.urandom(3000) for _ in clients]
        pairs = zip(clients, bodies, strict=True)
        stream = b"".join(client.request(body) for client, body in pairs)
        async with clients[0].connect() as wire:
            await wire.send(stream)
            responses = [await wire.response() for _ in clients]

    assert [response.body for response in responses] == bodies
    assert {place_in(response) for response in responses} == {homes[clients[0].name]}


def cuts(head: bytes) -> list[int]:
    """Return where to cut: at the beginning, around each line end and in the middle of lines."""
    ends = [number for number, byte in enumerate(head) if byte == ord("\n")]
    around = {end + off for end in ends for off in (-1, 0, 1, 6)}
    return sorted(cut for cut in {1, *around} if 0 < cut < len(head))


@pytest.mark.parametrize("by", IN_HEAD)
async def test_a_head_cut_anywhere_is_put_together(
    by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client gets the worker that knows it, and that one every byte."""
    body = os.urandom(2000)
    settings = {"workers": WORKERS, "policy": f"sticky:{by}", "peek_timeout": 3600.0}
    looks = Looks(monkeypatch)
    async with serving(MIRROR_APP, **settings) as (cluster, _):
        client = visitors(cluster, 3)[2]
        home = await client.visit()
        request = client.request(body)
        for cut in cuts(request[: -len(body)]):
            async with client.connect() as wire:
                seen, before = looks.count, given(cluster)
                await wire.send(request[:cut])
                # Seen and held, or known already and given to its worker.
                await soon_true(lambda: looks.count > seen or given(cluster) != before)  # noqa: B023
                await wire.send(request[cut:])
                response = await wire.response()
                assert (place_in(response), response.body) == (home, body)
        assert fallbacks(cluster) == {}


async def test_a_head_that_comes_byte_by_byte_is_put_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each byte is seen before the next one is sent, until enough is known."""
    looks = Looks(monkeypatch)
    async with serving(MIRROR_APP, workers=WORKERS, **FOR_EVER) as (cluster, _):
        client = visitors(cluster, 5)[4]
        home, inspector, request = await client.visit(), peeker_of(cluster), client.request(b"body")
        async with client.connect() as wire:
            for number in range(len(request)):
                seen = looks.count
                await wire.send(request[number : number + 1])
                await soon_true(lambda: looks.count > seen or not inspector.held)  # noqa: B023
            response = await wire.response()

    assert (place_in(response), response.body) == (home, b"body")


async def test_a_body_that_follows_in_pieces_arrives() -> None:
    """The worker has the connection before all of the body has come."""
    body = os.urandom(300_000)
    async with serving(MIRROR_APP, workers=WORKERS, **FOR_EVER) as (cluster, _):
        client = visitors(cluster, 1)[0]
        home, before, request = await client.visit(), given(cluster), client.request(body)
        async with client.connect() as wire:
            await wire.send(request[:-200_000])
            await soon_true(lambda: given(cluster) != before)
            for start in range(len(request) - 200_000, len(request), 50_000):
                await wire.send(request[start : start + 50_000])
            response = await wire.response()

    assert (place_in(response), response.body) == (home, body)


async def test_a_client_that_has_sent_all_and_closed_its_side_is_known() -> None:
    """Its end is no reason to go by its address: what to make of it is up to the worker."""
    async with serving(MIRROR_APP, workers=WORKERS, **FOR_EVER) as (cluster, _):
        client = visitors(cluster, 1)[0]
        home = await client.visit()
        before = given(cluster)
        async with client.connect() as wire:
            wire.writer.write(client.request(b"all"))
            wire.writer.write_eof()
            await soon_true(lambda: given(cluster) != before)
        assert given(cluster)[home.slot] == before[home.slot] + 1
        assert fallbacks(cluster) == {}


# ---- nothing to go by: then it is the address


async def test_a_head_that_never_comes_goes_by_the_address() -> None:
    """After peek_timeout; what comes later is answered by that worker."""
    settings = {"policy": "sticky:header:x-session-id", "peek_timeout": 0.05}
    async with serving(MIRROR_APP, workers=WORKERS, **settings) as (cluster, _):
        clients = visitors(cluster, 10)
        for count, client in enumerate(clients, 1):
            async with client.connect() as wire:
                await soon_true(lambda: fallbacks(cluster) == {"timeout": count})  # noqa: B023
                assert (await client.ask(wire)).slot == slot_by_ip(client)

    assert len({slot_by_ip(client) for client in clients}) > 1


async def test_half_a_head_goes_by_the_address_and_is_not_lost() -> None:
    """Its other half is read by the worker."""
    settings = {"policy": "sticky:header:x-session-id", "peek_timeout": 0.05}
    async with serving(MIRROR_APP, workers=WORKERS, **settings) as (cluster, _):
        client = visitors(cluster, 1)[0]
        request = client.request(b"body")
        async with client.connect() as wire:
            await wire.send(request[:25])
            await soon_true(lambda: fallbacks(cluster) == {"timeout": 1})
            await wire.send(request[25:])
            response = await wire.response()

    assert (place_in(response).slot, response.body) == (slot_by_ip(client), b"body")


FILLING = "".join(f"X-Filling-{number}: {'x' * 700}\r\n" for number in range(14))


async def test_a_head_that_is_too_long_goes_by_the_address() -> None:
    """What stands behind its first 8 KiB is not looked for; the request is served all the same."""
    async with serving(MIRROR_APP, workers=WORKERS, **FOR_EVER) as (cluster, _):
        for client in visitors(cluster, 8):
            request = client.request(b"body").replace(b"X-Session", f"{FILLING}X-Session".encode())
            async with client.connect() as wire:
                await wire.send(request)
                response = await wire.response()
                assert (place_in(response).slot, response.body) == (slot_by_ip(client), b"body")
        assert fallbacks(cluster) == {"too_long": 8}


async def test_a_client_without_the_key_goes_by_the_address() -> None:
    """Its request has no such header."""
    async with serving(MIRROR_APP, workers=WORKERS, **FOR_EVER) as (cluster, _):
        for client in visitors(cluster, 8):
            client.headers = {"Accept": "*/*"}
            assert (await client.visit()).slot == slot_by_ip(client)
        assert fallbacks(cluster) == {"absent": 8}


def client_hello() -> bytes:
    """Return what a TLS client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="test")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (client_hello(), "tls"),
        (b"\x16\x99nonsense\r\n\r\n", "not_http"),
        (b"\x00\x01\x02\x03\r\n\r\n", "not_http"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "not_http"),
        (b"GET / HTTP/2.0\r\n\r\n", "not_http"),
        (b"(" * 100_000, "not_http"),
    ],
    ids=["tls", "nearly tls", "binary", "ssh", "http/2", "very long"],
)
async def test_what_is_not_http_goes_by_the_address(data: bytes, reason: str) -> None:
    """At once; the worker is the judge, and says so."""
    async with serving(MIRROR_APP, workers=WORKERS, **FOR_EVER) as (cluster, _):
        for client in visitors(cluster, 4):
            before = given(cluster)
            async with client.connect() as wire:
                await wire.send(data)
                assert (await wire.until(b"\r\n")).startswith(b"HTTP/")
            slots = [slot for slot, count in given(cluster).items() if count > before[slot]]
            assert slots == [slot_by_ip(client)]
        assert fallbacks(cluster) == {reason: 4}


async def test_a_client_that_goes_before_its_head_leaves_nothing() -> None:
    """Closed, or reset: nobody waits for it."""
    async with serving(MIRROR_APP, workers=WORKERS, **FOR_EVER) as (cluster, _):
        inspector = peeker_of(cluster)
        for number, hard in enumerate([True, False] * 5, 1):
            async with Visitor(cluster, number).connect() as wire:
                await wire.send(b"GET /half HTTP/1.1\r\nHo")
                await soon_true(lambda: inspector.held == 1)
                if hard:
                    wire.writer.transport.abort()
            await soon_true(lambda: inspector.held == 0)
            assert fallbacks(cluster) == {"closed": number}
        for worker in cluster.workers.values():
            await soon_true(lambda: worker.backend.open_connections == 0)  # noqa: B023


# ---- at a stop


async def test_half_a_head_at_a_stop_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    """However long it might be waited for otherwise."""
    async with serving(MIRROR_APP, workers=WORKERS, graceful_timeout=3600.0, **FOR_EVER) as (
        cluster,
        _,
    ):
        client = visitors(cluster, 1)[0]
        request = client.request(b"body")
        async with client.connect() as wire, client.connect() as silent:
            await wire.send(request[:25])
            await soon_true(lambda: peeker_of(cluster).held == 2)
            inspector = peeker_of(cluster)
            stopping = asyncio.create_task(cluster.stop())
            await soon_true(lambda: inspector.held == 0)
            await wire.send(request[25:])
            response = await wire.response()
            assert await soon(silent.rest()) == b""
            assert await soon(stopping) == []

    assert (place_in(response).slot, response.body) == (slot_by_ip(client), b"body")
    assert "unserved" not in caplog.text

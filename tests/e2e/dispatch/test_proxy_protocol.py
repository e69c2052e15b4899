"""Behind a proxy that speaks the PROXY protocol, the client is who the proxy says."""

import asyncio
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from struct import pack
from typing import Any

import pytest

from aiocluster.policies.sticky import Sticky
from tests.e2e.start.test_bind_takes_any_address import needs_ipv6
from tests.support.candidates import workers
from tests.support.cluster import kill
from tests.support.looks import Looks
from tests.support.mirror import (
    door_of,
    place_in,
    soon_true,
    visitors,
)
from tests.support.program import Program
from tests.support.proxying import (
    GET,
    PROXY,
    V1_UNKNOWN,
    V2_LOCAL,
    V2_LOCAL_WITH_ADDRESSES,
    WORKERS,
    behind_a_proxy,
    by_proxy,
    get,
    refusals,
    v1,
    v2,
)
from tests.support.upgrading import Upgradable
from tests.support.waiting import soon
from tests.support.wire import Wire

each_version = pytest.mark.parametrize("header", [v1, v2])


# ---- who the client is


@each_version
@pytest.mark.parametrize("client", ["203.0.113.9", "2001:db8::9"])
async def test_a_request_has_the_address_of_the_client(header: Any, client: str) -> None:
    """`request.remote`, of both versions and both families; for all requests of a connection."""
    async with behind_a_proxy() as (cluster, _), by_proxy(cluster) as wire:
        await wire.send(header(client) + GET)
        first = await wire.response()
        second = await wire.get("/again")

    assert [one.headers["x-remote"] for one in (first, second)] == [client, client]
    assert [one.headers["x-path"] for one in (first, second)] == ["/page", "/again"]


@pytest.mark.parametrize(
    "header",
    [V2_LOCAL, V2_LOCAL_WITH_ADDRESSES, V1_UNKNOWN, b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"],
)
async def test_where_no_client_is_named_it_is_the_proxy(header: bytes) -> None:
    """As in a proxy's own health checks."""
    async with behind_a_proxy() as (cluster, _):
        assert (await get(cluster, header)).headers["x-remote"] == PROXY
        assert refusals(cluster) == {}


async def test_what_else_a_proxy_adds_is_passed_over() -> None:
    """Up to 4 KiB of it, as the name of a TLS client, and the request behind it arrives."""
    tlv = bytes([0x20]) + pack("!H", 3000) + b"x" * 3000
    async with behind_a_proxy() as (cluster, _):
        assert (await get(cluster, v2("203.0.113.9", more=tlv))).headers[
            "x-remote"
        ] == "203.0.113.9"


@pytest.mark.parametrize("policy", ["round_robin", "sticky:ip", "sticky:path:1"])
@each_version
async def test_a_header_that_comes_in_pieces_is_put_together(
    header: Any, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is cut, it and the request behind it."""
    stream = header("203.0.113.9") + GET
    looks = Looks(monkeypatch)
    async with behind_a_proxy(policy=policy) as (cluster, _):
        for cut in range(1, len(stream), 3):
            async with by_proxy(cluster) as wire:
                before = looks.count
                await wire.send(stream[:cut])
                await soon_true(lambda: looks.count > before)  # noqa: B023
                await wire.send(stream[cut:])
                response = await wire.response()
                assert response.headers["x-remote"] == "203.0.113.9"
                assert response.headers["x-path"] == "/page"
        assert refusals(cluster) == {}


async def test_a_body_in_the_same_packet_arrives() -> None:
    """Only the header is taken off."""
    body = bytes(range(256)) * 1000
    async with behind_a_proxy() as (cluster, _):
        request = visitors(cluster, 1)[0].request(body)
        async with by_proxy(cluster) as wire:
            await wire.send(v2("203.0.113.9") + request + request)
            assert [(await wire.response()).body for _ in range(2)] == [body, body]


@needs_ipv6
async def test_a_proxy_may_come_by_ipv6() -> None:
    """Trusted by its own address, for clients of either family."""
    async with behind_a_proxy(bind="[::1]:0") as (cluster, _):
        host, port = cluster.addresses[0]
        for client in ("203.0.113.9", "2001:db8::9"):
            async with Wire(f"http://[{host}]:{port}") as wire:
                await wire.send(v1(client) + GET)
                assert (await wire.response()).headers["x-remote"] == client


# ---- policies go by it


def slot_of(address: str) -> int:
    """Return the slot of a client with this IPv4 address."""
    packed = socket.inet_aton(address)
    return Sticky("ip").choose(workers(*range(WORKERS)), packed).slot


@each_version
async def test_sticky_by_ip_goes_by_the_client(header: Any) -> None:
    """Not by the proxy, which all of them have in common."""
    async with behind_a_proxy(policy="sticky") as (cluster, _):
        clients = [f"203.0.113.{number}" for number in range(20)]
        responses = {client: await get(cluster, header(client)) for client in clients}

    slots = {client: place_in(response).slot for client, response in responses.items()}
    assert slots == {client: slot_of(client) for client in clients}
    assert {*slots.values()} == {*range(WORKERS)}


async def test_an_ipv6_network_is_one_client() -> None:
    """Its first 64 bits, also where a proxy tells it."""
    async with behind_a_proxy(policy="sticky") as (cluster, _):
        mine = {place_in(await get(cluster, v2(f"2001:db8:0:7::{n:x}"))).slot for n in range(9)}
        all_of_them = {
            place_in(await get(cluster, v1(f"2001:db8:{n:x}::1"))).slot for n in range(30)
        }

    assert len(mine) == 1
    assert all_of_them == {*range(WORKERS)}


async def test_sticky_by_the_head_falls_back_to_the_client() -> None:
    """Of whom the request says nothing."""
    async with behind_a_proxy(policy="sticky:cookie:sid") as (cluster, _):
        for number in range(8):
            client = f"203.0.113.{number}"
            assert place_in(await get(cluster, v1(client))).slot == slot_of(client)
        assert door_of(cluster).counts().fallbacks == {"absent": 8}


async def test_sticky_by_the_head_finds_it_behind_the_header() -> None:
    """One session has one worker, from whatever address it comes."""
    async with behind_a_proxy(policy="sticky:cookie:sid") as (cluster, _):
        for client in visitors(cluster, 6):
            places = set()
            for number in range(3):
                async with by_proxy(cluster) as wire:
                    await wire.send(v2(f"203.0.113.{number}") + client.request())
                    places.add(place_in(await wire.response()))
            assert len(places) == 1
        assert door_of(cluster).counts().fallbacks == {}


# ---- it stays with the connection


@pytest.mark.parametrize("policy", ["round_robin", "sticky"])
async def test_an_idle_connection_keeps_its_client_over_a_reload(policy: str) -> None:
    """At whichever worker it goes on; a sticky one in its slot. So over a second one."""
    clients = [f"203.0.113.{number}" for number in range(12)]
    async with behind_a_proxy(policy=policy) as (cluster, _), AsyncExitStack() as stack:
        wires = {one: await stack.enter_async_context(by_proxy(cluster)) for one in clients}
        for client, wire in wires.items():
            await wire.send(v1(client) + GET)
        before = {client: place_in(await wire.response()) for client, wire in wires.items()}
        for _ in range(2):
            await cluster.reload()
            for client, wire in wires.items():
                response = await wire.get()
                assert response.headers["x-remote"] == client
                assert place_in(response).worker in cluster.workers
                if policy == "sticky":
                    assert place_in(response).slot == before[client].slot


async def test_what_a_killed_worker_had_not_taken_keeps_its_client() -> None:
    """Another worker answers, and knows who asks."""
    async with behind_a_proxy(workers=1) as (cluster, heard):
        (worker,) = cluster.workers.values()
        kill(worker.pid, signal.SIGSTOP)
        asking = [asyncio.create_task(get(cluster, v2(f"203.0.113.{n}"))) for n in range(5)]
        await soon_true(lambda: worker.backend.queued == 5)
        kill(worker.pid)
        responses = await soon(asyncio.gather(*asking))
        await heard.exit_of(worker)

    assert [one.headers["x-remote"] for one in responses] == [f"203.0.113.{n}" for n in range(5)]
    assert {place_in(one).worker for one in responses} == {worker.id + 1}


APP = """
from aiohttp import web

async def remote(request):
    return web.Response(text=request.remote)

def make_app():
    app = web.Application()
    app.router.add_get("/{rest:.*}", remote)
    return app
"""


async def test_it_stays_over_an_upgrade(tmp_path: Path) -> None:
    """Of a connection that a worker has, of one that is waited for, of one that comes later."""
    settings = {"proxy_protocol": True, "trusted_proxies": PROXY, "peek_timeout": 600}
    program = Upgradable(tmp_path, policy="sticky:cookie:sid", **settings)
    program.write("app.py", APP)
    async with program:
        url = await program.url()
        async with (
            Wire(url, source=PROXY) as kept,
            Wire(url, source=PROXY) as held,
            Wire(url, source=PROXY) as half,
        ):
            await held.send(v1("203.0.113.2") + GET[:9])
            await half.send(v2("203.0.113.3")[:15])
            await kept.send(v1("203.0.113.1") + GET)
            assert (await kept.response()).body == b"203.0.113.1"
            await program.upgrade()
            await held.send(GET[9:])
            await half.send(v2("203.0.113.3")[15:] + GET)
            answers = [await kept.get(), await held.response(), await half.response()]
            async with Wire(url, source=PROXY) as later:
                await later.send(v2("203.0.113.4") + GET)
                answers.append(await later.response())

            # The adopted workers know it as well when they give it back.
            program.send_signal(signal.SIGHUP)
            await program.line("generation 2 serves")
            answers.append(await kept.get())
        assert await program.stop() == 0
        assert "Traceback" not in await program.all_output()

    assert [one.body.decode() for one in answers] == [
        "203.0.113.1",
        "203.0.113.2",
        "203.0.113.3",
        "203.0.113.4",
        "203.0.113.1",
    ]


ACCESS = """
import aiocluster
if __name__ == "__main__":
    aiocluster.run(
        "app:make_app", workers=1, bind="127.0.0.1:0", access_log=True,
        proxy_protocol=True, trusted_proxies="127.0.0.0/8",
    )
"""


async def test_the_access_log_names_the_client(tmp_path: Path) -> None:
    """In the place where the proxy would be."""
    program = Program(tmp_path, ACCESS)
    program.write("app.py", APP)
    async with program, Wire(await program.url()) as wire:
        await wire.send(v1("203.0.113.9") + GET)
        assert (await wire.response()).body == b"203.0.113.9"
        await program.line(r"203\.0\.113\.9 .*GET /page HTTP/1\.1. 200")
        assert await program.stop() == 0

"""The primary accepts, but it is the client whom a handler sees."""

from pathlib import Path

import aiohttp
import pytest

from tests.e2e.start.test_bind_takes_any_address import needs_ipv6
from tests.support.program import Program

SOURCE = """
from aiohttp import web
import aiocluster

async def who(request):
    peer = request.transport.get_extra_info("peername")
    name = request.transport.get_extra_info("sockname")
    return web.json_response([request.remote, *peer[:2], *name[:2]])

def make_app():
    app = web.Application()
    app.router.add_get("/", who)
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=1, bind="{host}:0")
"""


@pytest.mark.parametrize(
    ("host", "client"),
    [("127.0.0.1", "127.0.0.9"), pytest.param("[::1]", "::1", marks=needs_ipv6)],
)
async def test_a_request_has_the_clients_address(tmp_path: Path, host: str, client: str) -> None:
    """`request.remote` and the transport tell the client's real address, and the server's."""
    async with Program(tmp_path, SOURCE.format(host=host)) as program:
        url = await program.url()
        connector = aiohttp.TCPConnector(local_addr=(client, 0))
        async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as reply:
            remote, peer, peer_port, host_there, port_there = await reply.json()
        assert await program.stop() == 0

    assert remote == peer == client
    assert peer_port > 0
    assert f"http://[{host_there}]:{port_there}".replace("[127.0.0.1]", "127.0.0.1") == url

"""Where it can listen, and that it says where it does."""

import re
import socket
from pathlib import Path

import aiohttp
import pytest

from tests.support.program import Program

SOURCE = """
from aiohttp import web
import aiocluster

async def hello(request):
    return web.Response(text="hello")

def make_app():
    app = web.Application()
    app.router.add_get("/", hello)
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=1, bind={bind!r})
"""


def has_ipv6() -> bool:
    """Tell whether this machine has ::1."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no ::1 on this machine")

BINDS = [
    pytest.param("127.0.0.1:0", ["127.0.0.1"], id="one"),
    pytest.param(["127.0.0.1:0", "127.0.0.1:0", "127.0.0.2:0"], ["127.0.0.1"] * 2 + ["127.0.0.2"]),
    pytest.param("[::1]:0", ["[::1]"], id="IPv6", marks=needs_ipv6),
    pytest.param(":0", ["0.0.0.0", "[::]"], id="all interfaces", marks=needs_ipv6),
]


@pytest.mark.parametrize(("bind", "hosts"), BINDS)
async def test_every_address_is_served_and_printed_with_its_real_port(
    tmp_path: Path, bind: str | list[str], hosts: list[str]
) -> None:
    """Port 0 takes a free port; what is printed for each address can be opened."""
    async with Program(tmp_path, SOURCE.format(bind=bind)) as program:
        urls = await program.urls()
        assert [re.sub(r"http://(.*):[1-9]\d*", r"\1", url) for url in urls] == hosts
        for url in urls:
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                assert await response.text() == "hello"
        assert await program.stop() == 0


async def test_a_name_is_resolved(tmp_path: Path) -> None:
    """`localhost` is served on what it means here, and a client finds it by that name."""
    async with Program(tmp_path, SOURCE.format(bind="localhost:0")) as program:
        urls = await program.urls()
        ports = {url.rsplit(":", 1)[1] for url in urls}
        assert len(ports) == 1
        url = f"http://localhost:{ports.pop()}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert await response.text() == "hello"
        assert await program.stop() == 0

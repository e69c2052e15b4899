"""Uploads: whole, in chunks, and up to the app's own limit."""

import hashlib
import random
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import aiohttp
import pytest

from tests.support.program import Program

SOURCE = """
import hashlib
from aiohttp import web
import aiocluster

async def digest(request):
    body = await request.read()
    return web.Response(text=f"{len(body)} {hashlib.sha256(body).hexdigest()}")

async def count(request):
    return web.Response(text=str(sum([len(part) async for part in request.content.iter_any()])))

def make_app(**options):
    app = web.Application(**options)
    app.add_routes([web.post("/digest", digest), web.post("/count", count)])
    return app

if __name__ == "__main__":
    aiocluster.run(lambda: make_app(%s), workers=2, bind="127.0.0.1:0")
"""

MiB = 1 << 20
BODY = random.Random(1).randbytes(10 * MiB)


async def in_parts(body: bytes) -> AsyncIterator[bytes]:
    """Make aiohttp send it chunked, since its length is not known."""
    for start in range(0, len(body), 100_000):
        yield body[start : start + 100_000]


async def test_large_bodies_arrive_whole_up_to_client_max_size(tmp_path: Path) -> None:
    """10 MiB arrive, chunked or not, when the limit is 10 MiB; one byte more is answered 413."""
    expected = f"{len(BODY)} {hashlib.sha256(BODY).hexdigest()}"
    source = SOURCE % f"client_max_size={len(BODY)}"
    async with Program(tmp_path, source) as program:
        url = await program.url()
        async with aiohttp.ClientSession() as session:
            async with session.post(url + "/digest", data=BytesIO(BODY)) as response:
                assert (response.status, await response.text()) == (200, expected)
            async with session.post(url + "/digest", data=in_parts(BODY)) as response:
                assert (response.status, await response.text()) == (200, expected)
            async with session.post(url + "/digest", data=BytesIO(BODY + b"x")) as response:
                assert response.status == 413
            async with session.post(url + "/count", data=in_parts(BODY + b"x")) as response:
                assert await response.text() == str(len(BODY) + 1)  # a stream has no limit
        assert await program.stop() == 0


@pytest.mark.parametrize(("size", "status"), [(MiB, 200), (MiB + 1, 413)])
async def test_the_default_limit_is_that_of_aiohttp(tmp_path: Path, size: int, status: int) -> None:
    """Without a client_max_size of its own an app takes 1 MiB."""
    async with Program(tmp_path, SOURCE % "") as program:
        url = await program.url()
        async with (
            aiohttp.ClientSession() as session,
            session.post(url + "/digest", data=BytesIO(BODY[:size])) as response,
        ):
            assert response.status == status
        assert await program.stop() == 0

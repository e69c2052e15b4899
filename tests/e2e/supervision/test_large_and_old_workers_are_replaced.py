"""max_memory, max_memory_hard and max_age, with workers that grow, and clients that notice."""

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path

import aiohttp
import pytest

from tests.support.program import Program

SOURCE = """
import asyncio, os, time
from aiohttp import web
import aiocluster

held = []

async def pid(request):
    return web.Response(text=str(os.getpid()))

async def grow(request):
    held.append(os.urandom(2**20) * 200)
    return web.Response(text="grown")

async def grow_and_block(request):
    held.append(os.urandom(2**20) * 200)
    while True:
        time.sleep(1)

def make_app():
    app = web.Application()
    app.router.add_post("/", pid)
    app.router.add_post("/grow", grow)
    app.router.add_post("/block", grow_and_block)
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=2, bind="127.0.0.1:0", metrics_interval=0.05, **{settings})
"""

LIMIT = 200 * 2**20


async def post(session: aiohttp.ClientSession, url: str) -> str:
    async with session.post(url) as response:
        assert response.status == 200
        return await response.text()


async def ask_until_seen(url: str, count: int, before: Iterable[str] = ()) -> set[str]:
    """Ask on a connection that is kept until `count` workers have answered; no request fails.

    Those that answered `before` count too: one of them may be gone by now.
    """
    pids = {*before}
    async with aiohttp.ClientSession() as kept:
        while len(pids) < count:
            pids.add(await post(kept, url))
            async with aiohttp.ClientSession() as fresh:
                pids.add(await post(fresh, url))
    return pids


@pytest.mark.parametrize("measure", ["rss", "pss"])
async def test_one_that_has_grown_is_replaced(tmp_path: Path, measure: str) -> None:
    """The new one first, and no request is lost."""
    settings = {"max_memory": LIMIT, "memory_measure": measure}
    async with Program(tmp_path, SOURCE.format(settings=settings)) as program:
        url = await program.url()
        before = await ask_until_seen(url, 2)
        async with aiohttp.ClientSession() as session:
            assert await post(session, url + "/grow") == "grown"
        await ask_until_seen(url, 3, before)
        await program.line(r"exited with code 0 \(memory_limit\)")
        assert await program.stop() == 0


@pytest.mark.parametrize("path", ["/grow", "/block"])
async def test_one_that_is_far_too_large_is_killed(tmp_path: Path, path: str) -> None:
    """Though its loop may be blocked, and reports nothing; another takes its slot."""
    settings = {"max_memory_hard": LIMIT}
    async with Program(tmp_path, SOURCE.format(settings=settings)) as program:
        url = await program.url()
        async with aiohttp.ClientSession() as session:
            with contextlib.suppress(aiohttp.ClientError):
                await post(session, url + path)
        await program.line("more than max_memory_hard")
        await program.line(r"was killed: it had grown too large \(memory_limit\)")
        await program.line("worker 3 .* is ready")
        await ask_until_seen(url, 2)
        assert await program.stop() == 0


async def test_old_ones_are_replaced_one_at_a_time(tmp_path: Path) -> None:
    """Both are due at the same moment; the second waits for the first's successor."""
    async with Program(tmp_path, SOURCE.format(settings={"max_age": 0.5})) as program:
        asking = asyncio.create_task(ask_until_seen(await program.url(), 6))
        await asking
        assert await program.stop() == 0

    story = [line for line in program.lines if "is ready" in line or "(max_age)" in line]
    assert "worker 3" in story[2]  # ready before anybody goes
    assert "too many failures" not in program.output

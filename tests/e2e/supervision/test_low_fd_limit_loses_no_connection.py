"""A worker with a low limit of descriptors is not given more than it can take."""

import asyncio
from pathlib import Path

import pytest

from tests.support.cluster import Client, program_of
from tests.support.program import Program


@pytest.mark.parametrize("policy", ["round_robin", "shared"])
@pytest.mark.parametrize("limit", [48, 128, 512])
async def test_workers_at_their_limit_get_no_more_and_lose_none(
    tmp_path: Path, limit: int, policy: str
) -> None:
    """More clients than two workers have room for: each waits for its turn, all are answered."""
    async with program_of(tmp_path, command=f"ulimit -n {limit}", policy=policy) as program:
        url = (await program.url()).rstrip("/")
        clients = [await Client.connect(url) for _ in range(3 * limit)]
        for client in clients:
            client.send("/who")
        # Each leaves once it has its answer, and so makes room for one that waits.
        await asyncio.gather(*(_answered(client) for client in clients))
        assert await program.stop() == 0
        output = await program.all_output()

    assert "connections lost" not in output
    assert "Traceback" not in output


async def _answered(client: Client) -> None:
    async with client:
        await client.answer()


HUNGRY = """
import asyncio, os
import aiocluster
from aiohttp import web

async def handle(request):
    files = []
    try:
        for _ in range(6):
            files.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    await asyncio.sleep(0.5)
    for file in files:
        os.close(file)
    return web.Response(text="fed")

async def make_app():
    app = web.Application()
    app.router.add_get("/", handle)
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=2, bind="127.0.0.1:0", policy="shared")
"""


async def test_handlers_that_take_every_descriptor_cost_no_client_its_connection(
    tmp_path: Path,
) -> None:
    """Nobody can count what they are about to open; with `shared` who waits is in the backlog."""
    program = Program(tmp_path, HUNGRY)
    program._command = ["sh", "-c", f"ulimit -n 128; exec {' '.join(program._command)}"]
    async with program:
        url = (await program.url()).rstrip("/")
        asked = []
        for _ in range(150):
            # Handlers begin while others connect.
            client = await Client.connect(url)
            client.send("/")
            asked.append(asyncio.create_task(_answered(client)))
            await asyncio.sleep(0)
        await asyncio.gather(*asked)
        assert await program.stop() == 0

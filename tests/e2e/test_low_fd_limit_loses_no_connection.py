"""A worker with a low limit of descriptors is not given more than it can take."""

import asyncio
from pathlib import Path

import pytest

from tests.support.cluster import Client, program_of


@pytest.mark.parametrize("limit", [48, 128, 512])
async def test_workers_at_their_limit_get_no_more_and_lose_none(tmp_path: Path, limit: int) -> None:
    """More clients than two workers have room for: each waits for its turn, all are answered."""
    async with program_of(tmp_path, command=f"ulimit -n {limit}") as program:
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

"""Without a grace an idle keep-alive connection is closed as soon as its worker drains."""

from pathlib import Path

import pytest

from tests.support.cluster import Client, first, gone, kill, program_of, serving

ALONE = {"workers": 1, "restart": "never", "idle_grace": 0}


@pytest.mark.parametrize("requests", [0, 1, 3])
async def test_a_drain_closes_idle_connections_at_once(requests: int) -> None:
    """Whether they have asked something or not, nothing is waited for and nothing is cut."""
    async with serving(keepalive_timeout=3600, **ALONE) as (cluster, _):
        worker = first(cluster)
        async with await Client.connect(cluster) as client:
            for _ in range(requests):
                await client.get("/who")
            exited = await worker.drain()
            await client.closed()

    assert worker.cut == []
    assert exited.code == 0


async def test_stop_closes_idle_connections_at_once() -> None:
    """`stop` cuts nothing where nothing runs."""
    async with serving(workers=2, idle_grace=0) as (cluster, _):
        clients = [await Client.connect(cluster) for _ in range(8)]
        for client in clients:
            await client.get("/who")
        assert await cluster.stop() == []
        for client in clients:
            await client.closed()
            await client.__aexit__()


async def test_idle_connections_do_not_keep_workers_of_a_dead_primary(tmp_path: Path) -> None:
    """They are closed, and the workers go."""
    async with program_of(tmp_path, graceful_timeout=3600, idle_grace=0) as program:
        url = await program.url()
        others = program.descendants()
        async with await Client.connect(url) as client:
            await client.get("/who")
            kill(program.pid)
            await client.closed()
            await gone(others)
        await program.exit_code()

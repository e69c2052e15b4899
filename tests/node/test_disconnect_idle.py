"""Rows of tests/node/test_disconnect.py that wait for idle connections to be closed by a drain."""

from aiocluster import WorkerExited
from tests.support.cluster import Client, first, serving

ALONE = {"workers": 1, "restart": "never"}


# node: rr-handle-close
async def test_idle_keep_alive_connections_do_not_hold_a_draining_worker() -> None:
    """They are closed at once; the worker exits although their clients stay."""
    async with (
        serving(keepalive_timeout=3600, **ALONE) as (cluster, _),
        await Client.connect(cluster) as client,
    ):
        await client.get("/who")
        assert (await first(cluster).drain()).code == 0
        await client.closed()


# node: disconnect
async def test_eight_workers_with_two_ports_stop_and_start_again() -> None:
    """Connect, stop, and all of it once more: the first time left nothing in the way."""
    for _ in range(2):
        async with serving(workers=8, bind=["127.0.0.1:0", "127.0.0.1:0"]) as (cluster, heard):
            urls = [f"http://{host}:{port}" for host, port in cluster.addresses]
            clients = [await Client.connect(url) for url in urls for _ in range(8)]
            for client in clients:
                await client.get("/who")
            assert await cluster.stop() == []
            for client in clients:
                await client.closed()
                await client.__aexit__()
        assert len(heard.of_kind(WorkerExited)) == 8

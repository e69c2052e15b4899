"""A draining worker's idle connections go on at another worker, and their clients see nothing."""

import json

import pytest

from aiocluster import Cluster
from tests.support.cluster import Client, serving

CLIENTS = 50

# So that what holds a drain up, or closes a connection, is never a timeout.
PATIENT = {"graceful_timeout": 3600.0, "keepalive_timeout": 3600.0}


async def connect(cluster: Cluster, count: int) -> list[Client]:
    return [await Client.connect(cluster) for _ in range(count)]


async def who(client: Client) -> int:
    """Return the pid that answers on this connection."""
    pid: int = json.loads(await client.get("/who"))["pid"]
    return pid


async def close(clients: list[Client]) -> None:
    for client in clients:
        await client.__aexit__()


@pytest.mark.parametrize("asked", [True, False], ids=["used", "fresh"])
async def test_every_client_goes_on_on_its_connection(asked: bool) -> None:
    """Fifty connections over two workers; one drains, and the other answers them all."""
    async with serving(restart="never", **PATIENT) as (cluster, _):
        clients = await connect(cluster, CLIENTS)
        if asked:
            pids = [await who(client) for client in clients]
            assert len(set(pids)) == 2
        drained, other = cluster.workers.values()
        exited = await drained.drain()
        answers = {await who(client) for client in clients}
        again = {await who(client) for client in clients}
        await close(clients)

    assert answers == again == {other.pid}
    assert (exited.code, drained.cut) == (0, [])

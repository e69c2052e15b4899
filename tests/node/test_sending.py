"""Node's row on sending both ways at once."""

import asyncio
import contextlib
import json

from aiocluster import WorkerMessage
from aiocluster.ipc.channel import WINDOW_BYTES
from tests.support.cluster import OBEDIENT_APP, Client, first, serving
from tests.support.waiting import soon

CLIENTS = 200


# node: send-deadlock
async def test_connections_given_and_given_back_at_the_same_time_all_arrive() -> None:
    """Two of three workers give back their idle clients while as many new ones come."""
    async with serving(workers=3) as (cluster, _heard), contextlib.AsyncExitStack() as stack:

        async def connect() -> Client:
            return await stack.enter_async_context(await Client.connect(cluster))

        idle = await asyncio.gather(*(connect() for _ in range(CLIENTS)))
        await asyncio.gather(*(client.get("/who") for client in idle))
        exits = [cluster.workers[worker_id].drain() for worker_id in (1, 2)]
        new = await asyncio.gather(*(connect() for _ in range(CLIENTS)))
        exited = await soon(asyncio.gather(*exits))
        answers = [json.loads(await soon(client.get("/who"))) for client in [*idle, *new]]

    assert [(exit_.code, exit_.voluntary) for exit_ in exited] == [(0, True)] * 2
    assert not {answer["id"] for answer in answers} & {1, 2}


# node: send-deadlock
async def test_messages_that_fill_both_windows_at_once_all_arrive() -> None:
    """Each side sends four windows' worth while the other does the same."""
    size, count = WINDOW_BYTES // 2, 8
    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):
        worker = first(cluster)
        sends = [worker.send(["send_bytes", size]) for _ in range(count)]
        sends += [worker.send(["echo", bytes(size)]) for _ in range(count)]
        await soon(asyncio.gather(*sends))
        await heard.next(WorkerMessage, nth=2 * count)
        await cluster.stop()

    assert {len(message) for message in heard.messages(worker)} == {size}

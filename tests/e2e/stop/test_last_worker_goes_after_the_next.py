"""A drain never leaves nobody serving: the last worker goes when the next one is ready."""

import json
import signal

from tests.support.cluster import Client, first, kill, serving, who_answers


async def test_a_term_to_the_only_worker_loses_nothing() -> None:
    """Its connections go on at the next one, and new ones are answered all the while."""
    async with serving(workers=1, min_uptime=0) as (cluster, heard):
        worker = first(cluster)
        async with await Client.connect(cluster) as idle, await Client.connect(cluster) as used:
            await idle.get("/who")
            kill(worker.pid, signal.SIGTERM)
            while json.loads(await used.get("/who"))["id"] == worker.id:
                await who_answers(cluster)
            exited = await heard.exit_of(worker)

            successor = first(cluster)
            assert json.loads(await idle.get("/who"))["id"] == successor.id
    assert (exited.code, exited.voluntary, exited.reason) == (0, True, "drain")
    kinds = [(type(event).__name__, event.worker.id) for event in heard.about_workers()]
    assert kinds.index(("WorkerListening", successor.id)) < kinds.index(("WorkerExited", worker.id))

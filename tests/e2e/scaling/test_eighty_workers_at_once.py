"""Many more workers than cores: all start, all serve, all hear, all stop."""

from aiocluster import WorkerMessage
from tests.support.cluster import OBEDIENT_APP, serving, who_answers


# node: child-process-pass-fd
async def test_eighty_workers_serve_hear_and_stop() -> None:
    """Each of 80 is given a connection in its turn and a message, and ends well."""
    async with serving(OBEDIENT_APP, workers=80) as (cluster, heard):
        answers = sorted([(await who_answers(cluster))["slot"] for _ in range(80)])
        took = await cluster.broadcast(["echo", "hello"])
        await heard.next(WorkerMessage, nth=80)
        senders = sorted(event.worker.id for event in heard.of_kind(WorkerMessage))
        assert await cluster.stop() == []

    assert answers == [*range(80)]
    assert took == 80
    assert senders == [*range(1, 81)]

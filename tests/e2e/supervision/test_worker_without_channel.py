"""A worker that lost its channel and does not end is killed, and nobody had asked it to go."""

from tests.support.cluster import Client, first, serving


async def test_it_is_killed_after_its_time_and_was_not_voluntary() -> None:
    """Blocked and without a channel: killed after graceful_timeout, reason "disconnected"."""
    async with (
        serving(workers=1, restart="never", graceful_timeout=0.1) as (cluster, heard),
        await Client.connect(cluster) as client,
    ):
        worker = first(cluster)
        await client.get("/spin")
        worker.channel.abort()
        exited = await heard.exit_of(worker)

    assert (exited.signal, exited.reason, exited.voluntary) == (9, "disconnected", False)

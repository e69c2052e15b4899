"""Node's rows on disconnecting, which is draining here."""

import asyncio

import pytest

from aiocluster import (
    WorkerDisconnected,
    WorkerExited,
    WorkerGone,
    WorkerListening,
    WorkerMessage,
)
from tests.support.cluster import (
    OBEDIENT_APP,
    Client,
    ask,
    first,
    serving,
    who_answers,
)

ALONE = {"workers": 1, "restart": "never"}


# node: worker-disconnect
async def test_a_drain_is_voluntary_from_its_beginning_to_its_end() -> None:
    """drain(): disconnected, exited, both voluntary, code 0, the result is the event."""
    async with serving(**ALONE) as (cluster, heard):
        worker = first(cluster)
        exited = await worker.drain()
        assert dict(cluster.workers) == {}

    assert exited is heard.about_workers()[-1]
    assert heard.kinds(worker.id) == ["WorkerDisconnected", "WorkerExited"]
    assert heard.of_kind(WorkerDisconnected)[0].voluntary
    assert (exited.code, exited.signal, exited.voluntary, exited.reason) == (0, None, True, "drain")


# node: disconnect-exitedAfterDisconnect-race
async def test_a_drain_the_worker_asks_for_itself_is_voluntary_too() -> None:
    """The primary knows of it before the worker leaves, so it never looks like a crash."""
    async with serving(OBEDIENT_APP, **ALONE) as (cluster, heard):
        worker = first(cluster)
        await worker.send(["drain"])
        exited = await heard.exit_of(worker)

    assert (exited.code, exited.voluntary, exited.reason) == (0, True, "drain")


# node: kill-disconnect
@pytest.mark.parametrize("how", ["drain", "kill"])
async def test_both_ways_to_send_a_worker_off_are_voluntary(how: str) -> None:
    """drain() and kill(), of the handle."""
    async with serving(**ALONE) as (cluster, _heard):
        worker = first(cluster)
        exited = await (worker.drain() if how == "drain" else worker.kill())

    assert exited.voluntary
    assert exited.reason == how
    assert exited.code == 0


# node: process-disconnect
async def test_a_worker_that_drains_as_soon_as_it_listens_exits_with_0() -> None:
    """Told to go in the very moment it is ready."""
    async with serving(OBEDIENT_APP, **ALONE) as (cluster, heard):

        def drain(event: WorkerListening) -> None:
            cluster.workers[event.worker.id].drain()

        cluster.on(WorkerListening, drain)
        added = await cluster.fork()
        exited = await heard.exit_of(added)

    assert (exited.code, exited.voluntary) == (0, True)


# node: disconnect-leak, disconnect-race
async def test_a_worker_drained_right_after_its_fork_tells_its_end_and_leaves_others() -> None:
    """Whatever it had reached: one disconnect, one exit, voluntary; a worker that starts beside
    it is not disturbed.
    """
    async with serving(restart="never") as (cluster, heard):
        added = await cluster.fork()
        exit_ = added.drain()
        other = await cluster.fork()
        exited = await exit_
        await other.settled
        answers = {(await who_answers(cluster))["id"] for _ in range(3)}

    assert exited.voluntary
    kinds = heard.kinds(added.id)
    assert kinds[-2:] == ["WorkerDisconnected", "WorkerExited"]
    assert "WorkerListening" not in kinds
    assert answers == {1, 2, other.id}


# node: call-and-destroy
async def test_kill_after_drain_is_safe() -> None:
    """Twice drained, then killed, then killed once more when it is dead: one exit."""
    async with serving(restart="never") as (cluster, heard):
        worker = first(cluster)
        worker.drain()
        worker.drain()
        await worker.kill(9)
        await worker.kill(9)
        await worker.drain()

    assert heard.kinds(worker.id) == ["WorkerDisconnected", "WorkerExited"]


# node: worker-destroy
@pytest.mark.parametrize("connected", [True, False])
async def test_a_worker_is_killed_whether_it_is_connected_or_not(connected: bool) -> None:
    """SIGKILL through the handle: at once when it serves, and when it has left its channel."""
    async with serving(**ALONE) as (cluster, heard):
        worker = first(cluster)
        if not connected:
            worker.channel.abort()
            await heard.next(WorkerDisconnected)
        exited = await worker.kill(9)

    # Without its channel a worker goes by itself, and may be quicker than the signal.
    assert exited.signal == 9 or (not connected and exited.code == 0)
    assert len(heard.of_kind(WorkerDisconnected)) == 1
    assert len(heard.of_kind(WorkerExited)) == 1


# node: concurrent-disconnect
async def test_all_workers_drain_at_once_while_each_still_talks() -> None:
    """Eight at once, each sending as it goes: all exit with 0; senders see WorkerGone at most."""
    async with serving(OBEDIENT_APP, workers=8, restart="never") as (cluster, heard):
        workers = [*cluster.workers.values()]

        async def rebroadcast(event: WorkerMessage) -> None:
            await cluster.broadcast(["echo", "again"])

        off = cluster.on(WorkerMessage, rebroadcast)
        await cluster.broadcast(["echo", "first"])
        await heard.message()
        exits = await asyncio.gather(*(worker.drain() for worker in workers))
        off()

    assert [(exited.code, exited.voluntary) for exited in exits] == [(0, True)] * 8


# node: disconnect-before-exit
async def test_a_stop_counts_a_worker_that_has_disconnected_and_not_yet_exited() -> None:
    """`stop` in the middle of a worker's end waits for it like for the others."""
    async with serving(restart="never") as (cluster, heard):
        stopped: list[asyncio.Task[list[str]]] = []

        def stop(event: WorkerDisconnected) -> None:
            if not stopped:
                stopped.append(asyncio.create_task(cluster.stop()))

        cluster.on(WorkerDisconnected, stop)
        worker = first(cluster)
        await worker.drain()
        assert await stopped[0] == []

    assert len(heard.of_kind(WorkerExited)) == 2


# node: disconnect-idle-worker
async def test_a_stop_with_idle_workers_empties_the_map() -> None:
    """Nobody ever connected: they end all the same."""
    async with serving(workers=3) as (cluster, _):
        await cluster.stop()
        assert dict(cluster.workers) == {}


# node: disconnect-unshared-tcp (adapted: no worker holds a listener)
async def test_draining_a_worker_that_was_never_given_a_connection_leaves_the_port_open() -> None:
    """The port is the primary's: the others serve on."""
    async with serving(workers=3, restart="never") as (cluster, _):
        await cluster.workers[3].drain()
        assert {(await who_answers(cluster))["id"] for _ in range(2)} == {1, 2}


# node: disconnect-with-no-workers
async def test_a_stop_without_workers_ends() -> None:
    """All have gone already."""
    async with serving(restart="never", workers=1) as (cluster, _):
        await first(cluster).kill(9)
        assert await cluster.stop() == []


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


# node: shared-leak
async def test_a_connection_that_comes_while_all_drain_is_served_or_waits() -> None:
    """None is reset: the last one serves until the next one does."""
    async with serving(workers=2, restart="always") as (cluster, _heard):
        exits = [worker.drain() for worker in cluster.workers.values()]
        for _ in range(4):
            await who_answers(cluster)  # one of the old, or one of the new
        await asyncio.gather(*exits)
        later = await who_answers(cluster)

    assert later["id"] > 2


# node: worker-no-exit
async def test_a_draining_worker_stays_while_a_request_is_open() -> None:
    """It serves its client to the end, and exits only then."""
    async with serving(OBEDIENT_APP, **ALONE) as (cluster, heard):
        worker = first(cluster)
        holding = asyncio.create_task(ask(cluster, "/hold"))
        await heard.message(lambda message: message == "holding")
        exit_ = worker.drain()
        await worker.send(["echo", "still here"])
        await heard.message(lambda message: message == "still here")
        assert not exit_.done()
        await worker.send(["release"])
        assert await holding == "released"
        assert (await exit_).code == 0


# node: worker-wait-server-close
async def test_a_worker_that_drains_itself_disconnects_after_its_connections_ended() -> None:
    """The disconnect comes after the answer, not before it."""
    order: list[str] = []
    async with serving(OBEDIENT_APP, **ALONE) as (cluster, heard):
        worker = first(cluster)
        cluster.on(WorkerDisconnected, lambda _: order.append("disconnected"))
        async with await Client.connect(cluster) as client:
            client.send("/hold")
            await heard.message(lambda message: message == "holding")
            await worker.send(["drain"])
            await worker.send(["echo", "draining"])
            await heard.message(lambda message: message == "draining")
            assert worker.is_connected
            await worker.send(["release"])
            assert await client.answer() == "released"
            order.append("answered")
        await heard.exit_of(worker)

    # Both happen at about the same moment; what matters is that it was not before the release.
    assert sorted(order) == ["answered", "disconnected"]


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


# node: rr-handle-keep-loop-alive (adapted: a worker without its channel finishes and goes)
async def test_a_worker_that_lost_its_channel_finishes_what_it_has_and_exits() -> None:
    """It cannot be told anything any more, so it does not stay: what it serves is answered."""
    async with serving(OBEDIENT_APP, **ALONE) as (cluster, heard):
        worker = first(cluster)
        async with await Client.connect(cluster) as client:
            client.send("/wait/100")
            async for snapshot in cluster.subscribe(0.01):
                if snapshot.total.requests_in_flight == 1:
                    break
            worker.channel.abort()
            assert await client.answer() == "waited"
        exited = await heard.exit_of(worker)

    assert exited.code == 0
    with pytest.raises(WorkerGone):
        await worker.send("anybody?")

"""Node's rows on listening, where a worker listens by itself; backlog: test_endpoints.py."""

import pytest

from aiocluster import WorkerExited
from tests.support.cluster import first, serving
from tests.support.connections import open_fds
from tests.support.lines import IDLE_JOB, LINE_JOB, connected, port_of, refused, told, who, whose


# node: bind-twice
async def test_of_two_clusters_the_workers_of_the_second_are_told_that_a_port_is_taken() -> None:
    """EADDRINUSE, in each that asks; those of the first serve on."""
    async with serving(LINE_JOB) as (one, heard):
        port = await port_of(one, heard)
        async with serving(IDLE_JOB) as (other, also_heard):
            for worker in other.workers.values():
                answer = await told(also_heard, worker, "listen", "127.0.0.1", port)
                assert answer == ["failed", "EADDRINUSE"]
            assert await whose(port, 2) == {1: 1, 2: 1}


# node: child-index-net, server-restart-rr, server-restart-none
async def test_a_worker_may_close_and_listen_on_any_port_again_and_again() -> None:
    """It is served each time, and what it closed is closed."""
    async with serving(IDLE_JOB, workers=1) as (cluster, heard):
        worker = first(cluster)
        for number in range(3):
            _, port = await told(heard, worker, "listen", "127.0.0.1", 0, nth=2 * number + 1)
            assert await who(port) == worker.id
            assert await told(heard, worker, "close", nth=2 * number + 2) == ["closed"]
            await refused(port)


# node: eaddrinuse, shared-handle-bind-error
async def test_after_a_port_was_freed_a_retry_works() -> None:
    """The one that has it closes it; then the one that was refused may have it."""
    async with serving(IDLE_JOB) as (cluster, heard):
        one, other = cluster.workers.values()
        _, port = await told(heard, one, "listen", "127.0.0.1", 0)
        wanted = ("listen", "127.0.0.1", port)
        assert await told(heard, other, *wanted) == ["failed", "EADDRINUSE"]
        assert await told(heard, one, "close", nth=2) == ["closed"]

        assert await told(heard, other, *wanted, nth=2) == ["serves", port]
        assert await who(port) == other.id


# node: disconnect-unshared-tcp
async def test_one_that_does_not_have_a_server_may_drain_beside_it() -> None:
    """Its own end is a clean one, and those who have it serve on."""
    async with serving(IDLE_JOB, restart="never") as (cluster, heard):
        one, other = cluster.workers.values()
        _, port = await told(heard, one, "listen", "127.0.0.1", 0)
        exited = await other.drain()
        assert await whose(port, 2) == {one.id: 2}

    assert (exited.code, exited.voluntary) == (0, True)


# node: net-listen-ipv6only-false
async def test_three_workers_have_one_port_in_both_families() -> None:
    """Any that is free, and each of them serves both."""
    async with serving(IDLE_JOB, workers=3) as (cluster, heard):
        ports = [
            await told(heard, worker, "listen", None, 0) for worker in cluster.workers.values()
        ]
        port = ports[0][1]
        for host in ("127.0.0.1", "::1") if len(ports[0]) == 3 else ("127.0.0.1",):
            served = set()
            for _ in range(3):
                async with await connected(port, host) as client:
                    served.add(await client.say("who"))
            assert served == {"1", "2", "3"}

    assert {told_port for told_ports in ports for told_port in told_ports[1:]} == {port}


# node: net-listen
async def test_listening_without_a_port_takes_any() -> None:
    """As with asyncio's own servers."""
    async with serving(IDLE_JOB, workers=1) as (cluster, heard):
        _, port = await told(heard, first(cluster), "listen", "127.0.0.1", None)
        assert await who(port) == 1


# node: listening-port
async def test_a_server_knows_its_real_port() -> None:
    """Which is the one where clients come."""
    async with serving(LINE_JOB) as (cluster, heard):
        port = await port_of(cluster, heard)
        assert port > 0
        assert await whose(port, 2) == {1: 1, 2: 1}


# node: net-listen-shared-ports
async def test_a_port_is_shared_unless_a_worker_has_it_for_itself() -> None:
    """By asyncio's own start_server: then it is taken for all others."""
    async with serving(IDLE_JOB) as (cluster, heard):
        one, other = cluster.workers.values()
        shared = await told(heard, one, "listen", "127.0.0.1", 0)
        assert await told(heard, other, "listen", "127.0.0.1", 0) == shared

        _, alone = await told(heard, one, "listen_alone", 0, nth=2)
        taken = ["failed", "EADDRINUSE"]
        assert await told(heard, other, "listen_alone", alone, nth=2) == taken
        assert await told(heard, other, "listen", "127.0.0.1", alone, nth=3) == taken
        assert await whose(alone, 2) == {one.id: 2}


# node: rr-handle-close
async def test_a_worker_that_has_closed_its_servers_may_end() -> None:
    """Nothing holds it."""
    async with serving(LINE_JOB, workers=1, restart="never") as (cluster, heard):
        worker = first(cluster)
        await worker.send(["finish"])
        exited = await heard.exit_of(worker)

    assert (exited.code, exited.reason) == (0, "finished")


# node: worker-disconnect-on-error
async def test_a_worker_that_could_not_listen_drains_as_any() -> None:
    """With nothing left of what it asked for."""
    async with serving(LINE_JOB, workers=1, restart="never") as (cluster, heard):
        worker, port = first(cluster), await port_of(cluster, heard)
        answer = await told(heard, worker, "listen", "127.0.0.1", port, nth=2)
        assert answer == ["failed", "EADDRINUSE"]
        exited = await worker.drain()

    assert (exited.code, exited.voluntary) == (0, True)


# node: worker-wait-server-close
async def test_a_worker_ends_only_when_its_connections_have() -> None:
    """Each in its own time, up to the deadline."""
    async with serving(LINE_JOB, workers=1, restart="never") as (cluster, heard):
        worker, port = first(cluster), await port_of(cluster, heard)
        async with await connected(port) as one, await connected(port) as other:
            for client in (one, other):
                await client.say("hello")
            exit_ = worker.drain()
            for client in (one, other):
                assert await client.say("still here") == "still here"
            assert heard.of_kind(WorkerExited) == []
        exited = await exit_

    assert (exited.code, exited.voluntary) == (0, True)


# node: shared-leak
async def test_who_connects_while_all_workers_drain_leaks_nothing() -> None:
    """Answered or closed; no descriptor stays, here or on the way."""
    before = open_fds()
    async with serving(LINE_JOB, restart="never") as (cluster, heard):
        port = await port_of(cluster, heard)
        exits = [worker.drain() for worker in cluster.workers.values()]
        async with await connected(port):
            for exit_ in exits:
                assert (await exit_).code == 0
        await cluster.wait_empty()

    assert open_fds() == before
    with pytest.raises(ConnectionError):
        await connected(port)


# node: rr-domain-listen
async def test_what_was_set_where_a_server_was_started_is_seen_by_its_callbacks() -> None:
    """Context variables, as with asyncio's own servers."""
    async with serving(IDLE_JOB, workers=1) as (cluster, heard):
        worker = first(cluster)
        await worker.send(["set", "something"])
        _, port = await told(heard, worker, "listen", "127.0.0.1", 0)
        await worker.send(["set", "something else"])
        async with await connected(port) as client:
            assert await client.say("context") == "something"

"""Servers that workers start by themselves: asyncio's, and shared by all that ask for the same."""

import asyncio
import os
import signal
import socket
from collections import Counter
from pathlib import Path

import pytest

from aiocluster import WorkerMessage
from tests.support.cluster import ask, first, kill, serving
from tests.support.lines import IDLE_JOB, LINE_JOB, connected, port_of, refused, told, who, whose
from tests.support.program import PATIENCE, Program

APP = "tests.support.servers:make_app_with_site"
REPOSITORY = Path(__file__).parents[3]


async def test_each_worker_gets_its_share_and_the_primary_shows_no_address_of_it() -> None:
    """Of a line protocol in a job; cluster.addresses are those that were asked for with bind."""
    async with serving(LINE_JOB) as (cluster, heard):
        port = await port_of(cluster, heard)
        assert cluster.addresses == ()
        assert await whose(port, 40) == {1: 20, 2: 20}
        async with await connected(port) as client:
            assert await client.say("hello") == "hello"


async def test_port_0_is_the_same_in_all_workers() -> None:
    """And so is the port of the second one that a worker opens."""
    async with serving(LINE_JOB) as (cluster, heard):
        one, other = cluster.workers.values()
        assert await told(heard, one, "tell") == await told(heard, other, "tell")
        more = await told(heard, one, "listen", "127.0.0.1", 0, nth=2)
        assert more == await told(heard, other, "listen", "127.0.0.1", 0, nth=2)
        assert more != heard.messages(one)[0][1:]
        assert await whose(more[1], 4) == {1: 2, 2: 2}


async def test_the_kernels_error_is_raised_in_the_worker_that_asked() -> None:
    """With errno; when the port is free again a retry works."""
    async with serving(IDLE_JOB) as (cluster, heard):
        worker = first(cluster)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            answer = await told(heard, worker, "listen", "127.0.0.1", port)
            assert answer == ["failed", "EADDRINUSE"]
        answer = await told(heard, worker, "listen", "192.0.2.1", 0, nth=2)
        assert answer == ["failed", "EADDRNOTAVAIL"]

        assert await told(heard, worker, "listen", "127.0.0.1", port, nth=3) == ["serves", port]
        assert await whose(port, 2) == {worker.id: 2}
        assert {message.worker for message in heard.of_kind(WorkerMessage)} == {worker}


async def test_closing_it_in_one_worker_leaves_the_others() -> None:
    """The one that closed may come back; closed by all it is closed."""
    async with serving(LINE_JOB) as (cluster, heard):
        port = await port_of(cluster, heard)
        one, other = cluster.workers.values()
        assert await told(heard, one, "close", nth=2) == ["closed"]
        assert await whose(port, 4) == {other.id: 4}

        assert await told(heard, one, "listen", "127.0.0.1", 0, nth=3) == ["serves", port]
        assert await whose(port, 4) == {one.id: 2, other.id: 2}

        assert await told(heard, one, "close", nth=4) == ["closed"]
        assert await told(heard, other, "close", nth=2) == ["closed"]
        await refused(port)


async def test_a_reload_keeps_the_port_and_loses_nobody() -> None:
    """Who connects one after the other, all the while, is served each time."""
    async with serving(LINE_JOB, min_uptime=0.1) as (cluster, heard):
        port = await port_of(cluster, heard)
        served = Counter[int]()
        over = asyncio.Event()

        async def go_on() -> None:
            while not over.is_set():
                served[await who(port)] += 1

        going_on = asyncio.create_task(go_on())
        await cluster.reload()
        assert await port_of(cluster, heard) == port
        for _ in range(4):
            served[await who(port)] += 1
        over.set()
        await going_on

        assert served.keys() >= {3, 4}
        assert await whose(port, 4) == {3: 2, 4: 2}


async def test_over_a_kill_of_the_only_worker_clients_wait_for_the_next() -> None:
    """On the same port, though that is any that is free."""
    async with serving(LINE_JOB, workers=1) as (cluster, heard):
        port = await port_of(cluster, heard)
        for number in range(1, 4):
            worker = cluster.workers[number]
            kill(worker.pid)
            await heard.exit_of(worker)
            assert await who(port) == number + 1


async def test_what_a_stopped_worker_leaves_goes_to_another() -> None:
    """Stopped, it takes nothing; what it was given is taken back from it."""
    async with serving(LINE_JOB, steal_after=0.1) as (cluster, heard):
        port = await port_of(cluster, heard)
        one, other = cluster.workers.values()
        kill(one.pid, signal.SIGSTOP)
        try:
            assert await whose(port, 6) == {other.id: 6}
        finally:
            kill(one.pid, signal.SIGCONT)


async def test_a_tcp_site_beside_an_app() -> None:
    """Two ports, and each is shared by both workers."""
    async with serving(APP) as (cluster, _):
        port = int(await ask(cluster, "/second"))
        assert int(await ask(cluster, "/second")) == port
        first_site = [await ask(cluster) for _ in range(4)]
        second_site = [await ask(f"http://127.0.0.1:{port}", "/") for _ in range(4)]
        assert len(cluster.addresses) == 1

    assert Counter(first_site) == {"first of 1": 2, "first of 2": 2}
    assert Counter(second_site) == {"second of 1": 2, "second of 2": 2}


async def test_max_connections_holds_for_servers_too() -> None:
    """The next waits in the backlog until one ends."""
    async with serving(LINE_JOB, workers=1, max_connections=1) as (cluster, heard):
        port = await port_of(cluster, heard)
        async with await connected(port) as client:
            assert await client.say("one") == "one"
            waiting = asyncio.create_task(who(port))
            assert await client.say("two") == "two"
            assert not waiting.done()
        assert await waiting == 1


async def test_who_is_turned_away_is_told_nothing_in_another_protocol() -> None:
    """With when_full="503" it is closed, and counted."""
    limits = {"workers": 1, "max_connections": 1, "when_full": "503"}
    async with serving(LINE_JOB, **limits) as (cluster, heard):
        port = await port_of(cluster, heard)
        async with await connected(port) as client:
            assert await client.say("one") == "one"
            async with await connected(port) as other:
                assert await other.say("two") == ""
        snapshot = await anext(cluster.subscribe(0.05))
        assert snapshot.dispatch["web"].shed == 1


async def test_a_stop_serves_who_has_come_and_closes() -> None:
    """Nobody can connect any more, and nothing is cut."""
    async with serving(LINE_JOB) as (cluster, heard):
        port = await port_of(cluster, heard)
        async with await connected(port) as client:
            assert await client.say("hello") == "hello"
            stopping = asyncio.create_task(cluster.stop())
            await refused(port)
            assert await client.say("still") == "still"
        assert await stopping == []


async def test_what_is_open_at_the_deadline_is_cut_and_named(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its callback is cancelled, and shows no traceback for that."""
    async with serving(LINE_JOB, workers=1) as (cluster, heard):
        port = await port_of(cluster, heard)
        async with await connected(port) as client:
            assert await client.say("hello") == "hello"
            assert len(await cluster.stop(0.1)) == 1
            assert await client.say("hello") == ""

    assert f"to 127.0.0.1:{port}" in caplog.text
    assert "Traceback" not in capfd.readouterr().err


AT_BIND = """
import aiocluster
from tests.support.servers import answer

async def job(worker):
    await worker.start_server(answer, "127.0.0.3", {port})
    await worker.stopping()

if __name__ == "__main__":
    aiocluster.run(job, workers=2, bind="127.0.0.3:{port}")
"""


async def test_a_job_may_listen_where_its_program_would_have(tmp_path: Path) -> None:
    """By default that is port 8000, for which a job has no use."""
    with socket.create_server(("127.0.0.3", 0)) as sock:  # nobody else uses that address
        port = sock.getsockname()[1]
    source = AT_BIND.format(port=port)
    async with Program(tmp_path, source, env={"PYTHONPATH": str(REPOSITORY)}) as running:
        await running.line("2 workers")
        async with await connected(port, "127.0.0.3") as client:
            assert await client.say("hello") == "hello"
        assert await running.stop() == 0
        assert "Traceback" not in await running.all_output()


PROGRAM = """
import aiocluster
from tests.support.servers import line_job
if __name__ == "__main__":
    aiocluster.run(line_job, workers=2)
"""


async def test_an_upgrade_keeps_it_all(tmp_path: Path) -> None:
    """The sockets, who serves, and who may come: a worker that dies later is replaced."""
    async with Program(tmp_path, PROGRAM, env={"PYTHONPATH": str(REPOSITORY)}) as running:
        line = await running.line(r"listening on .* \(opened by a worker\)")
        port = int(line.partition(" (opened")[0].rpartition(":")[2])
        await running.line("2 workers")
        async with await connected(port) as client:
            old = await client.say("who")
            running.send_signal(signal.SIGRTMIN)
            await running.line("upgrade: this program goes on with 2 workers")
            assert await client.say("who") == old
        await until_served_by(port, {1, 2})
        assert await whose(port, 4) == {1: 2, 2: 2}

        pids = [worker.pid for worker in running.workers()]
        os.kill(min(pids), signal.SIGKILL)
        await running.line("worker 3 .* is ready")
        await until_served_by(port, {2, 3})
        assert await running.stop() == 0
        assert "Traceback" not in await running.all_output()
    await refused(port)


async def until_served_by(port: int, workers: set[int]) -> None:
    """Wait until each of them serves: a job is ready before it listens."""
    async with asyncio.timeout(PATIENCE):
        while (await whose(port, 2)).keys() != workers:
            continue

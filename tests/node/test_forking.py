"""Node's rows on forking: what a new worker is, has and is told."""

import asyncio
import os
from pathlib import Path

import pytest

from aiocluster import (
    WorkerEvent,
    WorkerExited,
    WorkerListening,
    WorkerMessage,
    current_worker,
    is_primary,
    is_worker,
)
from tests.support.cluster import (
    OBEDIENT_APP,
    Client,
    ask,
    first,
    kill,
    program_of,
    serving,
    who_answers,
)


# node: basic
async def test_a_worker_goes_through_its_states_in_order() -> None:
    """Each event finds the handle in the matching phase; the first worker has id 1."""
    phases: list[tuple[str, str]] = []
    async with serving(workers=1) as (cluster, heard):
        assert first(cluster).id == 1

        def note(event: WorkerEvent) -> None:
            if event.worker.id == 2 and not isinstance(event, WorkerExited):
                phases.append((type(event).__name__, cluster.workers[2].phase.value))

        cluster.on(WorkerEvent, note)
        added = await cluster.fork()
        await heard.next(WorkerListening, lambda event: event.worker is added)
        await added.drain()

    assert phases == [
        ("WorkerForked", "starting"),
        ("WorkerOnline", "online"),
        ("WorkerListening", "ready"),
        ("WorkerDisconnected", "draining"),
    ]
    assert added.phase.value == "exited"


# node: basic
async def test_the_listening_event_has_the_worker_and_its_addresses_and_no_more() -> None:
    """Its fields are part of the interface."""
    async with serving(workers=1) as (cluster, heard):
        await cluster.fork()
        event = await heard.next(WorkerListening)

    assert list(event.__dataclass_fields__) == ["worker", "addresses"]
    assert event.addresses == cluster.addresses


# node: basic
async def test_a_worker_knows_who_it_is_and_the_primary_is_no_worker() -> None:
    """The environment says it in the worker alone; `current_worker()` is None elsewhere."""
    async with serving(workers=1) as (cluster, _):
        names = ("AIOCLUSTER_WORKER_ID", "AIOCLUSTER_SLOT", "AIOCLUSTER_ROLE")
        assert [await ask(cluster, f"/env/{name}") for name in names] == ["1", "0", "web"]

    assert not any(name.startswith("AIOCLUSTER_") for name in os.environ)
    assert is_primary()
    assert not is_worker()
    assert current_worker() is None


# node: basic
async def test_what_wires_a_worker_up_is_not_in_its_environment() -> None:
    """The zygote's own variables are taken out, so that a worker's children do not see them."""
    async with serving(workers=1) as (cluster, _):
        assert await ask(cluster, "/env/AIOCLUSTER_ZYGOTE_FD") == "not set"
        assert await ask(cluster, "/env/AIOCLUSTER_ZYGOTE_NO_PRELOAD") == "not set"


# node: fork-env
async def test_fork_adds_to_the_environment_and_overrides_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One name new, one changed, for this worker alone."""
    monkeypatch.setenv("OVERRIDDEN", "by the primary")
    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):
        old = first(cluster)
        added = await cluster.fork(env={"ADDED": "yes", "OVERRIDDEN": "by fork"})
        for worker in (old, added):
            await worker.send(["tell_env", "ADDED"])
            await worker.send(["tell_env", "OVERRIDDEN"])
            await heard.next(WorkerMessage, nth=2 * worker.id)

    assert [value for *_, value in heard.messages(added)] == ["yes", "by fork"]
    assert [value for *_, value in heard.messages(old)] == [None, "by the primary"]


# node: cwd (adapted: a worker is in the folder that its zygote was started in)
async def test_workers_stay_in_the_folder_the_cluster_was_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later change of folder in the primary moves neither workers nor their replacements."""
    began_in = os.getcwd()
    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):
        monkeypatch.chdir(tmp_path)
        worker = first(cluster)
        await worker.send(["tell_folder"])
        await heard.message(lambda message: message == began_in)
        kill(worker.pid)
        replacement = await heard.replacement_of(worker)
        await replacement.send(["tell_folder"])
        await heard.message(lambda _: heard.messages(replacement) == [began_in])


# node: worker-constructor (adapted: a handle is made by the cluster alone)
async def test_a_new_handle_has_all_its_facts() -> None:
    """`fork` returns a handle that is complete: who it is, where, since when."""
    async with serving(workers=1) as (cluster, _):
        added = await cluster.fork()
        assert cluster.workers[added.id] is added
        assert (added.id, added.slot, added.role, added.generation) == (2, 1, "web", 1)
        assert (added.restarts, added.env) == (0, {})
        assert added.pid > 0
        assert added.started_at > 0
        assert added.is_connected
        assert not added.is_dead


# node: listening-port
async def test_the_port_that_is_told_is_the_one_that_serves() -> None:
    """Port 0 was asked for; what the event says can be connected to."""
    async with serving(workers=1) as (cluster, heard):
        await cluster.fork()
        event = await heard.next(WorkerListening)
        (_, port), *_ = event.addresses
        assert await ask(f"http://127.0.0.1:{port}", "/env/AIOCLUSTER_ROLE") == "web"

    assert port != 0


# node: child-index-net (adapted: the primary binds, once for all)
async def test_two_addresses_with_port_0_are_two_ports_of_the_same_workers() -> None:
    """Each listener has a port of its own, and each worker serves both."""
    async with serving(bind=["127.0.0.1:0", "127.0.0.1:0"]) as (cluster, _):
        urls = [f"http://{host}:{port}" for host, port in cluster.addresses]
        answers = [{(await who_answers(url))["id"] for _ in range(2)} for url in urls]

    assert urls[0] != urls[1]
    assert answers == [{1, 2}, {1, 2}]


# node: fork-closed-channel-segfault
async def test_a_worker_that_exits_on_its_first_connection_takes_nobody_with_it(
    tmp_path: Path,
) -> None:
    """With more connections queued for it, the primary lives and the others are served."""
    async with program_of(tmp_path, behind_after=3600.0, max_failures=100) as program:
        url = (await program.url()).rstrip("/")
        async with await Client.connect(url) as client:
            client.send("/end/_exit/1")
            waiting = [await Client.connect(url) for _ in range(20)]
            for other in waiting:
                other.send("/who")
            await client.closed()
            await program.line("event WorkerListening id=3")
            ends = [await _end_of(other) for other in waiting]
        answers = {(await who_answers(url))["id"] for _ in range(2)}
        assert await program.stop() == 0

    assert ends.count("answered") >= 10
    assert 3 in answers
    assert len(answers) == 2


async def _end_of(client: Client) -> str:
    """Say how a connection ended: nobody may hang."""
    async with client:
        try:
            await client.answer()
        except (ConnectionError, asyncio.IncompleteReadError):
            return "closed"
    return "answered"

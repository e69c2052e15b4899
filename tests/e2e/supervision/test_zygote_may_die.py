"""The zygote is killed: its workers serve on, a new one is started, exits are still known."""

from pathlib import Path

import psutil
import pytest

from aiocluster import Cluster, WorkerExited
from tests.support.cluster import (
    ask,
    end,
    first,
    gone,
    kill,
    logged,
    program_of,
    serving,
    who_answers,
)
from tests.support.program import until


def zygote_of(cluster: Cluster) -> psutil.Process:
    """The parent of a worker."""
    parent = psutil.Process(first(cluster).pid).parent()
    assert parent is not None
    return parent


async def test_workers_serve_on_without_their_zygote(caplog: pytest.LogCaptureFixture) -> None:
    """No worker is lost with it, and the log says what happened."""
    async with serving() as (cluster, heard):
        zygote = zygote_of(cluster)
        kill(zygote.pid)
        await gone([zygote])
        answers = {(await who_answers(cluster))["id"] for _ in range(2)}
        await logged(caplog, f"the zygote (pid {zygote.pid}) is gone")
        events = [*heard.events]

    assert answers == {1, 2}
    assert events == []


@pytest.mark.parametrize(
    ("path", "status"),
    [("/end/_exit/7", (7, None)), ("/end/kill", (None, 9)), ("/end/_exit/0", (0, None))],
)
async def test_a_worker_that_outlived_its_zygote_is_replaced_and_its_exit_known(
    path: str, status: tuple[int | None, int | None]
) -> None:
    """The primary, now its parent, takes its exit status; a new zygote forks the next."""
    async with serving() as (cluster, heard):
        zygote = zygote_of(cluster)
        kill(zygote.pid)
        await gone([zygote])
        dead = await end(cluster, path)
        exited = await heard.exit_of(dead)
        replacement = await heard.replacement_of(dead)
        new_zygote = psutil.Process(replacement.pid).ppid()

    assert (exited.code, exited.signal) == status
    assert replacement.slot == dead.slot
    assert new_zygote != zygote.pid


async def test_the_zygote_and_all_workers_die_at_once_and_all_come_back() -> None:
    """Nothing but the primary is left, and it starts everything again."""
    async with serving() as (cluster, heard):
        dead = [*cluster.workers.values()]
        kill(zygote_of(cluster).pid)
        for worker in dead:
            kill(worker.pid)
        for worker in dead:
            await heard.replacement_of(worker)
        answers = {(await who_answers(cluster))["slot"] for _ in range(2)}
        exits = [await heard.exit_of(worker) for worker in dead]

    assert answers == {0, 1}
    assert [exited.signal for exited in exits] == [9, 9]


async def test_the_zygote_of_a_program_may_die_too(tmp_path: Path) -> None:
    """The next zygote of `run` is the program run again; it forks workers and all stops well."""
    async with program_of(tmp_path) as program:
        url = (await program.url()).rstrip("/")
        zygote = program.zygote()
        (dead, _) = program.workers()
        kill(zygote.pid)
        await program.line("starting a new one")
        kill(dead.pid)
        await program.line(f"event WorkerExited .*pid={dead.pid} code=None signal=9")
        await program.line("event WorkerListening id=3")
        slots = {(await who_answers(url))["slot"] for _ in range(2)}
        children = psutil.Process(program.pid).children(recursive=True)
        code = await program.stop()
        await gone(children)

    assert slots == {0, 1}
    assert code == 0


async def test_a_stopped_zygote_is_replaced_when_it_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does not die of its own, and nobody waits for it for ever."""
    monkeypatch.setattr("aiocluster.primary.processes.zygote_handle._ANSWER_TIMEOUT", 3.0)
    async with serving(graceful_timeout=0.1) as (cluster, heard):
        zygote, dead = zygote_of(cluster), first(cluster)
        zygote.suspend()
        kill(dead.pid)
        await heard.replacement_of(dead)
        exits = [type(event) for event in heard.events].count(WorkerExited)

    # Only the one: giving up a zygote is no reason for its other workers to go.
    assert exits == 1
    assert not zygote.is_running()


async def test_a_fork_asked_for_while_there_is_no_zygote_waits_for_the_next() -> None:
    """`fork` neither fails nor hangs when the zygote has just died."""
    async with serving() as (cluster, _):
        zygote = zygote_of(cluster)
        kill(zygote.pid)
        await gone([zygote])
        added = await cluster.fork(env={"ADDED": "yes"})
        await added.settled
        answers = {await ask(cluster, "/env/ADDED") for _ in range(3)}
        await until(lambda: len(cluster.workers) == 3, "not three workers")

    assert answers == {"yes", "not set"}

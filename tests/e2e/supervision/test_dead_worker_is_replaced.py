"""However a worker dies: its slot is filled again, the event says how, the others serve on."""

import signal
from typing import NamedTuple

import pytest

from tests.support.cluster import ask, end, first, kill, logged, serving, who_answers


class Death(NamedTuple):
    path: str
    code: int | None
    signal: int | None
    reason: str


DEATHS = [
    Death("/end/kill", None, signal.SIGKILL, "signal"),
    Death("/end/fault", None, signal.SIGSEGV, "signal"),
    Death("/end/_exit/7", 7, None, "crash"),
    Death("/end/_exit/0", 0, None, "exit"),
    Death("/end/exit/5", 5, None, "crash"),
    Death("/end/exit_after", 9, None, "crash"),
]


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: death.path)
async def test_a_worker_that_ends_itself_is_replaced_in_its_slot(death: Death) -> None:
    """Same slot, new id and pid, one restart more, and the event tells how it ended."""
    async with serving() as (cluster, heard):
        dead = await end(cluster, death.path)
        exited = await heard.exit_of(dead)
        replacement = await heard.replacement_of(dead)
        answers = [await who_answers(cluster) for _ in range(4)]

    assert (exited.code, exited.signal) == (death.code, death.signal)
    assert (exited.reason, exited.voluntary) == (death.reason, False)
    assert replacement.slot == dead.slot
    assert (replacement.id, replacement.restarts) == (3, 1)
    assert replacement.pid != dead.pid
    assert {answer["slot"] for answer in answers} == {0, 1}
    assert dead.id not in {answer["id"] for answer in answers}


async def test_a_worker_killed_from_outside_is_replaced_while_others_serve() -> None:
    """An operator's SIGKILL is not one of ours: reason "signal", not voluntary."""
    async with serving(workers=3) as (cluster, heard):
        dead = first(cluster)
        kill(dead.pid)
        exited = await heard.exit_of(dead)
        others = {(await who_answers(cluster))["id"] for _ in range(2)}
        replacement = await heard.replacement_of(dead)

    assert (exited.signal, exited.reason, exited.voluntary) == (9, "signal", False)
    assert others <= {2, 3, replacement.id}
    assert replacement.slot == dead.slot


async def test_each_replacement_counts_one_restart_more() -> None:
    """Three deaths in one slot: restarts 0, 1, 2, 3; ids are never used again."""
    async with serving(workers=1) as (cluster, heard):
        worker = first(cluster)
        lives = [(worker.id, worker.restarts)]
        for _ in range(3):
            kill(worker.pid)
            worker = await heard.replacement_of(worker)
            lives.append((worker.id, worker.restarts))

    assert lives == [(1, 0), (2, 1), (3, 2), (4, 3)]


async def test_a_worker_that_crashes_in_a_callback_of_the_loop_does_not_die() -> None:
    """An exception nobody caught is the loop's to log; only an exit ends a worker."""
    async with serving("tests.support.apps:make_obedient_app", workers=1) as (cluster, heard):
        worker = first(cluster)
        await worker.send(["raise"])
        await heard.message(lambda message: message == "raised")
        answer = await who_answers(cluster)

    assert answer["id"] == worker.id


async def test_restart_never_leaves_the_slot_empty() -> None:
    """With restart="never" a dead worker stays away, and the others serve."""
    async with serving(restart="never") as (cluster, heard):
        dead = first(cluster)
        kill(dead.pid)
        await heard.exit_of(dead)
        answers = {(await who_answers(cluster))["id"] for _ in range(4)}
        left = set(cluster.workers)

    assert answers == left == {2}


@pytest.mark.parametrize(("code", "replaced"), [(0, False), (1, True)])
async def test_restart_on_failure_replaces_failures_only(code: int, replaced: bool) -> None:
    """With restart="on_failure" an exit with 0 empties the slot, one with 1 does not."""
    async with serving(restart="on_failure") as (cluster, heard):
        dead = await end(cluster, f"/end/_exit/{code}")
        await heard.exit_of(dead)
        if replaced:
            await heard.replacement_of(dead)
        slots = {(await who_answers(cluster))["slot"] for _ in range(4)}

    assert (dead.slot in slots) is replaced


async def test_a_death_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the worker, its pid and the signal in words."""
    async with serving(workers=1) as (cluster, heard):
        dead = first(cluster)
        kill(dead.pid, signal.SIGABRT)
        await heard.replacement_of(dead)
        await logged(caplog, f"{dead} was killed by signal 6 (Aborted)")
        assert await ask(cluster, "/env/AIOCLUSTER_SLOT") == "0"

"""What a supervisor decides. The spawner is a fake, and the test plays its workers."""

import asyncio
import contextlib
import signal

import pytest

from aiocluster.config.environment import MAX_ENV_BYTES
from aiocluster.errors import BootError, ClusterStopping, ConfigError
from aiocluster.events import (
    WorkerExited,
    WorkerListening,
)
from aiocluster.ipc.messages import Drain, Drained, DrainRequest, Unready
from tests.support.supervision import MakeStage, Stage
from tests.support.waiting import soon, turns
from tests.support.workers import close_taken

# ---- the first start


async def test_start_returns_when_all_are_ready(stage: Stage) -> None:
    """Connections are let in only when there are workers, and evenly from the first."""
    starting = asyncio.create_task(stage.supervisor.start(2))
    first, second = await stage.spawner.next(), await stage.spawner.next()
    first.boot()
    await stage.event(WorkerListening)
    await turns(20)
    assert not starting.done()

    second.boot()
    await soon(starting)

    assert stage.group == ["resume"]
    assert sorted(stage.supervisor.workers) == [1, 2]


async def test_when_nothing_comes_up_start_fails_with_the_first_cause(stage: Stage) -> None:
    """The user sees why, with the traceback, once; and nothing is tried again."""
    starting = asyncio.create_task(stage.supervisor.start(2))
    for _ in range(2):
        worker = await stage.spawner.next()
        worker.fail_to_boot(f"ValueError: no {worker.fork.slot}", "Traceback …")

    with pytest.raises(BootError) as caught:
        await soon(starting)

    assert (caught.value.cause, caught.value.traceback) == ("ValueError: no 0", "Traceback …")
    assert len(stage.spawner.workers) == 2


async def test_when_all_die_without_a_word_start_says_how(
    make_stage: MakeStage,
) -> None:
    """A worker that crashes while it imports cannot tell why; how it ended can be told."""
    stage = await make_stage(restart="never")
    starting = asyncio.create_task(stage.supervisor.start(1))
    worker = await stage.spawner.next()
    worker.die_of(signal.SIGSEGV)

    pid = worker.process.pid
    with pytest.raises(BootError, match=rf"worker 1 \(pid {pid}\) was killed by signal 11 .Segm"):
        await soon(starting)


async def test_when_some_come_up_start_goes_on(stage: Stage) -> None:
    """Half a cluster serves; the rest is tried again."""
    starting = asyncio.create_task(stage.supervisor.start(2))
    good, bad = await stage.spawner.next(), await stage.spawner.next()
    good.boot()
    bad.fail_to_boot("ValueError: no")

    await soon(starting)

    again = await stage.spawner.next()
    assert again.fork.slot == bad.fork.slot


async def test_a_slow_one_does_not_hold_up_the_others_for_ever(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest gets a few seconds, then the cluster serves without it."""
    monkeypatch.setattr("aiocluster.primary.lifecycle.startup._START_TOGETHER", 0.01)
    starting = asyncio.create_task(stage.supervisor.start(2))
    quick = await stage.spawner.next()
    quick.boot()

    await soon(starting)

    assert "1 workers are still starting; serving without them" in caplog.text


# ---- the life of a cluster


async def test_at_max_requests_the_new_one_comes_first(stage: Stage) -> None:
    """The old one is drained only when its successor serves, in the same slot."""
    (old,) = await stage.start(1)
    old.say(DrainRequest("max_requests"))
    new = await stage.spawner.next()
    assert old.said_to_it.empty()
    assert new.fork.slot == old.fork.slot
    new.boot()

    assert await old.hear() == Drain(30.0, moving=True, idle_grace=1.0)
    await stage.dispatch(2)
    assert (close_taken(old), close_taken(new)) == (0, 2)
    old.exit(0)
    assert (await stage.event(WorkerExited)).reason == "max_requests"


async def test_at_max_requests_one_that_has_no_successor_just_ends(
    make_stage: MakeStage,
) -> None:
    """With restart="never" a worker that is due drains, and there is nobody to go on."""
    stage = await make_stage(restart="never")
    (worker,) = await stage.start(1)

    worker.say(DrainRequest("max_requests"))

    assert await worker.hear() == Drain(30.0, moving=False, idle_grace=1.0)


async def test_one_that_is_due_while_the_cluster_stops_just_ends(stage: Stage) -> None:
    """Its last requests may well be those that make it due; what it says after is heard."""
    (worker,) = await stage.start(1)
    name = str(stage.handle(worker))
    stopping = asyncio.create_task(stage.supervisor.stop(5.0))
    await worker.hear()
    worker.say(DrainRequest("max_requests"), Drained(["GET /slow from 127.0.0.1"]))
    await turns(20)
    worker.exit(1)

    assert await soon(stopping) == [name]
    assert len(stage.spawner.workers) == 1


# ---- fork, stop, kill


async def test_a_stop_that_is_announced_is_told_to_all(stage: Stage) -> None:
    """To those who come after, too; they are all still replaced until it begins."""
    one, two = await stage.start(2)
    stage.supervisor.announce_stop()

    for worker in (one, two):
        assert await worker.hear() == Unready()
    one.die_of(signal.SIGKILL)
    successor = await stage.spawner.next()
    assert await successor.hear() == Unready()


@pytest.mark.parametrize("how", ["hurry", "kill_all"])
async def test_between_announcement_and_stop_all_may_be_ended(stage: Stage, how: str) -> None:
    """Nobody is replaced any more then."""
    (worker,) = await stage.start(1)
    stage.supervisor.announce_stop()

    getattr(stage.supervisor, how)()

    worker.exit(0)
    await stage.event(WorkerExited)
    await turns(20)
    assert len(stage.spawner.workers) == 1
    with pytest.raises(ClusterStopping):
        await stage.supervisor.fork({})


async def test_stop_drains_all_and_replaces_nobody(stage: Stage) -> None:
    """Each finishes what it has; when all have, stop returns and names nobody."""
    workers = await stage.start(3)
    stopping = asyncio.create_task(stage.supervisor.stop(5.0))
    for worker in workers:
        assert await worker.hear() == Drain(5.0, moving=False, stopping=True, idle_grace=1.0)
        worker.exit(0)

    assert await soon(stopping) == []
    assert len(stage.spawner.workers) == 3
    assert stage.supervisor.workers == {}
    reasons = [(await stage.event(WorkerExited)).reason for _ in range(3)]
    assert reasons == ["stop"] * 3


async def test_killing_all_ends_a_stop_at_once(stage: Stage) -> None:
    """The second Ctrl-C does not wait."""
    workers = await stage.start(2)
    names = {str(stage.handle(worker)) for worker in workers}
    stopping = asyncio.create_task(stage.supervisor.stop(1000.0))
    await turns()

    stage.supervisor.kill_all()

    assert set(await soon(stopping)) == names


async def test_stop_before_any_start_is_nothing(stage: Stage) -> None:
    """A cluster that failed before its first worker is stopped the same way."""
    assert await soon(stage.supervisor.stop(5.0)) == []


async def test_a_worker_with_too_much_in_its_environment_is_refused(
    make_stage: MakeStage,
) -> None:
    """By who asked for it, who hears why; and no slot is opened for it."""
    half = "x" * (MAX_ENV_BYTES // 2)
    stage = await make_stage(env={"A": half})
    await stage.start(1)

    with pytest.raises(ConfigError, match=r"env of slot 1: .* at most"):
        await stage.supervisor.fork({"B": half})

    assert [slot.number for slot in stage.supervisor.slots] == [0]


async def test_a_stopping_cluster_forks_nobody(stage: Stage) -> None:
    """What comes too late is refused, not half done."""
    await soon(stage.supervisor.stop(0.0))

    with pytest.raises(ClusterStopping):
        await stage.supervisor.fork({})


async def test_a_stop_during_the_start_ends_those_that_are_starting(stage: Stage) -> None:
    """Workers that are not ready yet are drained like the others."""
    starting = asyncio.create_task(stage.supervisor.start(2))
    workers = [await stage.spawner.next() for _ in range(2)]
    starting.cancel()
    stopping = asyncio.create_task(stage.supervisor.stop(0.0))
    for worker in workers:
        assert await worker.hear() == Drain(0.0, moving=False, stopping=True, idle_grace=1.0)
        worker.exit(0)

    assert await soon(stopping) == []
    with contextlib.suppress(asyncio.CancelledError):
        await starting


async def test_a_start_that_is_stopped_before_any_fork_fails_as_a_start_does(
    stage: Stage,
) -> None:
    """Whoever started hears a BootError, whatever the slots were waiting for."""
    stage.spawner.refuse(1000)
    starting = asyncio.create_task(stage.supervisor.start(2))
    await turns()

    await soon(stage.supervisor.stop(0.0))

    with pytest.raises(BootError, match=r"cannot fork|no worker was forked"):
        await soon(starting)

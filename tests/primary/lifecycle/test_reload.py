"""Reloads. The spawners are fakes, one a generation, and the test plays their workers."""

import asyncio
from collections.abc import Sequence

import pytest

from aiocluster.errors import BootError, ClusterStopping
from aiocluster.events import ReloadBegan, Reloaded, ReloadFailed, WorkerExited
from aiocluster.ipc.messages import Drain
from aiocluster.primary.sockets.connection import Connection
from tests.support.connections import close_all
from tests.support.supervision import MakeStage, Stage
from tests.support.waiting import soon, turns, turns_until
from tests.support.workers import FakeSpawner, FakeWorker


async def begin(stage: Stage) -> tuple["asyncio.Task[None]", FakeSpawner]:
    """Begin a reload; return it, and the spawner of the new generation."""
    before = len(stage.spawners)
    reloading = asyncio.create_task(stage.supervisor.reload())
    await turns_until(lambda: len(stage.spawners) > before)
    return reloading, stage.spawner


async def end_drained(workers: Sequence[FakeWorker]) -> None:
    """Let each of them do as it is told: drain and exit."""
    for worker in workers:
        assert isinstance(await worker.hear(), Drain)
        worker.exit(0)


async def boot_all(spawner: FakeSpawner) -> None:
    """Let whoever is started come up."""
    while True:
        (await spawner.next()).boot()


def generations(stage: Stage) -> list[int]:
    """Return those of the workers that serve, in the order of their slots."""
    serving = [worker for worker in stage.supervisor.workers.values() if not worker.is_leaving]
    return [worker.generation for worker in sorted(serving, key=lambda worker: worker.slot)]


# ---- one that succeeds


async def test_each_slot_gets_a_new_worker_before_its_old_one_goes(make_stage: MakeStage) -> None:
    """One at a time; the slot and its restarts are kept; the old zygote goes with its last."""
    stage = await make_stage(min_uptime=0)
    olds = await stage.start(2)
    reloading, spawner = await begin(stage)
    for old in olds:
        new = await spawner.next()
        assert new.fork.slot == old.fork.slot
        assert new.fork.generation == 2
        assert old.said_to_it.empty()
        assert len(spawner.workers) == old.fork.slot + 1
        new.boot()
        await end_drained([old])
    await soon(reloading)

    assert generations(stage) == [2, 2]
    assert [worker.restarts for worker in stage.supervisor.workers.values()] == [1, 1]
    assert (await stage.event(WorkerExited)).reason == "reload"
    await soon(stage.spawners[0].closed.wait())


async def test_a_reload_is_told_when_it_begins_and_when_it_serves(make_stage: MakeStage) -> None:
    """With the number of the generation."""
    stage = await make_stage(min_uptime=0)
    (old,) = await stage.start(1)
    reloading, spawner = await begin(stage)
    await spawner.ready(1)

    assert (await stage.event(ReloadBegan)).generation == 2
    assert (await stage.event(Reloaded)).generation == 2
    assert not reloading.done()  # the old one has not ended yet
    await end_drained([old])
    await soon(reloading)


async def test_a_surge_starts_several_at_one_time(make_stage: MakeStage) -> None:
    """`reload_surge` beside the old ones, and no more."""
    stage = await make_stage(min_uptime=0, reload_surge=2)
    olds = await stage.start(3)
    reloading, spawner = await begin(stage)
    pair = [await spawner.next() for _ in range(2)]
    await turns(20)
    assert len(spawner.workers) == 2

    for worker in pair:
        worker.boot()
    await spawner.ready(1)
    await end_drained(olds)

    await soon(reloading)
    assert generations(stage) == [2, 2, 2]


async def test_the_first_of_them_must_last_before_the_old_one_goes(make_stage: MakeStage) -> None:
    """A deploy that crashes as soon as it is used must not have cost anything."""
    stage = await make_stage(min_uptime=0.2)
    olds = await stage.start(2)
    reloading, spawner = await begin(stage)
    (first,) = await spawner.ready(1)
    await turns_until(lambda: stage.supervisor.workers[first.fork.worker_id].was_ready)
    await turns(50)
    assert olds[0].said_to_it.empty()

    await spawner.ready(1)
    await end_drained(olds)
    await soon(reloading)


async def test_who_must_last_first_is_given_nothing_until_then(make_stage: MakeStage) -> None:
    """So one that crashes as soon as it runs has lost nobody's request."""
    stage = await make_stage(min_uptime=0.2)
    (old,) = await stage.start(1)
    reloading, spawner = await begin(stage)
    (new,) = await spawner.ready(1)
    handle = stage.supervisor.workers[new.fork.worker_id]
    await turns_until(lambda: handle.was_ready)
    await stage.dispatch(4)
    old_handle = stage.handle(old)
    assert (old_handle.backend.queued, handle.backend.queued) == (4, 0)

    assert isinstance(await old.hear(), Drain)
    await stage.dispatch(2)
    assert handle.backend.queued == 2
    close_all([Connection(*pair) for worker in (old, new) for pair in worker.taken()])
    old.exit(0)
    await soon(reloading)


async def test_who_must_last_first_is_better_than_nobody(make_stage: MakeStage) -> None:
    """The old one dies meanwhile, and its own replacement is not there yet."""
    stage = await make_stage(min_uptime=1000)
    (old,) = await stage.start(1)
    _, spawner = await begin(stage)
    (new,) = await spawner.ready(1)
    handle = stage.handle(new)
    await turns_until(lambda: handle.was_ready)
    await stage.dispatch(2)
    assert handle.backend.queued == 0

    old.exit(1)
    await stage.spawners[0].next()
    await stage.dispatch(2)
    assert handle.backend.queued == 2
    close_all([Connection(*pair) for pair in new.taken()])


async def test_a_slot_that_is_opened_meanwhile_is_renewed_as_well(make_stage: MakeStage) -> None:
    """Nobody is left with the old code."""
    stage = await make_stage(min_uptime=0)
    (old,) = await stage.start(1)
    reloading, spawner = await begin(stage)
    new = await spawner.next()
    added = await soon(stage.supervisor.fork({"ROLE": "x"}))
    assert added.generation == 1
    late_old = await stage.spawners[0].next()
    late_old.boot()
    new.boot()
    (late,) = await spawner.ready(1)
    assert late.fork.env["ROLE"] == "x"
    await end_drained([old, late_old])

    await soon(reloading)
    assert generations(stage) == [2, 2]


async def test_a_slot_that_is_opened_while_the_last_must_last_is_renewed(
    make_stage: MakeStage,
) -> None:
    """It is the old generation's, as long as that serves; and the reload ends."""
    stage = await make_stage(min_uptime=0.1)
    (old,) = await stage.start(1)
    second = asyncio.create_task(stage.supervisor.fork({}))
    second_old = await stage.spawner.next()
    second_old.boot()
    await soon(second)
    reloading, spawner = await begin(stage)
    await spawner.ready(1)
    await end_drained([old])
    (new,) = await spawner.ready(1)
    await end_drained([second_old])
    handle = stage.supervisor.workers[new.fork.worker_id]
    await turns_until(lambda: handle.was_ready)
    late = asyncio.create_task(stage.supervisor.fork({}))
    late_old = await stage.spawners[0].next()
    late_old.boot()
    assert (await soon(late)).generation == 1
    await spawner.ready(1)
    await end_drained([late_old])

    await soon(reloading)
    assert generations(stage) == [2, 2, 2]


async def test_a_new_slot_gets_the_new_code_afterwards(make_stage: MakeStage) -> None:
    """And so does the replacement of a worker that crashes."""
    stage = await make_stage(min_uptime=0)
    (old,) = await stage.start(1)
    reloading, spawner = await begin(stage)
    (new,) = await spawner.ready(1)
    await end_drained([old])
    await soon(reloading)

    new.exit(1)
    assert (await spawner.next()).fork.generation == 2
    assert (await soon(stage.supervisor.fork({}))).generation == 2


# ---- one that fails


async def test_code_that_cannot_be_imported_changes_nothing(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller, the event and the log have the cause."""
    stage = await make_stage()
    (old,) = await stage.start(1)
    stage.boot_error = BootError("ImportError: nope", "Traceback …\nImportError: nope\n")

    with pytest.raises(BootError, match="ImportError: nope"):
        await soon(stage.supervisor.reload())

    failed = await stage.event(ReloadFailed)
    assert (failed.generation, failed.cause) == (2, "ImportError: nope")
    assert "Traceback …" in failed.traceback
    assert "ImportError: nope" in caplog.text
    assert old.said_to_it.empty()
    assert generations(stage) == [1]
    assert stage.spawner.closed.is_set()


async def test_a_first_worker_that_cannot_boot_changes_nothing(make_stage: MakeStage) -> None:
    """No old worker has heard of it."""
    stage = await make_stage()
    olds = await stage.start(2)
    reloading, spawner = await begin(stage)
    (await spawner.next()).fail_to_boot("ValueError: no database")

    with pytest.raises(BootError, match="ValueError: no database"):
        await soon(reloading)

    assert all(old.said_to_it.empty() for old in olds)
    assert generations(stage) == [1, 1]
    await soon(spawner.closed.wait())
    assert not stage.spawners[0].closed.is_set()


async def test_a_failure_half_way_puts_old_workers_back(make_stage: MakeStage) -> None:
    """The slots that were renewed get workers of the old generation, ready before the new go."""
    stage = await make_stage(min_uptime=0)
    olds = await stage.start(2)
    reloading, spawner = await begin(stage)
    (new,) = await spawner.ready(1)
    await end_drained([olds[0]])
    (await spawner.next()).fail_to_boot("ValueError: full")

    back = await stage.spawners[0].next()
    assert (back.fork.slot, back.fork.generation) == (0, 1)
    assert new.said_to_it.empty()
    back.boot()
    await end_drained([new])

    with pytest.raises(BootError, match="ValueError: full"):
        await soon(reloading)
    assert generations(stage) == [1, 1]
    assert olds[1].said_to_it.empty()
    await soon(spawner.closed.wait())


async def test_one_that_dies_soon_after_its_start_fails_the_reload(make_stage: MakeStage) -> None:
    """Though it was ready: its code does not last."""
    stage = await make_stage(min_uptime=1000)
    (old,) = await stage.start(1)
    reloading, spawner = await begin(stage)
    (new,) = await spawner.ready(1)
    await turns_until(lambda: stage.supervisor.workers[new.fork.worker_id].was_ready)
    new.exit(1)

    with pytest.raises(BootError, match=r"exited with code 1 \(crash\) soon after its start"):
        await soon(reloading)
    assert old.said_to_it.empty()
    assert generations(stage) == [1]


async def test_one_of_the_first_that_dies_while_the_rest_start_fails_it(
    make_stage: MakeStage,
) -> None:
    """Until all have lasted there is a way back."""
    stage = await make_stage(min_uptime=0.2)
    olds = await stage.start(2)
    reloading, spawner = await begin(stage)
    (first,) = await spawner.ready(1)
    await end_drained([olds[0]])
    second = await spawner.next()
    second.boot()
    await end_drained([olds[1]])
    second.exit(1)

    booting = asyncio.create_task(boot_all(stage.spawners[0]))
    await end_drained([first])
    with pytest.raises(BootError, match="soon after its start"):
        await soon(reloading)
    assert generations(stage) == [1, 1]
    booting.cancel()


async def test_the_old_code_is_tried_until_it_serves_again(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """It did before, so what fails now may pass."""
    stage = await make_stage(min_uptime=0)
    olds = await stage.start(2)
    reloading, spawner = await begin(stage)
    (new,) = await spawner.ready(1)
    await end_drained([olds[0]])
    (await spawner.next()).fail_to_boot("ValueError: full")

    (await stage.spawners[0].next()).fail_to_boot("OSError: for a moment")
    (await stage.spawners[0].next()).boot()
    await end_drained([new])

    with pytest.raises(BootError, match="ValueError: full"):
        await soon(reloading)
    assert "slot 0: no worker of the old generation: OSError: for a moment" in caplog.text


async def test_old_code_that_never_serves_again_holds_nothing_up(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the new code has renewed goes on with it, and the next reload may come."""
    monkeypatch.setattr("aiocluster.primary.lifecycle.reload.FORK_PATIENCE", 0.0)
    stage = await make_stage(min_uptime=0, boot_timeout=0.5)
    olds = await stage.start(2)
    reloading, spawner = await begin(stage)
    (new,) = await spawner.ready(1)
    await end_drained([olds[0]])
    stage.spawners[0].refuse(1000)
    (await spawner.next()).fail_to_boot("ValueError: full")

    with pytest.raises(BootError, match="ValueError: full"):
        await soon(reloading)
    assert "workers of generation 2 serve until they end" in caplog.text
    assert generations(stage) == [2, 1]
    assert new.said_to_it.empty()

    stage.spawners[0].refusals.clear()
    new.exit(1)
    back = await stage.spawners[0].next()
    assert (back.fork.slot, back.fork.generation) == (0, 1)
    await soon(spawner.closed.wait())


async def test_a_way_back_that_fails_is_told_and_ends(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """The new generation forks nobody any more, and the failure is that of the way forward."""
    stage = await make_stage(min_uptime=0)
    olds = await stage.start(2)
    reloading, spawner = await begin(stage)
    (new,) = await spawner.ready(1)
    await end_drained([olds[0]])
    stage.spawners[0].refusals.append(RuntimeError("unexpected"))
    (await spawner.next()).fail_to_boot("ValueError: full")

    with pytest.raises(BootError, match="ValueError: full"):
        await soon(reloading)
    assert (await stage.event(ReloadFailed)).cause == "ValueError: full"
    assert "RuntimeError: unexpected" in caplog.text
    assert "given up, but for workers that cannot be replaced: ValueError: full" in caplog.text
    assert spawner.is_retired
    assert new.said_to_it.empty()


@pytest.mark.parametrize("restart", ["never", "on_failure"])
async def test_no_slot_is_lost_where_the_dead_are_not_replaced(
    make_stage: MakeStage, restart: str
) -> None:
    """So each new one must last before its old one goes, and not only the first."""
    stage = await make_stage(min_uptime=0.05, restart=restart)
    olds = await stage.start(2)
    reloading, spawner = await begin(stage)
    await spawner.ready(1)
    await end_drained([olds[0]])
    second = await spawner.next()
    second.boot()
    await turns_until(lambda: stage.handle(second).was_ready)
    second.exit(0)

    back = await stage.spawners[0].next()
    assert back.fork.slot == 0
    back.boot()
    await end_drained([spawner.workers[0]])
    with pytest.raises(BootError):
        await soon(reloading)
    assert generations(stage) == [1, 1]


async def test_an_error_of_ours_puts_the_old_back_as_well(make_stage: MakeStage) -> None:
    """And is told like any other failure."""
    stage = await make_stage(min_uptime=0)
    (old,) = await stage.start(1)
    reloading, spawner = await begin(stage)
    spawner.refusals.append(RuntimeError("unexpected"))
    with pytest.raises(BootError, match="RuntimeError: unexpected"):
        await soon(reloading)
    failed = await stage.event(ReloadFailed)
    assert failed.cause == "RuntimeError: unexpected"
    assert "Traceback" in failed.traceback
    assert old.said_to_it.empty()
    await soon(spawner.closed.wait())


# ---- beside other things


async def test_asked_for_during_a_reload_one_more_follows(make_stage: MakeStage) -> None:
    """For all who ask meanwhile, since the code may have changed after the import."""
    stage = await make_stage(min_uptime=0)
    (old,) = await stage.start(1)
    reloading, spawner = await begin(stage)
    new = await spawner.next()
    more = [asyncio.create_task(stage.supervisor.reload()) for _ in range(3)]
    await turns(20)
    assert len(stage.spawners) == 2
    new.boot()
    await end_drained([old])
    await soon(reloading)

    await turns_until(lambda: len(stage.spawners) == 3)
    await stage.spawner.ready(1)
    await end_drained([new])
    await soon(asyncio.gather(*more))
    await turns(20)

    assert len(stage.spawners) == 3


async def test_a_crash_during_a_reload_is_replaced_at_once(make_stage: MakeStage) -> None:
    """By the old code as long as the new has not shown that it lasts."""
    stage = await make_stage(min_uptime=0)
    olds = await stage.start(2)
    reloading, spawner = await begin(stage)
    new = await spawner.next()
    olds[1].exit(1)

    stopgap = await stage.spawners[0].next()
    assert (stopgap.fork.slot, stopgap.fork.generation) == (1, 1)
    stopgap.boot()
    new.boot()
    await spawner.ready(1)
    await end_drained([olds[0], stopgap])
    await soon(reloading)


async def test_a_stop_gives_a_reload_up(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever waits for it hears why, also who asked for the next; so does who comes later."""
    stage = await make_stage()
    (old,) = await stage.start(1)
    reloading, spawner = await begin(stage)
    new = await spawner.next()
    queued = asyncio.create_task(stage.supervisor.reload())
    await turns()
    stopping = asyncio.create_task(stage.supervisor.stop(5.0))
    await end_drained([old, new])
    await soon(stopping)

    for reload in (reloading, queued):
        with pytest.raises(ClusterStopping, match="given up"):
            await soon(reload)
    assert caplog.text.count("reload: given up, because the cluster is stopping") == 1
    with pytest.raises(ClusterStopping, match="cannot reload"):
        await soon(stage.supervisor.reload())
    assert stage.supervisor.workers == {}


async def test_both_generations_replace_their_dead_until_a_stop_ends_them(
    make_stage: MakeStage,
) -> None:
    """A stop that was announced gives the reload up; its workers serve on for a while."""
    stage = await make_stage(min_uptime=0)
    olds = await stage.start(2)
    reloading, spawner = await begin(stage)
    (new,) = await spawner.ready(1)
    await end_drained([olds[0]])
    await spawner.next()
    stage.supervisor.announce_stop()
    with pytest.raises(ClusterStopping):
        await soon(reloading)

    new.exit(1)
    olds[1].exit(1)
    assert (await spawner.next()).fork.slot == 0
    assert (await stage.spawners[0].next()).fork.slot == 1
    assert not spawner.is_retired


async def test_who_asked_may_stop_waiting(make_stage: MakeStage) -> None:
    """The reload goes on."""
    stage = await make_stage(min_uptime=0)
    (old,) = await stage.start(1)
    reloading, spawner = await begin(stage)
    reloading.cancel()
    await spawner.ready(1)
    await end_drained([old])

    assert (await stage.event(Reloaded)).generation == 2


async def test_a_stop_does_not_give_up_a_reload_whose_generation_serves(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """The old workers that it still waits for end with all the others."""
    caplog.set_level("INFO")
    stage = await make_stage(min_uptime=0)
    (old,) = await stage.start(1)
    reloading, spawner = await begin(stage)
    (new,) = await spawner.ready(1)
    await stage.event(Reloaded)

    stopping = asyncio.create_task(stage.supervisor.stop(5.0))
    await end_drained([old, new])
    await soon(stopping)

    await soon(reloading)
    assert "given up" not in caplog.text

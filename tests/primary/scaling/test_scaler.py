"""How many workers a role has; the spawner is a fake, and the test plays the workers."""

import asyncio
from typing import Any

import pytest

from aiocluster.config.autoscale import Autoscale
from aiocluster.errors import BootError, ClusterStopping, ConfigError
from aiocluster.events import Scaled
from aiocluster.primary.scaling.scaler import MAX_WORKERS, checked_change
from tests.support.supervision import MakeStage, Stage
from tests.support.waiting import soon, turns
from tests.support.workers import FakeWorker


def scaling(stage: Stage, wanted: int | str, reason: str = "asked for") -> "asyncio.Task[int]":
    return asyncio.create_task(stage.supervisor.scale(wanted, reason))


def slots(stage: Stage) -> list[int]:
    return sorted(slot.number for slot in stage.supervisor.slots)


def let_go(*workers: FakeWorker) -> None:
    """They have drained."""
    for worker in workers:
        worker.exit(0)


async def test_more_are_started_at_one_time(stage: Stage) -> None:
    """It returns when all are ready."""
    await stage.start(1)
    task = scaling(stage, 3)
    second, third = await stage.spawner.next(), await stage.spawner.next()
    second.boot()
    await turns(20)
    assert not task.done()
    third.boot()

    assert await soon(task) == 3
    assert slots(stage) == [0, 1, 2]


async def test_the_highest_slots_go(stage: Stage) -> None:
    """They drain, and are not replaced; it returns when they are gone."""
    workers = await stage.start(3)
    task = scaling(stage, 1)
    scaled = await stage.event(Scaled)
    await turns()
    assert [stage.handle(worker).is_leaving for worker in workers] == [False, True, True]
    let_go(workers[1])
    await turns(20)
    assert not task.done()
    let_go(workers[2])

    assert await soon(task) == 1
    assert slots(stage) == [0]
    assert (scaled.role, scaled.before, scaled.workers) == ("web", 3, 1)
    assert scaled.reason == "asked for"


@pytest.mark.parametrize(("change", "after"), [("+1", 3), ("+2", 4), ("-1", 1), ("+0", 2), (2, 2)])
async def test_a_change_counts_from_what_is_there(
    stage: Stage, change: int | str, after: int
) -> None:
    """A change of nothing is no event, and done at once."""
    workers = await stage.start(2)
    task = scaling(stage, change)
    await turns()
    if after > 2:
        await stage.spawner.ready(after - 2)
    let_go(*workers[after:])

    assert await soon(task) == after


async def test_changes_come_one_after_the_other(stage: Stage) -> None:
    """Each counts from what the one before left; one that drains holds nobody up."""
    workers = await stage.start(2)
    tasks = [scaling(stage, change) for change in ("+1", "-1", "-1", "+1")]
    (third,) = await stage.spawner.ready(1)
    await turns(20)
    (again,) = await stage.spawner.ready(1)
    assert again.fork.slot == 1
    assert not workers[1].process.is_dead
    let_go(third, workers[1])

    assert await soon(asyncio.gather(*tasks)) == [3, 2, 1, 2]
    assert slots(stage) == [0, 1]


async def test_what_was_decided_about_another_number_is_not_done(stage: Stage) -> None:
    """Somebody else was quicker."""
    await stage.start(1)
    first = scaling(stage, 2)
    scaler = stage.supervisor._sizing._scaler
    second = asyncio.create_task(scaler.scale(5, "load", if_there_are=1))
    await stage.spawner.ready(1)

    assert [await soon(first), await soon(second)] == [2, 2]
    assert slots(stage) == [0, 1]


async def test_one_that_does_not_boot_changes_nothing(stage: Stage) -> None:
    """Those that came up beside it go again, and the cause is told."""
    await stage.start(1)
    task = scaling(stage, 3)
    second, third = await stage.spawner.next(), await stage.spawner.next()
    second.boot()
    third.fail_to_boot("ImportError: no such module")
    with pytest.raises(BootError, match="no such module"):
        await soon(task)

    assert slots(stage) == [0]
    assert stage.handle(second).is_leaving


async def test_whoever_listens_hears_that_nothing_has_changed(stage: Stage) -> None:
    """Who counts along by the events counts right, and knows why."""
    await stage.start(1)
    task = scaling(stage, 3)
    more = await stage.event(Scaled)
    second, third = await stage.spawner.next(), await stage.spawner.next()
    second.boot()
    third.fail_to_boot("ImportError: no such module")
    back = await stage.event(Scaled)
    with pytest.raises(BootError):
        await soon(task)

    assert (more.before, more.workers, more.reason) == (1, 3, "asked for")
    assert (back.role, back.before, back.workers) == ("web", 3, 1)
    assert "did not come up: ImportError: no such module" in back.reason


async def test_what_cannot_be_forked_changes_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried for a while, and the kernel's words are the cause."""
    monkeypatch.setattr("aiocluster.primary.supervision.slot._FORK_RETRY", 0.001)
    monkeypatch.setattr("aiocluster.primary.scaling.scaler.FORK_PATIENCE", 0.05)
    await stage.start(1)
    stage.spawner.refuse(100_000)

    with pytest.raises(BootError, match="cannot fork: Resource temporarily unavailable"):
        await soon(scaling(stage, 2))

    stage.spawner.refusals.clear()
    assert slots(stage) == [0]


@pytest.mark.parametrize("wanted", [0, -1, "-2", "-1", "-9999", MAX_WORKERS + 1, "+2000"])
async def test_a_count_that_cannot_be_is_refused(stage: Stage, wanted: int | str) -> None:
    """Nobody goes, nobody comes, and it may be asked again."""
    await stage.start(1)

    with pytest.raises(ConfigError, match=r"scale: -?\d+ workers are not possible; give 1 to 2000"):
        await soon(scaling(stage, wanted))

    assert slots(stage) == [0]
    assert await soon(scaling(stage, 1)) == 1


@pytest.mark.parametrize("wanted", [1, 5, "-1", "+3"])
async def test_by_hand_it_goes_no_further_than_by_load(
    make_stage: MakeStage, wanted: int | str
) -> None:
    """It would be taken back a moment later."""
    stage = await make_stage(autoscale=Autoscale(2, 4))
    await stage.start(2)

    with pytest.raises(ConfigError, match=r"give 2 to 4, the bounds of autoscale"):
        await soon(scaling(stage, wanted))

    assert slots(stage) == [0, 1]


async def test_from_beyond_the_bounds_it_may_come_back(make_stage: MakeStage) -> None:
    """In steps, as autoscale does where some are not ready; but no further away."""
    stage = await make_stage(autoscale=Autoscale(1, 2))
    workers = await stage.start(4)
    with pytest.raises(ConfigError, match="give 1 to 2, the bounds of autoscale"):
        await soon(scaling(stage, "+1"))
    assert await soon(scaling(stage, 4)) == 4

    task = scaling(stage, "-1")
    await turns()
    let_go(workers[3])
    assert await soon(task) == 3
    assert slots(stage) == [0, 1, 2]


@pytest.mark.parametrize("wanted", ["x", "", "+", "-", "3", "+-1", "+1.5", "+\u0661", "+99999"])
def test_what_is_no_change_is_refused(wanted: str) -> None:
    """By name."""
    with pytest.raises(ConfigError, match=r"scale: .* is not allowed; give a count, or a change"):
        checked_change(wanted)


@pytest.mark.parametrize("wanted", [None, 1.0, True, [1], b"+1"])
def test_other_types_are_refused(wanted: Any) -> None:
    """A bool is no count either."""
    with pytest.raises(ConfigError, match=r"scale: .* is not allowed"):
        checked_change(wanted)


async def test_a_stop_ends_what_is_under_way(stage: Stage) -> None:
    """And what is asked afterwards is refused at once."""
    await stage.start(1)
    tasks = [scaling(stage, 2), scaling(stage, 3)]
    await stage.spawner.next()
    stage.supervisor.announce_stop()

    for task in (*tasks, scaling(stage, 4)):
        with pytest.raises(ClusterStopping):
            await soon(task)


async def test_who_asked_may_go_away(stage: Stage) -> None:
    """What it asked for is done nevertheless."""
    await stage.start(1)
    task = scaling(stage, 2)
    (second,) = await stage.spawner.ready(1)
    task.cancel()
    await turns(20)

    assert slots(stage) == [0, 1]
    assert not stage.handle(second).is_leaving


async def test_nobody_upgrades_while_new_ones_are_to_come(stage: Stage) -> None:
    """The next program would not know that all of them must come up, or none."""
    await stage.start(1)
    task = scaling(stage, 2)
    second = await stage.spawner.next()
    assert stage.supervisor.turns.scaling.locked()
    second.boot()
    await soon(task)

    assert not stage.supervisor.turns.scaling.locked()

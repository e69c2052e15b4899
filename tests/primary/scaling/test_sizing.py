"""What changes how many workers a role has, and how many connections each; workers are played."""

import asyncio
import math

import pytest

from aiocluster.config.autoscale import Autoscale
from aiocluster.events import Scaled, WorkerExited
from aiocluster.ipc.messages import GiveBack
from aiocluster.ipc.scoreboard import ACCEPTED
from aiocluster.metrics.snapshot import Report, Snapshot
from tests.support.supervision import MakeStage, Stage
from tests.support.waiting import soon, turns, turns_until
from tests.support.workers import FakeWorker


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look a thousand times a second."""
    monkeypatch.setattr("aiocluster.primary.scaling.sizing._INTERVAL", 0.001)
    monkeypatch.setattr("aiocluster.primary.scaling.rebalancer._INTERVAL", 0.001)


def load_of_two(snapshot: Snapshot) -> float:
    """What two workers can just bear."""
    return 200.0 / len(snapshot.workers)


def following(**more: float) -> dict[str, object]:
    """Settings with which a role has two workers, as soon as the first has figures."""
    known: dict[str, float] = {"up_after": 0.0, "cooldown": 0.0, "down_after": math.inf}
    config = Autoscale(1, 8, metric=load_of_two, target=100.0, **known | more)
    return {"autoscale": config, "metrics_interval": 0.05}


async def start_with_figures(stage: Stage) -> FakeWorker:
    (worker,) = await stage.start(1)
    stage.reporter.report(stage.handle(worker), Report(rss_bytes=1))
    return worker


async def test_a_role_follows_its_load_once_it_has_started(make_stage: MakeStage) -> None:
    """By what its workers report, and saying why."""
    stage = await make_stage(**following())
    await start_with_figures(stage)
    (second,) = await stage.spawner.ready(1)
    scaled = await stage.event(Scaled)

    assert second.fork.slot == 1
    assert (scaled.role, scaled.before, scaled.workers) == ("web", 1, 2)
    assert scaled.reason.startswith("load_of_two 200 over 100")


async def test_without_autoscale_nobody_looks(stage: Stage) -> None:
    """The number stays whatever the load is."""
    await start_with_figures(stage)
    await turns(50)

    assert len(stage.supervisor.slots) == 1
    assert stage.supervisor._sizing._tasks == set()


async def test_a_decision_that_fails_ends_nothing(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """The new one does not come up: that is logged, and it is tried again."""
    stage = await make_stage(**following())
    await start_with_figures(stage)
    (await stage.spawner.next()).fail_to_boot("ValueError: no database")
    await stage.event(WorkerExited)
    (again,) = await stage.spawner.ready(1)
    await turns_until(lambda: len(stage.supervisor.workers) == 2)

    assert again.fork.slot == 1
    assert "role web: no more workers than before: ValueError: no database" in caplog.text


async def test_a_stop_ends_the_following(make_stage: MakeStage) -> None:
    """Also of a decision that is being obeyed: nobody is started only to be stopped."""
    stage = await make_stage(**following())
    await start_with_figures(stage)
    await stage.spawner.next()

    stage.supervisor.announce_stop()
    await turns(20)

    assert stage.supervisor._sizing._tasks == set()


# ---- connections


async def add_one(stage: Stage) -> None:
    scaling = asyncio.create_task(stage.supervisor.scale("+1", "asked for"))
    await stage.spawner.ready(1)
    await soon(scaling)


async def test_new_workers_get_their_share(stage: Stage) -> None:
    """As soon as they are ready, from each that has more."""
    workers = await stage.start(2)
    for worker in workers:
        worker.row[ACCEPTED] = 30
    await add_one(stage)

    assert [await worker.hear() for worker in workers] == [GiveBack(10)] * 2


async def test_where_it_matters_who_has_a_connection_nothing_moves(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither to new ones nor to even them out, and whoever asked for that is told."""
    stage = await make_stage(rebalance=True)
    stage.dispatcher.may_rebalance = False
    worker, other = await stage.start(2)
    worker.row[ACCEPTED] = 30
    await add_one(stage)

    assert "rebalance moves nothing" in caplog.text
    assert stage.supervisor._sizing._tasks == set()
    assert stage.supervisor._sizing._balancer._tasks == set()
    assert worker.said_to_it.empty()
    assert other.said_to_it.empty()


async def test_workers_that_are_apart_are_evened_out_if_that_is_wanted(
    make_stage: MakeStage,
) -> None:
    """From the first start on, for as long as they are."""
    stage = await make_stage(rebalance=True)
    worker, _ = await stage.start(2)
    worker.row[ACCEPTED] = 30
    assert [await worker.hear() for _ in range(2)] == [GiveBack(15)] * 2

    stage.supervisor.announce_stop()
    await turns(20)

    assert stage.supervisor._sizing._balancer._tasks == set()


async def test_unless_it_is_wanted_they_stay_apart(stage: Stage) -> None:
    """Connections move when workers are added, and at no other time."""
    await stage.start(2)

    assert stage.supervisor._sizing._balancer._tasks == set()

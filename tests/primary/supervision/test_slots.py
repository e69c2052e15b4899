"""All slots. The spawner is a fake, and the test plays the workers it starts."""

import errno
import signal
import socket

import pytest

from aiocluster.events import (
    WorkerExited,
    WorkerForked,
)
from aiocluster.ipc.handoff import handoff_pair
from tests.support.connections import open_fds
from tests.support.supervision import MakeStage, Stage
from tests.support.waiting import soon, turns


async def test_a_fork_that_fails_at_first_is_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may be short of something for a moment."""
    monkeypatch.setattr("aiocluster.primary.supervision.slot._FORK_RETRY", 0.001)
    before = open_fds()
    stage.spawner.refuse(3)

    (worker,) = await stage.start(1)

    assert worker.fork.worker_id == 4  # ids are never used again
    worker.close()
    worker.exit(0)
    stage.spawner.refuse(1000)
    await stage.event(WorkerExited)
    await stage.supervisor.stop(0.0)
    assert {fd for fd in open_fds() - before if "scoreboard" not in fd} == set()


async def test_a_slot_is_not_lost_for_want_of_a_descriptor(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of descriptors when a worker is due, it is tried again until there are some."""
    monkeypatch.setattr("aiocluster.primary.supervision.slot._FORK_RETRY", 0.001)
    troubles = [OSError(errno.EMFILE, "Too many open files")] * 3

    def short_of_descriptors() -> tuple[socket.socket, socket.socket]:
        if troubles:
            raise troubles.pop()
        return handoff_pair()

    monkeypatch.setattr("aiocluster.primary.workers.factory.handoff_pair", short_of_descriptors)

    (worker,) = await stage.start(1)

    assert worker.fork.worker_id == 4


async def test_a_dead_worker_is_replaced_in_its_slot(stage: Stage) -> None:
    """The slot keeps its number; the worker has a new id, and its restarts are counted."""
    _, second = await stage.start(2)

    second.die_of(signal.SIGKILL)
    replacement = await stage.spawner.next()

    assert replacement.fork.slot == 1
    assert replacement.fork.worker_id == 3
    await stage.event(WorkerExited)
    handle = (await stage.event(WorkerForked)).worker
    assert handle.restarts == 1


async def test_a_forked_worker_has_its_env_and_so_has_its_replacement(stage: Stage) -> None:
    """A worker with a role of its own keeps it over every restart."""
    await stage.start(1)
    handle = await soon(stage.supervisor.fork({"ROLE": "cron"}))
    worker = await stage.spawner.next()
    assert worker.fork.worker_id == handle.id
    assert worker.fork.env["ROLE"] == "cron"

    worker.exit(1)

    replacement = await stage.spawner.next()
    assert replacement.fork.env["ROLE"] == "cron"
    assert replacement.fork.slot == worker.fork.slot == 1


async def test_a_slot_that_has_ended_can_be_filled_by_fork(
    make_stage: MakeStage,
) -> None:
    """Slot numbers stay as small as they can."""
    stage = await make_stage(restart="never")
    first, _ = await stage.start(2)
    first.exit(0)
    await stage.event(WorkerExited)
    await turns()

    await soon(stage.supervisor.fork({}))

    assert (await stage.spawner.next()).fork.slot == 0

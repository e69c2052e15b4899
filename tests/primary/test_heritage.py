"""A crew leaves what it has, and another takes it: both in this process, workers played."""

import os
from collections.abc import AsyncIterator

import pytest

from aiocluster.config.settings import settings_from
from aiocluster.ipc.estate import Estate, from_bytes, to_bytes
from aiocluster.primary.heritage import Heritage
from aiocluster.primary.lifecycle import Phase
from aiocluster.primary.listeners import Listeners
from tests.support.supervision import Stage
from tests.support.waiting import turns_until


def heritage(stage: Stage, **settings: object) -> Heritage:
    return Heritage(
        settings_from(settings),
        Listeners(lambda batch: None),
        stage.dispatcher,
        stage.reporter,
        stage.generations,
        stage.supervisor,
    )


def duplicated(estate: Estate) -> Estate:
    """What exec does for the next program: the same descriptors, and nobody else has them."""
    text = estate
    crew = [
        _with(
            one,
            outbox=_with(
                one.outbox,
                sender=os.dup(one.outbox.sender),
                receiver=os.dup(one.outbox.receiver),
            ),
            channel=one.channel and _with(one.channel, fd=os.dup(one.channel.fd)),
        )
        for one in text.crew.workers
    ]
    waiting = [(os.dup(fd), listener) for fd, listener in text.waiting]
    return _with(text, crew=_with(text.crew, workers=crew), waiting=waiting)


def _with(record, **fields):  # type: ignore[no-untyped-def]
    import msgspec

    return msgspec.structs.replace(record, **fields)


@pytest.fixture
async def stages() -> AsyncIterator[tuple[Stage, Stage]]:
    """The program that goes, and the one that comes."""
    old, new = Stage(), Stage()
    await old.generations.begin()
    yield old, new


async def hand_over(old: Stage, new: Stage) -> None:
    """Do what an upgrade does, but for the exec."""
    await turns_until(lambda: not old.supervisor.unrest)
    estate = from_bytes(to_bytes(heritage(old).state()))
    taken = duplicated(estate)
    for worker in old.supervisor.workers.values():
        worker.channel._transport.pause_reading()  # type: ignore[union-attr]
    new.scoreboard = new.reporter.scoreboard = new.supervisor._scoreboard = old.scoreboard
    new.supervisor._hiring._scoreboard = old.scoreboard
    new.bus.hold()
    await heritage(new).adopt(taken, 0.0)
    new.bus.release()


async def test_workers_and_slots_go_on(stages: tuple[Stage, Stage]) -> None:
    """Who they are, how they are, and the ids of those to come."""
    old, new = stages
    await old.start(2)
    await hand_over(old, new)

    assert [*new.supervisor.workers] == [1, 2]
    for number, worker in new.supervisor.workers.items():
        before = old.supervisor.workers[number]
        assert (worker.slot, worker.pid, worker.row) == (before.slot, before.pid, before.row)
        assert (worker.phase, worker.was_ready) == (Phase.READY, True)
        assert worker.settled.done()
        assert (worker.born, worker.ready_at) == (before.born, before.ready_at)
    assert {slot.number: slot.incumbent for slot in new.supervisor.slots} == {
        worker.slot: worker for worker in new.supervisor.workers.values()
    }
    assert new.supervisor.state().next_worker_id == 3
    await old.close()

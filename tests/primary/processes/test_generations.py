"""Generations, with spawners that the test plays."""

import asyncio

import pytest

from aiocluster.errors import BootError
from aiocluster.primary.processes.generations import Generations
from tests.support.waiting import soon, turns
from tests.support.workers import FakeSpawner


class Stage:
    """All generations, and their spawners."""

    def __init__(self) -> None:
        self.spawners: list[FakeSpawner] = []
        self.failing: BootError | None = None
        self.generations = Generations(self._new, 60.0)

    def _new(self) -> FakeSpawner:
        spawner = FakeSpawner()
        spawner.boot_error = self.failing
        spawner.zygote_pids = {100 + len(self.spawners)}
        self.spawners.append(spawner)
        return spawner


async def test_the_first_is_the_current_one_until_another_serves() -> None:
    """Numbers count from 1; a new one takes over only when told to."""
    stage = Stage()
    one = await stage.generations.begin()
    two = await stage.generations.begin()
    assert (one.number, two.number) == (1, 2)
    assert stage.generations.current is one

    assert stage.generations.serve(two) is one
    assert stage.generations.current is two


async def test_one_that_cannot_be_imported_leaves_nothing_but_its_number() -> None:
    """Its zygote is ended, and the next has another number."""
    stage = Stage()
    await stage.generations.begin()
    stage.failing = BootError("ImportError: nope")

    with pytest.raises(BootError, match="nope"):
        await stage.generations.begin()

    assert stage.spawners[1].closed.is_set()
    assert stage.generations.next_number == 3
    assert stage.generations.current.number == 1


async def test_a_retired_one_ends_with_its_last_worker() -> None:
    """Not before, since its zygote tells how they ended; its spawner replaces no zygote."""
    stage = Stage()
    generation = await stage.generations.begin()
    stage.generations.joined(generation)
    stage.generations.joined(generation)
    stage.generations.retire(generation)
    stage.generations.left(1)
    await turns()
    assert stage.spawners[0].is_retired
    assert not stage.spawners[0].closed.is_set()

    stage.generations.left(1)

    await soon(stage.spawners[0].closed.wait())
    await turns()
    stage.generations.left(1)  # one that was forked too late for anybody


async def test_one_without_workers_ends_when_it_is_retired() -> None:
    """And once only, however often it is told to."""
    stage = Stage()
    generation = await stage.generations.begin()

    stage.generations.retire(generation)
    stage.generations.retire(generation)
    await asyncio.gather(stage.generations.close(), stage.generations.close())

    assert stage.spawners[0].closed.is_set()


async def test_all_zygotes_there_ever_were_are_known() -> None:
    """An orphan's group may be that of one that is gone."""
    stage = Stage()
    one = await stage.generations.begin()
    stage.generations.serve(await stage.generations.begin())
    stage.generations.retire(one)
    await turns()

    assert stage.generations.zygote_pids == {100, 101}
    assert not stage.generations.knows(4711)
    await stage.generations.close()
    assert stage.generations.zygote_pids == {100, 101}

"""What a cluster starts from; the zygotes are played."""

import asyncio
import os

import msgspec

from aiocluster.ipc.messages import Prepared
from aiocluster.ipc.scoreboard import REQUESTS_BEGUN, Scoreboard, open_row
from aiocluster.primary.generations import GenerationSpawner
from aiocluster.primary.interpreter import Interpreter, StartedZygote
from aiocluster.primary.origin import Origin
from tests.ipc.test_estate import ESTATE, WORKER
from tests.support.connections import open_fds
from tests.support.waiting import soon
from tests.support.zygotes import FakeZygote


class PlayedInterpreter(Interpreter):
    """Becomes the zygote that the test plays."""

    zygote: FakeZygote

    async def start_zygote(self) -> StartedZygote:
        return self.zygote.started


async def started(spawner: GenerationSpawner, zygote: FakeZygote) -> GenerationSpawner:
    zygote.say(Prepared(True, ""))
    await soon(spawner.start(60.0))
    return spawner


async def test_only_the_first_generation_has_the_zygote_that_is_there() -> None:
    """Its code is imported already; every other's is imported anew, in a new interpreter."""
    first, second = FakeZygote(), FakeZygote()
    interpreter = PlayedInterpreter([])
    PlayedInterpreter.zygote = second
    origin = Origin(interpreter, first.started)

    one = await started(origin.new_spawner(), first)
    other = await started(origin.new_spawner(), second)

    assert one.zygote_pids == {first.pid}
    assert other.zygote_pids == {second.pid}
    for zygote in (first, second):
        zygote.close()
    await soon(asyncio.gather(one.close(), other.close()))


def test_without_an_estate_the_scoreboard_is_new() -> None:
    """All its rows are free."""
    scoreboard = Origin(Interpreter([])).scoreboard()

    assert scoreboard.claim() == 0
    scoreboard.close()


def test_the_scoreboard_of_an_estate_goes_on() -> None:
    """With what its workers have counted, and without giving their rows to others."""
    theirs = Scoreboard()
    rows = [theirs.claim() for _ in range(3)]
    row = open_row(theirs.fd, rows[1])
    row[REQUESTS_BEGUN] = 7
    crew = msgspec.structs.replace(
        ESTATE.crew, workers=[msgspec.structs.replace(WORKER, row=rows[1])]
    )
    estate = msgspec.structs.replace(ESTATE, scoreboard=os.dup(theirs.fd), crew=crew)

    ours = Origin(Interpreter([]), estate=estate).scoreboard()

    assert ours.read(rows[1], REQUESTS_BEGUN) == 7
    assert [ours.claim(), ours.claim()] == [rows[0], rows[2]]
    ours.close()
    theirs.close()


def test_closed_it_keeps_no_descriptor_of_its_interpreter() -> None:
    """The pickled app of a Cluster is in one."""
    before = open_fds()
    origin = Origin(Interpreter([], [os.dup(0)]))

    origin.close()
    origin.close()

    assert open_fds() <= before

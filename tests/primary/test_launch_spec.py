"""What a cluster starts from; the zygotes are played."""

import asyncio
import os

import msgspec

from aiocluster.ipc.handover import RoleState
from aiocluster.ipc.messages import Prepared
from aiocluster.ipc.scoreboard import REQUESTS_BEGUN, Scoreboard, open_row
from aiocluster.launch.interpreter import InterpreterSpec, StartedZygote
from aiocluster.primary.launch_spec import LaunchSpec
from aiocluster.primary.processes.generations import GenerationSpawner
from tests.ipc.test_handover import ESTATE, ROLE, WORKER
from tests.support.connections import open_fds
from tests.support.waiting import soon
from tests.support.zygotes import FakeZygote


def played_by(zygote: FakeZygote) -> InterpreterSpec:
    """Return one that becomes the zygote that the test plays."""

    class Played(InterpreterSpec):
        async def start_zygote(self) -> StartedZygote:
            return zygote.started

    return Played([])


async def started(spawner: GenerationSpawner, zygote: FakeZygote) -> GenerationSpawner:
    zygote.say(Prepared(True, ""))
    await soon(spawner.start(60.0))
    return spawner


async def test_only_the_first_generation_has_the_zygote_that_is_there() -> None:
    """Its code is imported already; every other's is imported anew, in a new interpreter."""
    first, second = FakeZygote(), FakeZygote()
    origin = LaunchSpec({"web": played_by(second)}, {"web": first.started})

    one = await started(origin.new_spawner("web"), first)
    other = await started(origin.new_spawner("web"), second)

    assert one.zygote_pids == {first.pid}
    assert other.zygote_pids == {second.pid}
    for zygote in (first, second):
        zygote.close()
    await soon(asyncio.gather(one.close(), other.close()))


async def test_each_role_has_its_own_zygotes() -> None:
    """The first of one and the next of another do not meet."""
    first, second = FakeZygote(), FakeZygote()
    origin = LaunchSpec(
        {"web": InterpreterSpec([]), "jobs": played_by(second)}, {"web": first.started}
    )

    jobs = await started(origin.new_spawner("jobs"), second)
    web = await started(origin.new_spawner("web"), first)

    assert (web.zygote_pids, jobs.zygote_pids) == ({first.pid}, {second.pid})
    for zygote in (first, second):
        zygote.close()
    await soon(asyncio.gather(web.close(), jobs.close()))


def test_zygotes_have_groups_of_their_own_if_their_interpreters_say_so() -> None:
    """Those of a Cluster, not those of a program."""
    cluster = {
        "web": InterpreterSpec([], own_group=True),
        "jobs": InterpreterSpec([], own_group=True),
    }

    assert LaunchSpec(cluster).own_group
    assert not LaunchSpec({"web": InterpreterSpec([]), "jobs": InterpreterSpec([])}).own_group


def test_without_an_estate_the_scoreboard_is_new() -> None:
    """All its rows are free."""
    scoreboard = LaunchSpec({"web": InterpreterSpec([])}).scoreboard()

    assert scoreboard.claim() == 0
    scoreboard.close()


def role_with_row(row: int) -> RoleState:
    crew = msgspec.structs.replace(ROLE.crew, workers=[msgspec.structs.replace(WORKER, row=row)])
    return msgspec.structs.replace(ROLE, crew=crew)


def test_the_scoreboard_of_an_estate_goes_on() -> None:
    """With what the workers of all roles have counted, and without giving their rows to others."""
    theirs = Scoreboard()
    rows = [theirs.claim() for _ in range(3)]
    row = open_row(theirs.fd, rows[1])
    row[REQUESTS_BEGUN] = 7
    roles = {"web": role_with_row(rows[0]), "jobs": role_with_row(rows[1])}
    handover_state = msgspec.structs.replace(ESTATE, scoreboard=os.dup(theirs.fd), roles=roles)

    ours = LaunchSpec({"web": InterpreterSpec([])}, handover_state=handover_state).scoreboard()

    assert ours.read(rows[1], REQUESTS_BEGUN) == 7
    assert [ours.claim(), ours.claim()] == [rows[2], rows[2] + 1]
    ours.close()
    theirs.close()


def test_closed_it_keeps_no_descriptor_of_its_interpreters() -> None:
    """The pickled apps of a Cluster are in some."""
    before = open_fds()
    origin = LaunchSpec(
        {"web": InterpreterSpec([], [os.dup(0)]), "jobs": InterpreterSpec([], [os.dup(0)])}
    )

    origin.close()
    origin.close()

    assert open_fds() <= before

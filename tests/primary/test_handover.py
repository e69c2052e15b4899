"""What the roles leave, and what others take; workers are adopted in tests/e2e."""

import os
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest

from aiocluster.ipc.handover import HandoverState, ListenerState
from aiocluster.ipc.messages import Subscribe
from aiocluster.primary.handover import Handover
from aiocluster.primary.sockets.connection import Connection
from tests.ipc.test_handover import ESTATE, role_without_workers
from tests.support.connections import connections, states_of
from tests.support.roles import Roles
from tests.support.waiting import turns_until


@pytest.fixture
async def roles() -> AsyncIterator[Roles]:
    roles = Roles()
    yield roles
    await roles.close()


def handover(roles: Roles) -> Handover:
    return Handover(roles.cluster_shared, roles.all, roles.workers)


async def test_all_parts_leave_what_they_have(roles: Roles) -> None:
    """Workers and slots, subscriptions, connections that wait, and what comes next."""
    web = roles.add("web", bind="127.0.0.1:0", workers=2)
    first, second = await roles.start("web", 2)
    second.say(Subscribe(5, 0.25))
    await turns_until(lambda: bool(roles.reporter.subscriptions))
    for worker in web.supervisor.workers.values():
        worker.begin_drain("drain")
    web.ingress.dispatch(connections(3), 0.0)
    await turns_until(lambda: not web.supervisor.busy_reason)

    handover_state = handover(roles).state()
    left = handover_state.roles["web"]
    assert (left.bind, left.workers) == (["127.0.0.1:0"], "2")
    assert [(one.worker_id, one.slot, one.phase) for one in left.crew.workers] == [
        (first.fork.worker_id, 0, "draining"),
        (second.fork.worker_id, 1, "draining"),
    ]
    assert [(one.number, one.current) for one in left.crew.slots] == [(0, 1), (1, 2)]
    assert handover_state.next_worker_id == 3
    assert [(one.worker_id, one.interval) for one in handover_state.subscriptions] == [(2, 0.25)]
    assert len(left.waiting) == 3
    assert left.generations.begun == left.generations.current == 1
    assert handover_state.scoreboard == roles.scoreboard.fd
    assert roles.spawner().is_dropped  # a zygote that is not ready would be nobody's


async def test_each_role_leaves_its_own(roles: Roles) -> None:
    """What they share is left once."""
    roles.add("web", bind="127.0.0.1:0", workers=1)
    roles.add("jobs", workers=2)
    await roles.start("web", 1)
    await roles.start("jobs", 2)

    handover_state = handover(roles).state()

    assert [*handover_state.roles] == ["web", "jobs"]
    web, jobs = handover_state.roles.values()
    assert (len(web.listeners), len(jobs.listeners)) == (1, 0)
    assert [(one.worker_id, one.role) for one in web.crew.workers] == [(1, "web")]
    assert [(one.worker_id, one.role) for one in jobs.crew.workers] == [(2, "jobs"), (3, "jobs")]
    assert handover_state.next_worker_id == 4
    assert all(spawner.is_dropped for spawner in map(roles.spawner, ["web", "jobs"]))


def left_with(listening: socket.socket, waiting: list[Connection]) -> HandoverState:
    """Return what is left by a program of two roles, one of which listens."""
    listener = ListenerState(fd=os.dup(listening.fileno()), is_shared=False, asked="127.0.0.1:0")
    web = role_without_workers(listeners=[listener], waiting=states_of(waiting))
    jobs = role_without_workers(bind=[], workers="3", listeners=[])
    return msgspec.structs.replace(ESTATE, subscriptions=[], roles={"web": web, "jobs": jobs})


async def test_other_roles_go_on(roles: Roles, caplog: pytest.LogCaptureFixture) -> None:
    """With the sockets, the totals and the connections; what stays as it was is told."""
    waiting = connections(2)
    web = roles.add("web", bind="127.0.0.1:0", workers=5)
    jobs = roles.add("jobs", workers=3)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        await handover(roles).adopt(left_with(listening, waiting))

    assert web.supervisor.empty.is_set()
    assert jobs.supervisor.empty.is_set()
    assert (web.supervisor.addresses, jobs.supervisor.addresses) == ((address,), ())
    aggregators = roles.reporter.state()
    assert aggregators.of_all == ESTATE.aggregators.of_all
    assert aggregators.of_roles["web"] == ESTATE.aggregators.of_roles["web"]
    assert web.ingress.state() == states_of(waiting)
    assert jobs.ingress.state() == []
    assert roles.cluster_shared.ids.take() == 8
    assert web.generations.current.number == 2
    assert web.generations.next_number == 4
    assert web.generations.zygote_pids == {1}
    assert "workers stays auto: to make it 5 takes a stop and a start" in caplog.text
    assert "bind of role" not in caplog.text
    assert "of role jobs" not in caplog.text

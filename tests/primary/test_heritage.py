"""What a crew leaves, and what another takes; workers are adopted in tests/e2e."""

import asyncio
import os
import socket
from typing import Any

import msgspec
import pytest

from aiocluster.config.settings import settings_from
from aiocluster.ipc.estate import ListenerState
from aiocluster.ipc.messages import Subscribe
from aiocluster.primary.heritage import Heritage
from aiocluster.primary.listeners import Listeners
from tests.ipc.test_estate import ESTATE
from tests.support.connections import connections
from tests.support.supervision import Stage
from tests.support.waiting import turns_until


def heritage(stage: Stage, **settings: Any) -> Heritage:
    """Return the parts of this stage."""
    return Heritage(
        settings_from({"bind": "127.0.0.1:0", **settings}),
        Listeners(lambda batch: None),
        stage.dispatcher,
        stage.reporter,
        stage.generations,
        stage.supervisor,
    )


async def test_all_parts_leave_what_they_have() -> None:
    """Workers and slots, subscriptions, connections that wait, and what comes next."""
    stage = Stage()
    await stage.generations.begin()
    first, second = await stage.start(2)
    second.say(Subscribe(5, 0.25))
    await turns_until(lambda: bool(stage.reporter.subscriptions))
    for worker in (first, second):
        stage.handle(worker).drain()
    await stage.dispatch(3)
    await turns_until(lambda: not stage.supervisor.unrest)

    estate = heritage(stage, workers=2).state()
    assert (estate.bind, estate.workers) == (["127.0.0.1:0"], "2")
    assert [(one.worker_id, one.slot, one.phase) for one in estate.crew.workers] == [
        (1, 0, "draining"),
        (2, 1, "draining"),
    ]
    assert [(one.number, one.incumbent) for one in estate.crew.slots] == [(0, 1), (1, 2)]
    assert estate.crew.next_worker_id == 3
    assert [(one.worker_id, one.interval) for one in estate.subscriptions] == [(2, 0.25)]
    assert len(estate.waiting) == 3
    assert estate.generations.begun == estate.generations.current == 1
    assert stage.spawner.is_dropped  # a zygote that is not ready would be nobody's
    await stage.close()


async def test_another_crew_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """With the sockets, the totals and the connections; what stays as it was is told."""
    listening = socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    waiting = connections(2)
    left = msgspec.structs.replace(
        ESTATE,
        bind=["127.0.0.1:0"],
        listeners=[ListenerState(fd=os.dup(listening.fileno()), is_shared=False)],
        crew=msgspec.structs.replace(ESTATE.crew, workers=[], slots=[], due=[], unread=[]),
        subscriptions=[],
        waiting=[(one.fd, one.listener) for one in waiting],
    )
    left = msgspec.structs.replace(
        left, crew=msgspec.structs.replace(left.crew, reload_wanted=False)
    )
    stage = Stage()
    parts = heritage(stage, workers=5)
    await parts.adopt(left, asyncio.get_running_loop().time())

    assert stage.supervisor.empty.is_set()
    assert stage.supervisor.addresses == (address,)
    assert stage.reporter.state() == ESTATE.ledger
    assert stage.dispatcher.state() == waiting
    assert stage.supervisor.state().next_worker_id == 8
    assert stage.generations.current.number == 2
    assert stage.generations.next_number == 4
    assert stage.generations.zygote_pids == {1}
    assert "workers stays auto: to make it 5 takes a stop and a start" in caplog.text
    assert "bind stays" not in caplog.text

    parts.listeners.close()
    listening.close()
    await stage.close()

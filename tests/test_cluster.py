"""Cluster, as far as it can be tested without workers."""

import asyncio
import gc
import math
import sys
from collections.abc import Sequence
from typing import Any, cast

import pytest
from aiohttp import web

from aiocluster.cluster import Cluster
from aiocluster.config.addresses import Address
from aiocluster.config.roles import Role, plan_from
from aiocluster.errors import ConfigError
from aiocluster.events import Event, Upgraded
from aiocluster.launch.interpreter import InterpreterSpec
from aiocluster.primary.launch_spec import LaunchSpec
from aiocluster.primary.lifecycle.upgrade import NextProgram
from tests.ipc.test_handover import ESTATE
from tests.support.connections import open_fds

PLAN = plan_from("pkg.module:name", None, {})


def factory() -> web.Application:
    return web.Application()


async def handler(request: web.Request) -> web.Response:
    return web.Response()


async def test_it_is_made_from_a_factory_and_settings() -> None:
    """The settings are checked at once, and can be read."""
    cluster = Cluster(factory, workers=4, bind="127.0.0.1:0")

    assert cluster.settings.workers == 4
    assert cluster.settings.bind == (Address("127.0.0.1", 0),)


@pytest.mark.parametrize(
    ("app", "settings", "reason"),
    [
        (factory, {"wokers": 2}, "did you mean 'workers'"),
        (factory, {"workers": 0}, "workers: 0 is not allowed"),
        (factory, {"bind": "nowhere"}, "bind: 'nowhere' is not allowed"),
        (web.Application(), {}, "cannot serve a live Application"),
        (lambda: None, {}, "at the top level of a module"),
        (handler, {}, "handler is a request handler"),
        ("no colon", {}, "is not of the form"),
    ],
)
async def test_what_makes_no_sense_is_refused_when_it_is_made(
    app: object, settings: dict[str, Any], reason: str
) -> None:
    """Not when it starts, which may be much later."""
    with pytest.raises(ConfigError, match=reason):
        Cluster(app, **settings)


async def test_it_is_made_from_roles() -> None:
    """Its settings are what was given to all of them."""
    roles = {"web": Role(factory, bind="127.0.0.1:0", workers=4), "jobs": Role(factory)}
    cluster = Cluster(roles=roles, workers=2)

    assert cluster.settings.workers == 2
    assert {name: one.settings.workers for name, one in cluster.plan.roles.items()} == {
        "web": 4,
        "jobs": 2,
    }


async def test_one_role_that_is_refused_leaves_nothing_of_the_others() -> None:
    """The app of each is in a file that has no name."""
    before = open_fds()
    with pytest.raises(ConfigError, match="at the top level of a module"):
        Cluster(roles={"web": Role(factory), "jobs": Role(lambda: None)})

    assert open_fds() <= before


class Broken:
    """A policy that cannot be made."""

    def __init__(self) -> None:
        raise TypeError("no table")

    def choose(self, candidates: Sequence[Any], affinity: bytes) -> Any:
        return candidates[0]


async def test_one_policy_that_cannot_be_made_leaves_nothing_of_the_other_roles() -> None:
    """What it raises comes through, before anything is opened."""
    before = open_fds()
    roles = {"web": Role(factory), "mail": Role(factory, bind="127.0.0.1:0", policy=Broken)}
    cluster = Cluster(roles=roles)
    with pytest.raises(TypeError, match="no table"):
        await cluster.start()

    assert open_fds() <= before


async def test_before_it_starts_it_has_nothing_and_can_be_subscribed_to() -> None:
    """Nobody need miss the first event; what takes workers is refused, what ends them is fine."""
    cluster, heard = Cluster(factory), list[Event]()
    cluster.on(Event, heard.append)
    events = cluster.events()

    assert cluster.workers == {}
    assert cluster.addresses == ()
    with pytest.raises(ConfigError, match="has not started yet"):
        await cluster.fork()
    with pytest.raises(ConfigError, match="has not started yet"):
        cluster.subscribe()
    cluster.kill()
    assert await cluster.stop() == []
    del events


@pytest.mark.parametrize("asked", ["reload", "wait_empty"])
async def test_what_takes_workers_is_refused_before_it_starts(asked: str) -> None:
    """By the name of what was asked."""
    cluster = Cluster(factory)

    with pytest.raises(ConfigError, match=f"{asked}: the cluster has not started yet"):
        await getattr(cluster, asked)()


async def test_a_program_that_is_not_ours_is_not_replaced() -> None:
    """Whoever wrote it has not consented."""
    with pytest.raises(ConfigError, match=r"start the cluster with aiocluster\.run"):
        await Cluster(factory).upgrade()


async def test_of_a_program_it_can_be_upgraded_once_it_has_started() -> None:
    """Not before."""
    origin = LaunchSpec({"web": InterpreterSpec([])}, successor=cast(NextProgram, object()))
    cluster = Cluster.of_program(PLAN, origin)

    with pytest.raises(ConfigError, match="upgrade: the cluster has not started yet"):
        await cluster.upgrade()


async def test_an_heir_keeps_its_events_until_it_is_announced() -> None:
    """Whoever wants to hear of the upgrade listens first."""
    heard: list[Event] = []
    cluster = Cluster.of_program(
        PLAN, LaunchSpec({"web": InterpreterSpec([])}, handover_state=ESTATE)
    )
    assert cluster.is_upgrade
    cluster.on(Event, heard.append)
    cluster._bus.publish(Upgraded())
    assert heard == []

    cluster.announce()

    assert heard == [Upgraded()]


async def test_a_child_that_imports_the_program_makes_no_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would start another cluster in each of its children."""
    monkeypatch.setattr("aiocluster.worker.api.context._Process.kind", "zygote")

    with pytest.raises(ConfigError, match="a Cluster was made while a child process imported"):
        Cluster(factory)


async def test_one_that_was_stopped_cannot_be_started() -> None:
    """Nobody would stop it then."""
    cluster = Cluster(factory, bind="127.0.0.1:0")
    await cluster.stop()

    with pytest.raises(ConfigError, match="was started or stopped before; make a new one"):
        await cluster.start()


@pytest.mark.parametrize("given", ["x", -1, math.nan, math.inf, True])
async def test_a_stop_without_a_sensible_time_changes_nothing(given: Any) -> None:
    """It can still be stopped with another."""
    cluster = Cluster(factory)

    with pytest.raises(ConfigError, match="stop: the timeout must be a number of seconds, 0 to"):
        await cluster.stop(given)

    assert await cluster.stop(0) == []


async def test_who_listens_to_one_that_is_never_started_hears_its_end() -> None:
    """There is nothing to hear, and nothing to wait for."""
    cluster = Cluster(factory)
    events = cluster.events()
    await cluster.stop()
    async with asyncio.timeout(60.0):
        assert [event async for event in events] == []


async def test_one_that_is_never_started_leaves_nothing() -> None:
    """Nor does one that was refused."""
    before = open_fds()
    cluster = Cluster(factory)
    assert not open_fds() <= before

    del cluster
    gc.collect()

    assert open_fds() <= before


async def test_it_starts_on_linux_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere it can be made, for it may stand at a module's top; its start says what to do."""
    monkeypatch.setattr(sys, "platform", "darwin")
    cluster = Cluster("pkg.module:app")
    with pytest.raises(ConfigError, match=r"needs Linux, and this is macOS; aiocluster\.run"):
        await cluster.start()
    assert await cluster.stop() == []

"""`async with Cluster(...)` in a program that has its own loop: what it takes, how it ends."""

import asyncio
import os
import socket

import psutil
import pytest
from aiohttp import web

from aiocluster import BootError, Cluster, ClusterStopping, ConfigError, is_primary
from tests.support.apps import make_app
from tests.support.cluster import HTTP_APP, Client, ask, first, kill, serving, who_answers
from tests.support.ports import unused_port


def children() -> set[psutil.Process]:
    """All processes below this one."""
    return set(psutil.Process().children(recursive=True))


# ---- what it takes


@pytest.mark.real_start
async def test_a_factory_at_the_top_level_of_a_module_is_served() -> None:
    """The function itself may be given: the workers import its module."""
    async with serving(make_app) as (cluster, _):
        assert {(await who_answers(cluster))["id"] for _ in range(2)} == {1, 2}
    assert is_primary()


def test_a_live_application_is_refused_with_what_to_pass_instead() -> None:
    """It cannot cross into another process; the error names all three ways out."""
    with pytest.raises(ConfigError) as refused:
        Cluster(web.Application())

    for way in ("a factory of it", "'pkg.module:name'", "aiocluster.run"):
        assert way in str(refused.value)


def test_a_lambda_is_refused_with_what_to_pass_instead() -> None:
    """No worker could import it."""
    with pytest.raises(ConfigError, match="at the top level of a module") as refused:
        Cluster(lambda: web.Application())

    assert "<lambda>" in str(refused.value)


def test_a_local_function_is_refused_with_what_to_pass_instead() -> None:
    """Nor a function inside a function."""

    def local() -> web.Application:
        return web.Application()

    with pytest.raises(ConfigError, match="at the top level of a module"):
        Cluster(local)


# ---- fork


async def test_fork_adds_a_worker_with_an_environment_of_its_own() -> None:
    """Only that worker has it, and its replacement has it too."""
    async with serving() as (cluster, heard):
        added = await cluster.fork(env={"FLAVOUR": "lemon"})
        await added.settled
        before = sorted([await ask(cluster, "/env/FLAVOUR") for _ in range(3)])
        kill(added.pid)
        replacement = await heard.replacement_of(added)
        after = sorted([await ask(cluster, "/env/FLAVOUR") for _ in range(3)])

    assert before == after == ["lemon", "not set", "not set"]
    assert (added.slot, added.env) == (2, {"FLAVOUR": "lemon"})
    assert (replacement.slot, replacement.env) == (added.slot, added.env)
    assert "FLAVOUR" not in os.environ


async def test_our_own_names_in_the_environment_win() -> None:
    """Nobody can make a worker believe that it is another one."""
    async with serving(workers=1) as (cluster, _heard):
        added = await cluster.fork(env={"AIOCLUSTER_WORKER_ID": "99"})
        await added.settled
        answers = sorted([await ask(cluster, "/env/AIOCLUSTER_WORKER_ID") for _ in range(2)])

    assert answers == ["1", "2"]


@pytest.mark.parametrize("env", [{"A": 1}, {2: "b"}])
async def test_an_environment_that_is_not_text_is_refused(env: dict[str, str]) -> None:
    """ConfigError names the entry; nothing is forked."""
    async with serving(workers=1) as (cluster, _):
        with pytest.raises(ConfigError, match=f"{next(iter(env))!r}"):
            await cluster.fork(env=env)
        assert len(cluster.workers) == 1


async def test_fork_after_stop_is_refused() -> None:
    """A stopped cluster starts nothing."""
    async with serving(workers=1) as (cluster, _):
        await cluster.stop()
        with pytest.raises(ClusterStopping):
            await cluster.fork()


# ---- stop


async def test_stop_may_come_twice_and_at_once() -> None:
    """Each call waits for the same end and returns the same."""
    async with serving() as (cluster, _heard):
        assert await asyncio.gather(*(cluster.stop() for _ in range(3))) == [[], [], []]
        assert await cluster.stop() == []

    assert len(cluster.workers) == 0


async def test_stop_closes_the_port_and_lets_running_requests_finish() -> None:
    """Who is being served is answered; who comes later is refused."""
    async with serving(workers=1) as (cluster, _heard):
        async with await Client.connect(cluster) as client:
            client.send("/wait/200")
            async for snapshot in cluster.subscribe(0.01):
                if snapshot.total.requests_in_flight == 1:
                    break
            stopping = asyncio.create_task(cluster.stop())
            assert await client.answer() == "waited"
            assert await stopping == []
        with pytest.raises(ConnectionRefusedError):
            await Client.connect(cluster)


async def test_stop_names_what_it_had_to_cut() -> None:
    """A request that does not end in time is given up, and its worker named."""
    async with serving(workers=1) as (cluster, heard):
        worker = first(cluster)
        async with await Client.connect(cluster) as client:
            client.send("/hold")
            await heard.message(lambda message: message == "holding")
            assert await cluster.stop(0.1) == [str(worker)]
            await client.closed()


async def test_stop_ends_a_blocked_worker() -> None:
    """One that hears nothing is killed after its time, and named."""
    async with serving(workers=1) as (cluster, heard):
        worker = first(cluster)
        async with await Client.connect(cluster) as client:
            await client.get("/spin")
            assert await cluster.stop(0.0) == [str(worker)]
        exited = await heard.exit_of(worker)

    assert (exited.signal, exited.reason, exited.voluntary) == (9, "stop", True)


async def test_kill_ends_a_stop_that_waits() -> None:
    """`kill()` makes a graceful stop quick."""
    async with serving(workers=1) as (cluster, heard), await Client.connect(cluster) as client:
        client.send("/hold")
        await heard.message(lambda message: message == "holding")
        stopping = asyncio.create_task(cluster.stop(3600))
        await asyncio.sleep(0)
        cluster.kill()
        assert len(await stopping) == 1


async def test_an_exception_in_the_block_stops_the_cluster_and_comes_through() -> None:
    """Whatever ends the `async with`, nothing is left."""
    before = children()
    with pytest.raises(KeyError, match="mine"):
        async with Cluster(HTTP_APP, workers=1, bind="127.0.0.1:0"):
            raise KeyError("mine")

    assert children() <= before


@pytest.mark.real_start
async def test_a_cancelled_start_leaves_nothing() -> None:
    """Cancelled at any step of it, a start takes back what it had begun."""
    before = children()
    for turns in range(0, 40, 4):
        starting = asyncio.create_task(Cluster(HTTP_APP, workers=1, bind="127.0.0.1:0").start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    assert children() <= before


# ---- several


async def test_one_cluster_after_another() -> None:
    """The second starts from nothing: ids from 1 again."""
    for _ in range(3):
        async with serving() as (cluster, _heard):
            assert {(await who_answers(cluster))["id"] for _ in range(2)} == {1, 2}


async def test_two_clusters_at_one_time() -> None:
    """Each has its port, its workers and its events; stopping one leaves the other."""
    async with serving() as (one, heard_one):
        async with serving(workers=3) as (two, heard_two):
            assert one.addresses != two.addresses
            pids = [
                {(await who_answers(cluster))["pid"] for _ in range(6)} for cluster in (one, two)
            ]
            kill(first(two).pid)
            await heard_two.next(type(await heard_two.exit_of(first(two))))
            assert heard_one.events == []
        assert {(await who_answers(one))["pid"] for _ in range(2)} == pids[0]

    assert (len(pids[0]), len(pids[1])) == (2, 3)
    assert not pids[0] & pids[1]


# ---- a start that fails


async def test_a_port_in_use_is_told_before_anything_is_forked() -> None:
    """ConfigError with the address and the reason; no process is left."""
    before = children()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"cannot bind {address}: Address already in use"):
            await Cluster(HTTP_APP, workers=2, bind=address).start()

    assert children() <= before


FAILURES = [
    ("tests.e2e.no_such_module:app", "there is no module 'tests.e2e.no_such_module'", False),
    ("tests.support.apps:no_such_name", "has no 'no_such_name'", False),
    ("tests.support.apps:FOR_EVER", "is a float; expected an aiohttp.web.Application", False),
    ("tests.support.apps:make_app_that_raises", "RuntimeError: no app today", True),
]


@pytest.mark.real_start
@pytest.mark.parametrize(("app", "cause", "traceback"), FAILURES)
async def test_an_app_that_cannot_be_had_is_a_boot_error(
    app: str, cause: str, traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """BootError with the cause, its traceback where it helps, and no process left."""
    before = children()
    with pytest.raises(BootError) as failed:
        await Cluster(app, workers=3, bind="127.0.0.1:0").start()

    assert cause in failed.value.cause
    assert ("Traceback" in failed.value.traceback) is traceback
    assert children() <= before
    assert "Traceback" not in caplog.text


async def test_the_error_is_the_same_in_async_with() -> None:
    """`async with` raises it, and the block is not entered."""
    with pytest.raises(BootError):
        async with Cluster(
            "tests.support.apps:make_app_that_raises", workers=1, bind="127.0.0.1:0"
        ):
            raise AssertionError


async def test_a_port_is_free_again_after_a_start_that_failed() -> None:
    """The second try, with an app that works, takes the same port."""
    address = f"127.0.0.1:{unused_port()}"
    with pytest.raises(BootError):
        await Cluster("tests.support.apps:make_app_that_raises", workers=1, bind=address).start()
    async with serving(workers=1, bind=address) as (cluster, _):
        assert (await who_answers(cluster))["id"] == 1


async def test_an_app_that_takes_too_long_is_a_boot_error() -> None:
    """After boot_timeout the start ends, and so does what still starts."""
    before = children()
    # On a slow machine not even the import ends in time.
    with pytest.raises(BootError, match=r"\(boot_timeout\)"):
        await Cluster(
            "tests.support.apps:make_app_that_never_comes", bind="127.0.0.1:0", boot_timeout=1.0
        ).start()

    assert children() <= before

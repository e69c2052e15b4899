"""The number of workers changes while they serve, and open connections go where the workers are."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from aiocluster import (
    BootError,
    Cluster,
    ClusterStopping,
    ConfigError,
    Scaled,
    WorkerExited,
    WorkerForked,
    WorkerMessage,
    weighted,
)
from tests.support.choosing import HighestSlot
from tests.support.cluster import Client, first, kill, program_of, serving, who_answers
from tests.support.mirror import MIRROR_APP, visitors
from tests.support.program import PATIENCE

CLIENTS = 60

# So that what closes a connection is never a timeout.
PATIENT: dict[str, Any] = {
    "graceful_timeout": 3600.0,
    "keepalive_timeout": 3600.0,
    "metrics_interval": 0.05,
}


async def slot_of(client: Client) -> int:
    """Return the slot of the worker that answers on this connection."""
    slot: int = json.loads(await client.get("/who"))["slot"]
    return slot


async def slots_of(clients: list[Client]) -> Counter[int]:
    """Return how many connections each slot answers."""
    return Counter([await slot_of(client) for client in clients])


async def connected(cluster: Cluster, count: int, stack: AsyncExitStack) -> list[Client]:
    """Return clients that have been answered once; the stack closes them."""
    clients = [await stack.enter_async_context(await Client.connect(cluster)) for _ in range(count)]
    await slots_of(clients)
    return clients


async def until_each_has(cluster: Cluster, lowest: int) -> None:
    """Wait until every worker has so many connections."""
    async with asyncio.timeout(PATIENCE):
        async for snapshot in cluster.subscribe(0.05):
            if min(worker.connections_open for worker in snapshot.workers.values()) >= lowest:
                return


@pytest.mark.parametrize("policy", ["round_robin", "least_loaded", "shared"])
async def test_new_workers_get_their_share_of_idle_connections(policy: str) -> None:
    """One worker has 60 that stay open; three of them have 20 each, and no client sees it."""
    async with (
        serving(workers=1, policy=policy, **PATIENT) as (cluster, heard),
        AsyncExitStack() as stack,
    ):
        clients = await connected(cluster, CLIENTS, stack)
        assert await cluster.scale(3) == 3
        await until_each_has(cluster, CLIENTS // 3)
        assert await slots_of(clients) == dict.fromkeys(range(3), CLIENTS // 3)
        scaled = await heard.next(Scaled)

    assert (scaled.role, scaled.before, scaled.workers) == ("web", 1, 3)
    assert scaled.reason == "asked for"


@pytest.mark.parametrize("by", ["ip", "header:x-session-id", "cookie:sid"])
async def test_clients_that_belong_to_a_worker_stay_with_it(by: str) -> None:
    """With a sticky policy what is open stays; when its worker goes, another has it."""
    async with (
        serving(MIRROR_APP, workers=1, policy=f"sticky:{by}", **PATIENT) as (cluster, _),
        AsyncExitStack() as stack,
    ):
        clients = visitors(cluster, 20)
        wires = {one: await stack.enter_async_context(one.connect()) for one in clients}
        assert {(await one.ask(wire)).slot for one, wire in wires.items()} == {0}
        assert await cluster.scale(4) == 4
        looks = cluster.subscribe(0.3)
        for _ in range(2):  # longer than between two looks of whoever would move them
            await anext(looks)
        assert {(await one.ask(wire)).slot for one, wire in wires.items()} == {0}
        others = {one: await stack.enter_async_context(one.connect()) for one in clients}
        assert {(await one.ask(wire)).slot for one, wire in others.items()} == {0, 1, 2, 3}
        assert await cluster.scale(1) == 1
        for opened in (wires, others):
            assert {(await one.ask(wire)).slot for one, wire in opened.items()} == {0}


@pytest.mark.parametrize(
    ("make_policy", "begins_in", "goes_to"),
    # Made in the test: a policy remembers workers, and what pytest holds stays.
    [(lambda: weighted({0: 0, 1: 0}), {2}, {0, 1}), (HighestSlot, {2}, {1})],
    ids=["weighted", "own"],
)
async def test_connections_stay_where_a_policy_wants_them(
    make_policy: Callable[[], object], begins_in: set[int], goes_to: set[int]
) -> None:
    """Over a reload, and whatever evens out others; if their slot goes, the policy chooses."""
    async with (
        serving(workers=3, policy=make_policy(), rebalance=True, min_uptime=0.0, **PATIENT) as (
            cluster, _,
        ),
        AsyncExitStack() as stack,
    ):  # fmt: skip
        clients = await connected(cluster, 8, stack)
        assert {*await slots_of(clients)} == begins_in
        await cluster.reload()
        assert {*await slots_of(clients)} == begins_in
        await cluster.scale(4)
        looks = cluster.subscribe(0.3)
        for _ in range(2):  # longer than between two looks of whoever would move them
            await anext(looks)
        assert {*await slots_of(clients)} == begins_in
        await cluster.scale(2)
        assert {*await slots_of(clients)} == goes_to


async def test_connections_that_ask_on_and_on_move_too() -> None:
    """Each in one of the moments in which it is idle; every request is answered."""
    stop = asyncio.Event()

    async def ask_on(client: Client) -> int:
        asked = 0
        while not stop.is_set():
            await slot_of(client)
            asked += 1
        return asked

    async with serving(workers=1, **PATIENT) as (cluster, _), AsyncExitStack() as stack:
        clients = await connected(cluster, 8, stack)
        asking = [asyncio.create_task(ask_on(client)) for client in clients]
        await cluster.scale(2)
        await until_each_has(cluster, 4)
        stop.set()
        assert min(await asyncio.gather(*asking)) > 0


async def test_the_highest_slots_drain_and_their_connections_move() -> None:
    """Nobody that stays changes its place; who goes ends well, and is not replaced."""
    async with serving(workers=4, **PATIENT) as (cluster, heard), AsyncExitStack() as stack:
        clients = await connected(cluster, 40, stack)
        before = {worker.slot: worker.pid for worker in cluster.workers.values()}
        assert await cluster.scale(2) == 2
        after = {worker.slot: worker.pid for worker in cluster.workers.values()}
        assert (await slots_of(clients)).keys() == {0, 1}
        ends = heard.of_kind(WorkerExited)

    assert after == {slot: before[slot] for slot in (0, 1)}
    assert sorted((end.worker.slot, end.code, end.reason) for end in ends) == [
        (2, 0, "scale_down"),
        (3, 0, "scale_down"),
    ]
    assert len(heard.of_kind(WorkerForked)) == 0  # since the start


async def test_a_request_of_one_that_goes_is_answered() -> None:
    """The scaling takes as long as what runs; the next one does not wait for it."""
    async with serving(workers=2, **PATIENT) as (cluster, heard), AsyncExitStack() as stack:
        clients = await connected(cluster, 2, stack)
        (busy,) = [client for client in clients if await slot_of(client) == 1]
        busy.send("/hold")
        holding = await heard.next(WorkerMessage)
        down = asyncio.create_task(cluster.scale("-1"))
        await heard.next(Scaled)
        assert await cluster.scale("+1") == 2
        assert not down.done()
        kill(holding.worker.pid, signal.SIGUSR1)
        assert await busy.answer() == "released"
        assert await down == 1
        assert sorted(worker.slot for worker in cluster.workers.values()) == [0, 1]


async def test_changes_are_relative_and_come_in_turn() -> None:
    """Asked for at the same time, each counts from what the one before left."""
    async with serving(workers=2) as (cluster, heard):
        changes: list[int | str] = ["+1", "+2", "-1", "-3", "+1", 2]
        counts = await asyncio.gather(*map(cluster.scale, changes))
        assert counts == [3, 5, 4, 1, 2, 2]
        await heard.next(WorkerExited, nth=4)
        assert sorted(worker.slot for worker in cluster.workers.values()) == [0, 1]
        assert [event.workers for event in heard.of_kind(Scaled)] == [3, 5, 4, 1, 2]


@pytest.mark.parametrize("wanted", [0, -1, "-2", "x", "", "3", 1.5, True, None, 10**9, "+999999"])
async def test_what_cannot_be_is_refused(wanted: Any) -> None:
    """By name; the same workers go on."""
    async with serving() as (cluster, heard):
        with pytest.raises(ConfigError, match="scale: "):
            await cluster.scale(wanted)
        assert await cluster.scale(2) == 2

    assert heard.of_kind(Scaled) == []


async def test_a_role_that_is_not_there_is_refused() -> None:
    """By name."""
    async with serving() as (cluster, _):
        with pytest.raises(ConfigError, match="jobs"):
            await cluster.scale(2, role="jobs")


async def test_new_workers_that_cannot_boot_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that came up with them go again, and whoever asked is told the cause."""
    app = "tests.support.apps:make_app_unless_told_to_crash"
    env = {2: {"RAISE": "1"}}
    async with serving(app, workers=1, env=env, **PATIENT) as (cluster, heard):
        async with await Client.connect(cluster) as client:
            before = await client.get("/who")
            with pytest.raises(BootError, match="told to raise"):
                await cluster.scale(3)
            await heard.next(WorkerExited, lambda event: event.worker.slot == 1)
            assert [worker.slot for worker in cluster.workers.values()] == [0]
            assert await client.get("/who") == before
        # The slots can be had again, by whoever does boot.
        assert await cluster.scale(2) == 2


async def test_a_reload_and_a_scaling_at_the_same_time() -> None:
    """Both come to their end: all that are left run the new code, and serve."""
    settings = {"min_uptime": 0.1, **PATIENT}
    async with serving(workers=3, **settings) as (cluster, heard), AsyncExitStack() as stack:
        clients = await connected(cluster, 12, stack)
        for wanted in (5, 2, 4, 1):
            reload = asyncio.create_task(cluster.reload())
            await heard.next(WorkerForked)
            assert await cluster.scale(wanted) == wanted
            await reload
            assert sum((await slots_of(clients)).values()) == 12
            await until_only(cluster, wanted)
            heard.events.clear()
        assert {worker.generation for worker in cluster.workers.values()} == {5}


async def until_only(cluster: Cluster, count: int) -> None:
    """Wait until the workers of before are gone."""
    async with asyncio.timeout(PATIENCE):
        async for snapshot in cluster.subscribe(0.05):
            if len(snapshot.workers) == count:
                return


@pytest.mark.parametrize("wanted", ["+1", "-1"])
async def test_a_stop_comes_between(wanted: str) -> None:
    """Whoever asked hears of it; nothing is left, and what was to come is not waited for."""
    async with serving(workers=2) as (cluster, heard):
        scaling = asyncio.create_task(cluster.scale(wanted))
        await heard.next(Scaled)
        assert await cluster.stop() == []
        with pytest.raises(ClusterStopping):
            await scaling
        with pytest.raises(ClusterStopping, match="cannot scale"):
            await cluster.scale(wanted)


async def test_a_dead_one_that_is_scaled_away_does_not_come_back() -> None:
    """It died a moment before; its slot is closed like any other."""
    async with serving(workers=2, max_failures=0, max_restart_delay=3600) as (cluster, heard):
        highest = max(cluster.workers.values(), key=lambda worker: worker.slot)
        kill(highest.pid)
        await heard.exit_of(highest)
        assert await cluster.scale(1) == 1
        assert [worker.slot for worker in cluster.workers.values()] == [0]
        assert (await who_answers(cluster))["slot"] == 0


async def test_after_a_crash_connections_are_evened_out() -> None:
    """With rebalance=True the replacement gets its share of what the others have."""
    settings = {"rebalance": True, **PATIENT}
    async with serving(workers=2, **settings) as (cluster, heard), AsyncExitStack() as stack:
        clients = await connected(cluster, 40, stack)
        worker = first(cluster)
        kill(worker.pid)
        await heard.replacement_of(worker)
        left = [client for client in clients if not await lost(client)]
        assert len(left) == 20
        await until_each_has(cluster, 9)
        counts = await slots_of(left)
        assert sum(counts.values()) == 20
        assert max(counts.values()) - min(counts.values()) <= 2


async def lost(client: Client) -> bool:
    """Did its worker die with this connection?"""
    try:
        await slot_of(client)
    except (ConnectionError, asyncio.IncompleteReadError):
        return True
    return False


async def test_without_rebalance_they_stay_where_they_are() -> None:
    """Nobody asked for them to move: only new connections come to the replacement."""
    async with serving(workers=2, **PATIENT) as (cluster, heard), AsyncExitStack() as stack:
        clients = await connected(cluster, 20, stack)
        worker = first(cluster)
        kill(worker.pid)
        await heard.replacement_of(worker)
        left = [client for client in clients if not await lost(client)]
        async with asyncio.timeout(PATIENCE):
            snapshots = cluster.subscribe(0.3)
            for _ in range(2):  # longer than between two looks
                await anext(snapshots)
        assert await slots_of(left) == {1: 10}


async def test_signals_scale_a_program(tmp_path: Path) -> None:
    """TTIN one more, TTOU one fewer; never fewer than one."""
    async with program_of(tmp_path) as program:
        await program.url()
        program.send_signal(signal.SIGTTIN)
        await program.line("event WorkerListening id=3 slot=2")
        program.send_signal(signal.SIGTTOU)
        await program.line("event WorkerExited id=3 .* code=0 .* reason=scale_down")
        program.send_signal(signal.SIGTTOU)
        await program.line("event WorkerExited id=2 .* code=0 .* reason=scale_down")
        program.send_signal(signal.SIGTTOU)
        await program.line("scale: 0 workers are not possible; give 1 to")
        assert len(program.workers()) == 1
        assert await program.stop() == 0
        assert "Traceback" not in await program.all_output()


async def test_signals_in_a_row_are_all_obeyed(tmp_path: Path) -> None:
    """One that comes while the one before is being done has its turn."""
    async with program_of(tmp_path) as program:
        await program.url()
        for number, line in (
            (signal.SIGTTIN, "role web: from 2 to 3 workers"),
            (signal.SIGTTIN, "role web: from 3 to 4 workers"),
            (signal.SIGTTOU, "role web: from 4 to 3 workers"),
        ):
            program.send_signal(number)
            await program.line(line)
        await program.line("event WorkerExited .* slot=3 .* reason=scale_down")
        assert len(program.workers()) == 3
        assert await program.stop() == 0

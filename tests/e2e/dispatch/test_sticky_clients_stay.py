"""A sticky client's connections all end in one slot, whatever happens to other workers."""

from contextlib import AsyncExitStack

import pytest

from aiocluster import Cluster, WorkerHandle, sticky
from tests.support.cluster import Heard, kill, serving
from tests.support.mirror import MIRROR_APP, Place, Visitor, door_of, visitors, visits
from tests.support.wire import Wire

WORKERS = 4
CLIENTS = 24

BY = ["ip", "header:x-session-id", "cookie:sid", "path:1"]

# A drain never ends by its time, a reload does not wait for new workers to prove themselves.
PATIENT = {"graceful_timeout": 3600.0, "keepalive_timeout": 3600.0, "min_uptime": 0.0}

each_by = pytest.mark.parametrize("by", BY)


def in_slot(cluster: Cluster, slot: int) -> WorkerHandle:
    """Return the worker that serves in a slot."""
    (worker,) = [one for one in cluster.workers.values() if one.slot == slot and not one.is_leaving]
    return worker


def slots(places: dict[str, Place]) -> dict[str, int]:
    return {name: place.slot for name, place in places.items()}


async def kill_and_await_next(cluster: Cluster, heard: Heard, slot: int) -> WorkerHandle:
    """Kill the worker of a slot; return the next, once it serves."""
    victim = in_slot(cluster, slot)
    kill(victim.pid)
    return await heard.replacement_of(victim)


@each_by
async def test_every_connection_of_a_client_goes_to_one_worker(by: str) -> None:
    """And the clients are spread over all workers."""
    async with serving(MIRROR_APP, workers=WORKERS, policy=sticky(by)) as (cluster, _):
        clients = visitors(cluster, CLIENTS)
        first, *others = [await visits(clients) for _ in range(3)]

    assert others == [first, first]
    assert {place.slot for place in first.values()} == {*range(WORKERS)}


@each_by
async def test_clients_stay_when_another_worker_is_killed(by: str) -> None:
    """While its slot is empty, and afterwards; those of the dead one come back to its slot."""
    async with serving(MIRROR_APP, workers=WORKERS, policy=f"sticky:{by}") as (cluster, heard):
        clients = visitors(cluster, CLIENTS)
        before = await visits(clients)
        for slot in range(WORKERS):
            successor = await kill_and_await_next(cluster, heard, slot)
            after = await visits(clients)

            assert slots(after) == slots(before)
            for name, place in before.items():
                assert after[name].worker == (successor.id if place.slot == slot else place.worker)
            before = after


@each_by
async def test_while_a_worker_is_away_only_its_own_clients_are_elsewhere(by: str) -> None:
    """They are shared by the others."""
    settings = {"restart": "never", "policy": f"sticky:{by}"}
    async with serving(MIRROR_APP, workers=WORKERS, **settings) as (cluster, heard):
        clients = visitors(cluster, CLIENTS * 2)
        before = await visits(clients)
        victim = in_slot(cluster, 1)
        kill(victim.pid)
        await heard.exit_of(victim)
        after = await visits(clients)

    stayed = {name: place for name, place in before.items() if place.slot != 1}
    homeless = [after[name].slot for name, place in before.items() if place.slot == 1]
    assert {name: after[name] for name in stayed} == stayed
    assert {*homeless} == {0, 2, 3}


@each_by
async def test_clients_stay_over_a_reload(by: str) -> None:
    """Each goes to the new worker of its slot."""
    async with serving(MIRROR_APP, workers=WORKERS, policy=f"sticky:{by}", **PATIENT) as (
        cluster,
        _,
    ):
        clients = visitors(cluster, CLIENTS)
        before = await visits(clients)
        await cluster.reload()
        after = await visits(clients)

    assert slots(after) == slots(before)
    assert not {place.worker for place in after.values()} & {
        place.worker for place in before.values()
    }


@each_by
async def test_after_a_scale_down_each_client_has_one_worker(by: str) -> None:
    """What was open, and what it opens then, go to the same; those of other slots have stayed."""
    async with (
        serving(MIRROR_APP, workers=WORKERS, policy=f"sticky:{by}", **PATIENT) as (cluster, _),
        AsyncExitStack() as stack,
    ):
        clients = visitors(cluster, CLIENTS)
        wires = {one: await stack.enter_async_context(one.connect()) for one in clients}
        before = {one.name: await one.ask(wire) for one, wire in wires.items()}
        await cluster.scale(WORKERS - 1)
        opened_later = await visits(clients)
        after = {one.name: await one.ask(wire) for one, wire in wires.items()}
        assert door_of(cluster).counts().fallbacks == {}

    assert after == opened_later
    stayed = {name: place for name, place in before.items() if place.slot < WORKERS - 1}
    assert {name: after[name] for name in stayed} == stayed
    assert len(stayed) < CLIENTS


@each_by
async def test_idle_connections_go_back_to_their_slot(by: str) -> None:
    """Over two reloads each connection goes on, at the worker that has the place of its old one."""
    async with (
        serving(MIRROR_APP, workers=WORKERS, policy=f"sticky:{by}", **PATIENT) as (cluster, _),
        AsyncExitStack() as stack,
    ):
        clients = visitors(cluster, CLIENTS)
        wires = [await stack.enter_async_context(client.connect()) for client in clients]
        before = await asks(clients, wires)
        for _ in range(2):
            await cluster.reload()
            after = await asks(clients, wires)

            assert slots(after) == slots(before)
            assert {place.worker for place in after.values()} == cluster.workers.keys()
            assert await visits(clients) == after


async def asks(clients: list[Visitor], wires: list[Wire]) -> dict[str, Place]:
    """Let each ask on its connection; return who answers whom."""
    pairs = zip(clients, wires, strict=True)
    return {client.name: await client.ask(wire) for client, wire in pairs}


@each_by
async def test_websockets_and_requests_of_a_client_meet(by: str) -> None:
    """In one worker; a WebSocket lives on while all others are killed and replaced."""
    async with (
        serving(MIRROR_APP, workers=WORKERS, policy=f"sticky:{by}") as (cluster, heard),
        AsyncExitStack() as stack,
    ):
        clients = visitors(cluster, CLIENTS)
        places = await visits(clients)
        mine = [client for client in clients if places[client.name].slot == 2]
        sockets = [await stack.enter_async_context(client.websocket()) for client in mine]
        home = in_slot(cluster, 2)
        assert len(mine) > 1
        assert {await one.worker() for one in sockets} == {home.id}
        for slot in (0, 1, 3):
            await kill_and_await_next(cluster, heard, slot)

        assert {await one.worker() for one in sockets} == {home.id}
        for client in mine:
            assert await client.visit() == Place(2, home.id)
            async with client.websocket() as another:
                assert await another.worker() == home.id


@each_by
async def test_a_worker_more_takes_its_share_and_no_more(by: str) -> None:
    """Of 200 clients about a fifth move to a fifth worker; when it goes they are back."""
    async with serving(MIRROR_APP, workers=WORKERS, policy=f"sticky:{by}", **PATIENT) as (
        cluster,
        _,
    ):
        clients = visitors(cluster, 200)
        before = await visits(clients)
        await cluster.scale("+1")
        after = await visits(clients)
        await cluster.scale("-1")
        again = await visits(clients)

    moved = [name for name in before if after[name] != before[name]]
    assert {after[name].slot for name in moved} == {WORKERS}
    assert 25 <= len(moved) <= 55
    assert again == before


async def test_a_worker_more_leaves_idle_connections_where_they_are() -> None:
    """Its share of clients comes with their next connection."""
    async with (
        serving(MIRROR_APP, policy="sticky:header:x-session-id", rebalance=True, **PATIENT) as (
            cluster,
            _,
        ),
        AsyncExitStack() as stack,
    ):
        clients = visitors(cluster, CLIENTS)
        wires = [await stack.enter_async_context(client.connect()) for client in clients]
        before = await asks(clients, wires)
        await cluster.scale(WORKERS)

        assert {place.slot for place in (await visits(clients)).values()} == {*range(WORKERS)}
        assert await asks(clients, wires) == before


async def test_idle_connections_of_a_closed_slot_go_on_elsewhere() -> None:
    """Those of the others stay."""
    async with (
        serving(MIRROR_APP, workers=WORKERS, policy="sticky:cookie:sid", **PATIENT) as (cluster, _),
        AsyncExitStack() as stack,
    ):
        clients = visitors(cluster, CLIENTS)
        wires = [await stack.enter_async_context(client.connect()) for client in clients]
        before = await asks(clients, wires)
        leaving = in_slot(cluster, WORKERS - 1)
        await cluster.scale("-1")
        await leaving.exited
        after = await asks(clients, wires)

    stayed = {name: place for name, place in before.items() if place.slot < WORKERS - 1}
    assert len(stayed) < CLIENTS
    assert {name: after[name] for name in stayed} == stayed
    assert {place.slot for place in after.values()} == {*range(WORKERS - 1)}


async def test_each_address_keeps_its_own_policy_over_a_reload() -> None:
    """Idle connections that came by a sticky address go back to their slot; others anywhere."""
    policy = {"127.0.0.1:0": "round_robin", "127.0.0.2:0": "sticky:cookie:sid"}
    async with (
        serving(MIRROR_APP, workers=WORKERS, bind=[*policy], policy=policy, **PATIENT) as (
            cluster,
            _,
        ),
        AsyncExitStack() as stack,
    ):
        clients = visitors(cluster, CLIENTS, nth=2)
        wires = [await stack.enter_async_context(client.connect()) for client in clients]
        before = await asks(clients, wires)
        await cluster.reload()

        assert slots(await asks(clients, wires)) == slots(before)
        assert slots(await visits(clients)) == slots(before)


async def test_one_worker_serves_every_client() -> None:
    """There is nothing to choose, and nothing goes wrong."""
    async with serving(MIRROR_APP, workers=1, policy="sticky:path:1") as (cluster, heard):
        clients = visitors(cluster, 5)
        assert {*(await visits(clients)).values()} == {Place(0, 1)}
        successor = await kill_and_await_next(cluster, heard, 0)
        assert {*(await visits(clients)).values()} == {Place(0, successor.id)}


async def test_a_full_worker_s_clients_go_to_others_meanwhile() -> None:
    """Better another worker than none; with room again they are back."""
    async with serving(MIRROR_APP, policy="sticky:path:1", max_connections=2) as (cluster, _):
        clients = visitors(cluster, CLIENTS)
        places = await visits(clients)
        client = clients[0]
        home, other = (in_slot(cluster, slot) for slot in (0, 1))
        if places[client.name].slot == 1:
            home, other = other, home
        async with AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(client.connect()) for _ in range(3)]
            answers = [await client.ask(wire) for wire in wires]
            assert [place.worker for place in answers] == [home.id, home.id, other.id]
        while (await client.visit()).worker != home.id:
            pass

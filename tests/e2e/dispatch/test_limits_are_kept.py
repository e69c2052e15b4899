"""No more connections and requests at a time than allowed; and what a client meets beyond that."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from aiocluster import Cluster, WorkerMessage
from tests.support.cluster import Heard, first, kill, serving, url_of
from tests.support.program import PATIENCE
from tests.support.wire import Response, Wire

CLIENTS = 10

# So that what closes a connection, or hides that one waits, is never a timeout.
PATIENT: dict[str, Any] = {
    "graceful_timeout": 3600.0,
    "keepalive_timeout": 3600.0,
    "metrics_interval": 0.05,
}

# The old workers have time for all that they have.
RELOADED: dict[str, Any] = {"min_uptime": 0.1, "graceful_timeout": 20.0}

# Snapshots after which whoever would be served has been: more than one in each of the times
# after which a full worker is looked at again.
LOOKS = 4


class Crowd:
    """Clients that have each connected and asked who answers; they are told apart by number."""

    def __init__(self, cluster: Cluster, stack: AsyncExitStack) -> None:
        self._cluster = cluster
        self._stack = stack
        self.wires: list[Wire] = []
        self.answers: dict[int, asyncio.Task[Response]] = {}

    async def grow(self, count: int) -> None:
        """Let `count` more connect and ask."""
        for _ in range(count):
            wire = await self._stack.enter_async_context(Wire(url_of(self._cluster)))
            self.wires.append(wire)
            await wire.ask("/who")
            self.answers[len(self.wires) - 1] = asyncio.create_task(wire.response())
        self._stack.callback(self._cancel)

    def served(self) -> list[int]:
        """Return the numbers of those that were answered well."""
        return [
            number
            for number, answer in self.answers.items()
            if answer.done() and not answer.exception() and answer.result().status == 200
        ]

    async def until_served(self, count: int) -> list[int]:
        """Wait until at least `count` are answered, and look a few times whether more are."""
        while len(self.served()) < count:
            waiting = [answer for answer in self.answers.values() if not answer.done()]
            done, _ = await asyncio.wait(
                waiting, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
            )
            assert done, f"only {len(self.served())} of {count} are served"
        await looks(self._cluster)
        return self.served()

    async def ends(self) -> list[Response | BaseException]:
        """Wait until each has its answer, or knows that there will be none."""
        return await asyncio.gather(*self.answers.values(), return_exceptions=True)

    async def leave(self, number: int) -> None:
        """Let one close its connection."""
        await self.wires[number].__aexit__(None, None, None)
        del self.answers[number]

    async def ask_again(self, number: int) -> int:
        """Return the pid that answers on the same connection."""
        response = await self.wires[number].get("/who")
        assert response.status == 200
        pid: int = json.loads(response.body)["pid"]
        return pid

    def _cancel(self) -> None:
        for answer in self.answers.values():
            answer.cancel()


async def looks(cluster: Cluster) -> None:
    """Wait for a few snapshots."""
    snapshots = cluster.subscribe(0.05)
    for _ in range(LOOKS):
        await anext(snapshots)


@asynccontextmanager
async def crowded(**settings: Any) -> AsyncIterator[tuple[Cluster, Heard, Crowd]]:
    """A cluster with limits, and clients that come.

    A stop takes half of its time to find room for those that wait.
    """
    given = {**PATIENT, "graceful_timeout": 1.0, **settings}
    async with serving(**given) as (cluster, heard), AsyncExitStack() as stack:
        yield cluster, heard, Crowd(cluster, stack)


async def open_connections(cluster: Cluster) -> int:
    """Return how many connections the workers have together."""
    snapshot = await anext(cluster.subscribe(0.05))
    return snapshot.total.connections_open


# node: net-server-drop-connection
@pytest.mark.parametrize("limit", [0, 1, 9])
async def test_of_ten_connections_exactly_as_many_as_allowed_are_served(limit: int) -> None:
    """Where Node drops the others they are closed here, if that is asked for."""
    async with crowded(workers=1, max_connections=limit, when_full="close") as (cluster, _, crowd):
        await crowd.grow(CLIENTS)
        served = await crowd.until_served(limit)
        gone = [number for number in range(CLIENTS) if number not in served]
        for number in gone:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await crowd.answers[number]
        assert len(served) == limit
        assert await open_connections(cluster) == limit


@pytest.mark.parametrize("limit", [0, 1, 9])
async def test_by_default_the_others_wait(limit: int) -> None:
    """Nobody is told anything; the kernel keeps them."""
    async with crowded(workers=1, max_connections=limit) as (cluster, _, crowd):
        await crowd.grow(CLIENTS)
        served = await crowd.until_served(limit)
        assert len(served) == limit
        assert all(not crowd.answers[one].done() for one in range(CLIENTS) if one not in served)
        assert await open_connections(cluster) == limit


@pytest.mark.parametrize(
    "limits",
    [
        {"workers": 1, "max_connections": 2},
        {"workers": 2, "max_connections": 1},
        {"workers": 3, "max_connections_total": 2},
        {"workers": 2, "max_connections": 1, "policy": "least_loaded"},
        {"workers": 2, "max_connections": 1, "policy": "sticky:path:1"},
        {"workers": 2, "max_connections": 1, "policy": "shared"},
    ],
    ids=str,
)
async def test_when_one_closes_the_next_is_served(limits: dict[str, Any]) -> None:
    """One for one, until all have had their turn."""
    async with crowded(**limits) as (cluster, _, crowd):
        await crowd.grow(6)
        for turn in range(4):
            served = await crowd.until_served(2)
            assert len(served) == 2, turn
            assert await open_connections(cluster) == 2
            await crowd.leave(served[0])
        assert len(await crowd.until_served(2)) == 2


@pytest.mark.parametrize(
    "limits", [{"workers": 1, "max_connections": 2}, {"workers": 3, "max_connections_total": 2}]
)
async def test_who_finds_all_full_may_be_told_so(limits: dict[str, Any]) -> None:
    """A 503 that says when to come again; and then there may be room."""
    async with crowded(**limits, when_full="503", retry_after=7) as (_, _, crowd):
        await crowd.grow(2)
        assert len(await crowd.until_served(2)) == 2
        await crowd.grow(3)
        for number in (2, 3, 4):
            response = await crowd.answers[number]
            assert (response.status, response.headers["retry-after"]) == (503, "7")
            assert response.headers["connection"] == "close"
            assert await crowd.wires[number].rest() == b""
        await crowd.leave(0)
        await served_at_last(crowd)


async def served_at_last(crowd: Crowd) -> None:
    """Come again as one is told to, until there is room."""
    async with asyncio.timeout(PATIENCE):
        while True:
            await crowd.grow(1)
            response = await crowd.answers[len(crowd.wires) - 1]
            if response.status == 200:
                return
            assert response.status == 503


async def test_nobody_is_refused_while_all_boot() -> None:
    """No worker there is no full worker: whoever comes waits for the replacement."""
    settings = {"workers": 1, "max_connections": 5, "when_full": "503"}
    async with crowded(**settings) as (cluster, heard, crowd):
        worker = first(cluster)
        kill(worker.pid)
        await heard.exit_of(worker)
        await crowd.grow(3)
        assert len(await crowd.until_served(3)) == 3


async def held(heard: Heard, count: int) -> list[int]:
    """Wait until so many requests are held; return the pids of their workers."""
    await heard.next(WorkerMessage, lambda event: event.message == "holding", nth=count)
    return [event.worker.pid for event in heard.of_kind(WorkerMessage)]


Ask = Callable[[str], Awaitable[Wire]]


@asynccontextmanager
async def asking(cluster: Cluster) -> AsyncIterator[Ask]:
    """Return what sends a request on a new connection."""
    async with AsyncExitStack() as stack:

        async def ask(path: str) -> Wire:
            wire = await stack.enter_async_context(Wire(url_of(cluster)))
            await wire.ask(path)
            return wire

        yield ask


async def test_no_more_requests_at_a_time_than_allowed() -> None:
    """Further ones wait, on new connections and on those that are there, and have their turn."""
    settings = {"workers": 2, "max_requests_in_flight": 2, **PATIENT}
    async with serving(**settings) as (cluster, heard), asking(cluster) as ask:
        early = [await ask("/who") for _ in range(4)]
        for wire in early:
            assert (await wire.response()).status == 200
        for wire in early:
            await wire.ask("/hold")
        await held(heard, 4)
        late = [await ask("/hold") for _ in range(6)]
        await looks(cluster)
        pids = await held(heard, 4)
        assert len(pids) == 4
        assert sorted(pids.count(pid) for pid in set(pids)) == [2, 2]
        for pid in set(pids):
            kill(pid, signal.SIGUSR1)
        answers = [await wire.response() for wire in (*early, *late)]
        assert [answer.body for answer in answers] == [b"released"] * 10


async def test_a_request_beyond_the_limit_may_be_told_so() -> None:
    """On a connection that is there it goes on; a new one is turned away."""
    settings = {"workers": 1, "max_requests_in_flight": 1, "when_full": "503", "retry_after": 3}
    async with serving(**settings, **PATIENT) as (cluster, heard), asking(cluster) as ask:
        kept = await ask("/who")
        assert (await kept.response()).status == 200
        # Its client may know before its worker has counted it.
        async for snapshot in cluster.subscribe(0.05):
            if not snapshot.total.requests_in_flight:
                break
        busy = await ask("/hold")
        (pid,) = await held(heard, 1)
        refused = await kept.get("/who")
        assert (refused.status, refused.headers["retry-after"]) == (503, "3")
        shed = await (await ask("/who")).response()
        assert (shed.status, shed.headers["retry-after"]) == (503, "3")
        kill(pid, signal.SIGUSR1)
        assert (await busy.response()).body == b"released"
        assert (await kept.get("/who")).status == 200


@pytest.mark.parametrize("when_full", ["wait", "503"])
async def test_a_full_cluster_loses_nobody_in_a_reload(when_full: str) -> None:
    """Every connection that was let in goes on, on the new workers; whoever waits is served too."""
    settings = {"workers": 2, "max_connections": 2, "when_full": when_full, **RELOADED}
    async with crowded(**settings) as (cluster, _, crowd):
        await crowd.grow(4)
        assert len(await crowd.until_served(4)) == 4
        old = {worker.pid for worker in cluster.workers.values()}
        await cluster.reload()
        pids = {await crowd.ask_again(number) for number in range(4)}
        assert not pids & old
        assert await open_connections(cluster) == 4


async def test_who_waits_is_served_after_a_reload() -> None:
    """All come to their turn in the end, those that were let in before and those that waited."""
    settings = {"workers": 2, "max_connections": 2, **RELOADED}
    async with crowded(**settings) as (cluster, _, crowd):
        await crowd.grow(7)
        before = await crowd.until_served(4)
        await cluster.reload()
        pids = {await crowd.ask_again(number) for number in before}
        assert pids <= {worker.pid for worker in cluster.workers.values()}
        for number in before:
            await crowd.leave(number)
        assert len(await crowd.until_served(3)) == 3


async def test_what_takes_long_in_an_old_worker_keeps_nobody_out_of_the_new_one() -> None:
    """Its requests end, and others are served meanwhile."""
    settings = {"workers": 1, "max_connections": 2, **PATIENT, **RELOADED}
    async with serving(**settings) as (cluster, heard), asking(cluster) as ask:
        busy = [await ask("/hold") for _ in range(2)]
        pid, _ = await held(heard, 2)
        reloading = asyncio.create_task(cluster.reload())
        answer = await (await ask("/who")).response()
        assert json.loads(answer.body)["pid"] != pid
        kill(pid, signal.SIGUSR1)
        assert [(await wire.response()).body for wire in busy] == [b"released"] * 2
        await reloading


async def test_a_full_worker_that_dies_leaves_room_for_those_that_wait() -> None:
    """In its replacement."""
    async with crowded(workers=1, max_connections=2) as (cluster, heard, crowd):
        await crowd.grow(2)
        assert len(await crowd.until_served(2)) == 2
        await crowd.grow(2)
        worker = first(cluster)
        kill(worker.pid)
        await heard.replacement_of(worker)
        assert await crowd.until_served(4) == [0, 1, 2, 3]  # two of them before


@pytest.mark.parametrize("policy", ["round_robin", "sticky", "shared"])
async def test_who_waits_for_idle_connections_is_served_at_a_stop(policy: str) -> None:
    """These are about to be closed: nobody is turned away for them."""
    async with (
        serving(workers=2, max_connections=1, policy=policy, **PATIENT) as (cluster, _),
        AsyncExitStack() as stack,
    ):
        crowd = Crowd(cluster, stack)
        await crowd.grow(CLIENTS)
        # With "sticky" all belong to one worker, and go to the other only while that is full.
        assert len(await crowd.until_served(2)) == 2
        assert await cluster.stop() == []
        ends = await crowd.ends()

    assert [end.status if isinstance(end, Response) else end for end in ends] == [200] * CLIENTS


async def test_a_stop_ends_for_who_waits_too() -> None:
    """Nobody has begun anything for them, and in the end they are closed; that shows."""
    async with crowded(workers=1, max_connections=0) as (cluster, _, crowd):
        await crowd.grow(3)
        await looks(cluster)
        assert await cluster.stop() == ["the primary"]
        ends = await crowd.ends()
    assert all(isinstance(end, ConnectionError | asyncio.IncompleteReadError) for end in ends)


async def test_a_scaling_makes_room() -> None:
    """Whoever waits is served by the new worker."""
    async with crowded(workers=1, max_connections=2) as (cluster, _, crowd):
        await crowd.grow(4)
        assert len(await crowd.until_served(2)) == 2
        await cluster.scale(2)
        assert len(await crowd.until_served(4)) == 4

"""All workers, from fork to end. The spawner is a fake, and the test plays the workers."""

import asyncio
import contextlib
import os
import signal
import socket

import msgspec
import pytest

from aiocluster.errors import BootError
from aiocluster.events import (
    WorkerDisconnected,
    WorkerExited,
    WorkerForked,
    WorkerListening,
    WorkerMessage,
    WorkerOnline,
)
from aiocluster.ipc.handoff import give
from aiocluster.ipc.handover import WorkerState
from aiocluster.ipc.messages import (
    Accept,
    Bound,
    Drain,
    Drained,
    DrainRequest,
    Endpoint,
    GiveBack,
    Listen,
    Listening,
    Online,
    Ready,
    Serving,
    Unready,
    UserMessage,
)
from aiocluster.ipc.scoreboard import CONNECTIONS_TAKEN, OTHER_FDS
from aiocluster.primary.dispatch.admission import AdmissionControl
from tests.support.connections import close_all, connections, open_fds, tcp_pair
from tests.support.supervision import MakeStage, Stage
from tests.support.waiting import soon, turns, turns_until
from tests.support.workers import FakeWorker, close_taken


async def test_a_worker_is_told_who_it_is(stage: Stage) -> None:
    """Its id, slot and role, also in its environment."""
    for slot, worker in enumerate(await stage.start(2)):
        worker_id = worker.fork.worker_id
        assert (worker.fork.slot, worker.fork.role, worker.fork.generation) == (slot, "web", 1)
        assert worker.fork.env == {
            "AIOCLUSTER_WORKER_ID": str(worker_id),
            "AIOCLUSTER_SLOT": str(slot),
            "AIOCLUSTER_ROLE": "web",
        }


async def test_the_events_of_a_life_come_in_their_order(stage: Stage) -> None:
    """From forked to exited, each once."""
    stage.supervisor.pool.addresses = (("127.0.0.1", 4711),)
    (worker,) = await stage.start(1)
    handle, messages = stage.handle(worker), list[WorkerMessage]()
    stage.bus.on(WorkerMessage, messages.append)
    await worker.channel.send("hello")
    await turns_until(lambda: len(messages) == 1)
    worker.exit(1)

    heard = [await soon(anext(stage.events)) for _ in range(6)]

    assert heard == [
        WorkerForked(handle),
        WorkerOnline(handle),
        WorkerListening(handle, (("127.0.0.1", 4711),)),
        WorkerMessage(handle, "hello"),
        WorkerDisconnected(handle, voluntary=False),
        WorkerExited(handle, 1, None, False, "crash"),
    ]


async def test_one_that_is_not_ready_in_time_is_killed(make_stage: MakeStage) -> None:
    """A start that hangs is a start that failed."""
    stage = await make_stage(boot_timeout=0.01, restart="never")
    starting = asyncio.create_task(stage.supervisor.start(1))

    exited = await stage.event(WorkerExited)

    assert (exited.signal, exited.voluntary, exited.reason) == (9, False, "boot_timeout")
    with pytest.raises(BootError, match=r"was not ready after 0\.01 s \(boot_timeout\)"):
        await soon(starting)


async def test_one_that_is_ready_is_not_timed_any_more(make_stage: MakeStage) -> None:
    """The boot timeout is for booting."""
    stage = await make_stage(boot_timeout=0.2)
    (worker,) = await stage.start(1)
    due = asyncio.Event()
    asyncio.get_running_loop().call_later(0.25, due.set)

    await soon(due.wait())

    assert worker.process.signals.empty()


async def test_what_a_dead_worker_had_not_taken_goes_to_others(stage: Stage) -> None:
    """A connection that was sent and not taken is not lost, nor handed out twice."""
    first, second = await stage.start(2)
    await stage.dispatch(10)
    assert close_taken(first) == 5

    second.process.on_end = lambda: None  # what it had not taken stays in the kernel's queue
    second.die_of(signal.SIGKILL)

    assert close_taken(first) == 5
    second.close()


async def test_one_that_lost_its_channel_is_replaced_while_it_finishes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has not taken goes to others at once, and it may take its time for the rest."""
    monkeypatch.setattr("aiocluster.primary.workers.pool._DEATH_MOMENT", 0.0)
    (worker,) = await stage.start(1)
    await stage.dispatch(3)

    worker.channel.abort()
    successor = await stage.spawner.next()
    successor.boot()
    await turns_until(lambda: stage.handle(successor).backend.queued == 3)

    assert close_taken(successor) == 3
    await turns_until(lambda: stage.handle(worker).ending.reason == "disconnected")
    assert successor.fork.slot == worker.fork.slot
    worker.exit(0)
    assert (await stage.event(WorkerExited)).reason == "disconnected"


async def test_with_all_workers_dead_connections_wait_for_the_next(stage: Stage) -> None:
    """Nobody is there: the door is shut, and what was accepted waits."""
    (worker,) = await stage.start(1)
    await stage.dispatch(3)
    worker.process.on_end = lambda: None
    worker.die_of(signal.SIGKILL)
    assert stage.group == ["resume", "pause"]
    assert stage.dispatcher.waiting == 3

    (replacement,) = await stage.spawner.ready(1)
    await turns_until(lambda: stage.dispatcher.waiting == 0)

    assert close_taken(replacement) == 3
    worker.close()


async def test_a_draining_worker_is_given_nothing_new(stage: Stage) -> None:
    """From the very call of drain on."""
    first, second = await stage.start(2)

    stage.handle(first).drain()
    await stage.dispatch(4)

    assert close_taken(first) == 0
    assert close_taken(second) == 4


def give_back(worker: FakeWorker, count: int) -> None:
    """Do as a draining worker does with idle connections."""
    batch = connections(count)
    assert give(worker.handoff, [connection.fd for connection in batch], bytes(count))
    close_all(batch)


async def test_what_a_draining_worker_gives_back_goes_to_others(stage: Stage) -> None:
    """And never to itself."""
    first, second = await stage.start(2)
    stage.handle(first).drain()
    assert await first.hear() == Drain(30.0, moving=True, idle_grace=1.0)

    give_back(first, 3)
    await turns_until(lambda: stage.handle(second).backend.queued == 3)

    assert (close_taken(first), close_taken(second)) == (0, 3)


async def test_what_is_given_back_waits_while_others_have_much_to_take(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new connection does not wait behind all of it. A loop that does not turn takes nothing."""
    monkeypatch.setattr("aiocluster.primary.workers.pool._MANY_UNTAKEN", 3)
    first, second = await stage.start(2)
    backend = stage.handle(second).backend
    stage.handle(first).drain()
    await stage.dispatch(4)
    give_back(first, 2)
    await turns(20)
    assert backend.queued == 4

    backend.is_stuck = True
    await turns_until(lambda: backend.queued == 6)

    assert close_taken(second) == 6


async def test_what_a_dead_worker_had_given_back_goes_to_others(stage: Stage) -> None:
    """It was sent, so it is not lost."""
    first, second = await stage.start(2)
    stage.handle(first).drain()
    give_back(first, 3)

    first.die_of(signal.SIGKILL)
    await turns_until(lambda: stage.handle(second).backend.queued == 3)

    assert close_taken(second) == 3


async def test_what_is_given_back_during_a_stop_is_closed(stage: Stage) -> None:
    """Idle connections end in a stop, and nobody is left to go on with them."""
    first, second = await stage.start(2)
    stage.handle(first).drain()
    before = len(open_fds())
    stopping = asyncio.create_task(stage.supervisor.stop(1000.0))
    assert await second.hear() == Drain(1000.0, moving=False, stopping=True, idle_grace=1.0)

    give_back(first, 3)
    await turns(20)

    assert len(open_fds()) == before
    assert stage.dispatcher.waiting == 0
    assert [await first.hear() for _ in range(2)][1] == Drain(
        1000.0, moving=False, stopping=True, idle_grace=1.0
    )
    for worker in (first, second):
        worker.exit(0)
    await soon(stopping)


async def test_what_is_given_up_for_others_at_a_stop_is_closed(stage: Stage) -> None:
    """But for one whose next request has come: that goes first."""
    stage.supervisor.pool._factory.families = [socket.AF_INET]
    first, second = await stage.start(2)
    stage.supervisor.mark_stopping()
    stage.supervisor.shed_idle_connections(2)
    assert (await first.hear(), await second.hear()) == (GiveBack(2), GiveBack(2))
    (quiet, idle), (client, busy) = tcp_pair(), tcp_pair()
    client.send(b"GET")
    with quiet, client:
        with idle, busy:
            assert give(first.handoff, [idle.fileno(), busy.fileno()], bytes(2))
        handles = [stage.handle(worker) for worker in (first, second)]
        await turns_until(lambda: sum(one.backend.queued for one in handles) == 1)
        assert await soon(asyncio.get_running_loop().sock_recv(quiet, 1)) == b""

    assert close_taken(first) + close_taken(second) == 1


@pytest.mark.parametrize("codes", [(0, 7), (7, 1)])
async def test_a_code_of_the_apps_own_is_no_cut(stage: Stage, codes: tuple[int, int]) -> None:
    """In a stop, once the worker has said that it finished all; 1 is one."""
    workers = await stage.start(2)
    stage.supervisor.mark_stopping()
    stopping = asyncio.create_task(stage.supervisor.stop(1000.0))
    cut = [str(stage.handle(one)) for one, code in zip(workers, codes, strict=True) if code == 1]
    for worker, code in zip(workers, codes, strict=True):
        worker.say(Drained([]))
        worker.exit(code)

    assert await soon(stopping) == cut
    assert stage.supervisor.pool.exit_code == 7


async def test_who_came_to_a_closed_server_is_not_idle(stage: Stage) -> None:
    """A worker gives it back unserved: in a stop, too, it goes to one that has the server still."""
    stage.supervisor.pool._factory.families = [socket.AF_INET]
    first, second = await stage.start(2)
    stage.supervisor.mark_stopping()
    client, accepted = tcp_pair()
    with client, accepted:
        assert give(first.handoff, [accepted.fileno()], bytes([200]))
        handles = [stage.handle(worker) for worker in (first, second)]
        await turns_until(lambda: sum(one.backend.queued for one in handles) == 1)

    assert close_taken(first) + close_taken(second) == 1


@pytest.mark.parametrize("why", ["alone", "not ready", "draining", "disconnected"])
async def test_connections_do_not_move_where_nobody_serves(make_stage: MakeStage, why: str) -> None:
    """Only one that is ready and connected can take them."""
    stage = await make_stage(restart="never")
    first, *others = await stage.start(1 if why in ("alone", "not ready") else 2)
    if why == "not ready":
        await soon(stage.supervisor.fork({}))
        (await stage.spawner.next()).say(Online())
        await stage.event(WorkerForked)
        await turns()
    if why == "draining":
        stage.handle(others[0]).drain()
    if why == "disconnected":
        others[0].channel.abort()
        await stage.event(WorkerDisconnected)

    stage.handle(first).drain()

    assert await first.hear() == Drain(30.0, moving=False, idle_grace=1.0)


async def test_a_worker_that_asks_to_drain_is_told_to(stage: Stage) -> None:
    """Its own code, or a TERM from outside, wants it to finish."""
    worker, _ = await stage.start(2)
    worker.say(DrainRequest("drain"))

    assert await worker.hear() == Drain(30.0, moving=True, idle_grace=1.0)
    worker.exit(0)
    exited = await stage.event(WorkerExited)
    assert (exited.voluntary, exited.reason) == (True, "drain")
    await stage.spawner.next()


async def test_the_last_one_that_serves_goes_when_the_next_is_ready(stage: Stage) -> None:
    """Both of two were sent a TERM: the second stays until there is another, which gets all."""
    first, second = await stage.start(2)
    for worker in (first, second):
        worker.say(DrainRequest("drain"))
    assert isinstance(await first.hear(), Drain)
    successor = await stage.spawner.next()
    await stage.dispatch(1)
    assert close_taken(second) == 1
    second.say(DrainRequest("drain"))  # a second TERM changes nothing

    successor.boot()

    assert await second.hear() == Drain(30.0, moving=True, idle_grace=1.0)
    await stage.dispatch(1)
    assert close_taken(successor) == 1


@pytest.mark.parametrize("restart", ["never", "on_failure"])
async def test_the_last_one_goes_at_once_where_no_other_will_come(
    make_stage: MakeStage, restart: str
) -> None:
    """There is nothing to wait for."""
    stage = await make_stage(restart=restart)
    (worker,) = await stage.start(1)

    stage.handle(worker).drain(5.0)

    assert await worker.hear() == Drain(5.0, moving=False, idle_grace=1.0)


async def test_one_that_is_not_to_be_replaced_waits_for_another_that_comes(stage: Stage) -> None:
    """A worker drains, and at once there is to be one fewer: the other is the last that serves."""
    first, second = await stage.start(2)
    first.say(DrainRequest("drain"))
    assert isinstance(await first.hear(), Drain)
    scaling = asyncio.create_task(stage.supervisor.scale("-1", "asked"))
    await turns_until(lambda: len(stage.supervisor.slots) == 1)
    first.exit(0)
    successor = await stage.spawner.next()
    assert "when another is ready" in stage.supervisor.busy_reason
    await stage.dispatch(1)
    assert close_taken(second) == 1

    successor.boot()

    assert isinstance(await second.hear(), Drain)
    second.exit(0)
    assert await soon(scaling) == 1


async def test_with_its_own_timeout_the_last_one_drains_by_that(stage: Stage) -> None:
    """Whenever it comes to that."""
    (worker,) = await stage.start(1)
    stage.handle(worker).drain(500.0)
    await stage.spawner.ready(1)

    assert await worker.hear() == Drain(500.0, moving=True, idle_grace=1.0)


@pytest.mark.parametrize("is_first", [True, False])
async def test_in_a_stop_no_worker_goes_before_the_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    """A TERM to all reaches workers before the primary, or after it: each drains in its turn."""
    worker, other = await stage.start(2)
    workers = stage.supervisor.pool
    if is_first:
        monkeypatch.setattr("aiocluster.primary.workers.pool._SAME_SIGNAL", 1000.0)
        worker.say(DrainRequest("drain"))
        await turns_until(lambda: bool(workers._asking))
        assert workers.busy_reason == "a worker has asked to drain"
    stage.supervisor.announce_stop()
    if not is_first:
        worker.say(DrainRequest("drain"))
    stopping = asyncio.create_task(stage.supervisor.stop(1000.0))

    for one in (worker, other):
        heard = [await one.hear() for _ in range(2)]
        assert heard == [Unready(), Drain(1000.0, moving=False, stopping=True, idle_grace=1.0)]
        one.exit(0)
    await soon(stopping)


async def test_a_stop_that_follows_a_workers_term_is_a_term_to_all(stage: Stage) -> None:
    """The workers heard it first: none goes before the others, and none is replaced."""
    first, second = await stage.start(2)
    for worker in (first, second, first):
        worker.say(DrainRequest("drain"))
    await turns_until(lambda: "asked to drain" in stage.supervisor.busy_reason)
    stage.supervisor.announce_stop()
    await turns_until(lambda: not stage.supervisor.busy_reason)
    stopping = asyncio.create_task(stage.supervisor.stop(1000.0))

    for worker in (first, second):
        heard = [await worker.hear() for _ in range(2)]
        assert heard == [Unready(), Drain(1000.0, moving=False, stopping=True, idle_grace=1.0)]
        worker.exit(0)
    await soon(stopping)
    assert len(stage.spawner.workers) == 2


async def test_what_moves_as_a_stop_begins_goes_to_those_that_still_serve(stage: Stage) -> None:
    """No more is moved from then on."""
    first, second = await stage.start(2)
    stage.handle(first).drain()
    assert await first.hear() == Drain(30.0, moving=True, idle_grace=1.0)
    give_back(first, 3)

    stage.supervisor.mark_stopping()
    await turns_until(lambda: stage.handle(second).backend.queued == 3)

    assert close_taken(second) == 3
    assert await first.hear() == Drain(30.0, moving=False, stopping=True, idle_grace=1.0)


async def test_a_boot_failure_is_told_with_its_traceback_once(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """A crash loop logs its cause each time, but not the same traceback again and again."""
    (worker,) = await stage.start(1)
    worker.exit(1)
    for _ in range(3):
        worker = await stage.spawner.next()
        worker.fail_to_boot("ValueError: no database", "Traceback (most recent …)")
        await stage.event(WorkerExited)
    await stage.spawner.next()

    assert caplog.text.count("ValueError: no database") == 3
    assert caplog.text.count("Traceback (most recent …)") == 1


async def test_messages_to_and_from_a_worker(stage: Stage) -> None:
    """A handle is what an event tells of, and can be answered."""
    (worker,) = await stage.start(1)
    await worker.channel.send({"ping": 1})
    event = await stage.event(WorkerMessage)

    await event.worker.send({"pong": event.message["ping"]})

    assert await worker.hear() == UserMessage({"pong": 1})


async def test_an_unread_subscriber_holds_back_the_senders(stage: Stage) -> None:
    """While an iterator has too much unread, messages are not paid for; then they are."""
    (worker,) = await stage.start(1)
    await stage.event(WorkerListening)
    payload, sent = b"x" * 4000, 0

    async def chatter() -> None:
        nonlocal sent
        while True:
            await worker.channel.send(payload)
            sent += 1

    chattering = asyncio.create_task(chatter())
    await turns(3000)
    held_at = sent
    assert held_at < 2000
    while sent <= held_at:
        await stage.event(WorkerMessage)

    chattering.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await chattering


async def test_env_cannot_hide_who_a_worker_is(stage: Stage) -> None:
    """What we promise about the environment holds whatever the user adds to it."""
    await stage.start(1)
    await soon(stage.supervisor.fork({"AIOCLUSTER_WORKER_ID": "99"}))

    assert (await stage.spawner.next()).fork.env["AIOCLUSTER_WORKER_ID"] == "2"


async def test_stop_names_who_had_to_be_cut(stage: Stage) -> None:
    """A worker that gave up requests says so, and the caller hears of it."""
    polite, slow = await stage.start(2)
    name = str(stage.handle(slow))
    stopping = asyncio.create_task(stage.supervisor.stop(5.0))
    await turns()
    polite.exit(0)
    slow.say(Drained(["GET /slow from 127.0.0.1"]))
    slow.exit(1)

    assert await soon(stopping) == [name]


async def test_stop_kills_who_does_not_end_and_names_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blocked worker holds up nobody beyond the timeout and its grace."""
    polite, stuck = await stage.start(2)
    name = str(stage.handle(stuck))
    stopping = asyncio.create_task(stage.supervisor.stop(1000.0))
    await polite.hear()
    polite.exit(0)
    await stage.event(WorkerExited)
    monkeypatch.setattr("aiocluster.primary.workers.handle.KILL_GRACE", 0.0)
    stage.handle(stuck).begin_drain("stop", 0.0)

    assert await soon(stopping) == [name]
    assert await soon(stuck.process.signals.get()) == signal.SIGKILL


async def test_what_dead_workers_counted_stays_in_the_totals(stage: Stage) -> None:
    """Counters never go backwards, whoever dies; its row is free for another."""
    (worker,) = await stage.start(1)
    worker.row[CONNECTIONS_TAKEN] = 17
    worker.row[OTHER_FDS] = 5
    worker.die_of(signal.SIGKILL)
    replacement = await stage.spawner.next()
    await stage.event(WorkerExited)
    replacement.row[CONNECTIONS_TAKEN] = 3

    snapshot = await soon(anext(stage.reporter.subscribe(0.001)))

    assert snapshot.total.connections_total == 20
    assert replacement.row[OTHER_FDS] == 0


# ---- workers that accept by themselves


class FakeDoors:
    """What the supervisor needs of Doors, and of their listeners."""

    def __init__(self) -> None:
        self.listeners = self
        self.addresses = (("127.0.0.1", 4711),)
        self.families = [2]
        self.shared = {0: 0}
        self.are_listening = False
        self.left_to_workers: list[bool] = []

    def leave_to_workers(self, on: bool) -> None:
        self.left_to_workers.append(on)


async def test_workers_accept_from_when_clients_may_connect(stage: Stage) -> None:
    """Who comes later does so at once; each hears of how many it is one."""
    ingress = FakeDoors()
    stage.supervisor.listen_on(ingress)  # type: ignore[arg-type]
    first, second = await stage.start(2)
    ingress.are_listening = True
    stage.supervisor.begin_accepting()

    assert [await first.hear(), await second.hear()] == [Accept(True, 2)] * 2
    forking = asyncio.create_task(stage.supervisor.fork({}))
    third = await stage.spawner.next()
    third.boot()
    await soon(forking)
    assert await third.hear() == Accept(True, 3)
    assert set(ingress.left_to_workers) == {True}


async def test_a_worker_that_leaves_accepts_no_more(stage: Stage) -> None:
    """It is told before it is told to drain."""
    ingress = FakeDoors()
    ingress.are_listening = True
    stage.supervisor.listen_on(ingress)  # type: ignore[arg-type]
    (worker,) = await stage.start(1)
    assert await worker.hear() == Accept(True, 1)

    stage.handle(worker).begin_drain("drain")

    assert await worker.hear() == Accept(False)
    assert isinstance(await worker.hear(), Drain)


async def test_the_primary_accepts_while_somebody_serves_who_cannot(stage: Stage) -> None:
    """As after an upgrade from another policy: until that worker is replaced."""
    ingress = FakeDoors()
    ingress.are_listening = True
    stage.supervisor.listen_on(ingress)  # type: ignore[arg-type]
    (worker,) = await stage.start(1)
    stage.handle(worker).shared = frozenset()

    stage.supervisor.begin_accepting()
    able = ingress.left_to_workers[-1]
    stage.handle(worker).begin_drain("drain")

    assert (able, ingress.left_to_workers[-1]) == (False, True)


# ---- servers of its own


ANY = Endpoint(int(socket.AF_INET), "127.0.0.1", 0)


async def listener_of(worker: FakeWorker) -> Bound:
    """Let a worker listen, and serve."""
    worker.say(Listen(1, [ANY], 0, 100))
    while not isinstance(message := await worker.hear(), Listening):
        pass
    (bound,) = message.bound
    worker.say(Serving(bound.listener))
    return bound


async def taken_by(worker: FakeWorker) -> None:
    """Wait until it is given a connection, and close that."""
    await turns_until(lambda: close_taken(worker) == 1)


async def test_who_listens_as_it_starts_is_given_connections_once_it_is_ready(
    stage: Stage,
) -> None:
    """And a job as any other."""
    starting = asyncio.create_task(stage.supervisor.start(1))
    worker = await stage.spawner.next()
    bound = await listener_of(worker)
    with socket.create_connection(("127.0.0.1", bound.endpoint.port)):
        await turns(20)
        assert close_taken(worker) == 0
        worker.say(Online(), Ready(serves=False))
        await taken_by(worker)
    await soon(starting)


async def test_who_is_held_back_is_given_none_of_its_servers_either(stage: Stage) -> None:
    """Until it is admitted."""
    (first,) = await stage.start(1)
    old = await listener_of(first)
    (slot,) = stage.supervisor.slots
    generation = stage.generations.current
    renewing = asyncio.create_task(slot.renew(generation, "reload", hold=1000.0))
    (second,) = await stage.spawner.ready(1)
    assert await listener_of(second) == old
    with socket.create_connection(("127.0.0.1", old.endpoint.port)):
        await taken_by(first)
    with socket.create_connection(("127.0.0.1", old.endpoint.port)):
        await taken_by(first)

    stage.supervisor.admit(stage.handle(second), stage.handle(first))
    for worker in (first, second):
        with socket.create_connection(("127.0.0.1", old.endpoint.port)):
            await taken_by(worker)
    renewing.cancel()
    await turns()


async def test_who_drains_is_given_none_of_its_servers_any_more(stage: Stage) -> None:
    """And what it still wants is not heard: it has nothing any more."""
    first, second = await stage.start(2)
    bound = await listener_of(first)
    assert await listener_of(second) == bound
    stage.handle(first).drain()
    first.say(Serving(bound.listener), Listen(2, [ANY], 1, 100), Drained([]))

    for _ in range(2):
        with socket.create_connection(("127.0.0.1", bound.endpoint.port)):
            await taken_by(second)
    assert [server.workers for server in stage.servers.state()] == [{2: [bound.listener]}]


async def test_what_a_dead_worker_had_not_taken_of_its_servers_goes_to_the_next(
    stage: Stage,
) -> None:
    """The one in its place, which asks for the same."""
    (worker,) = await stage.start(1)
    bound = await listener_of(worker)
    with socket.create_connection(("127.0.0.1", bound.endpoint.port)):
        await turns_until(lambda: stage.handle(worker).backend.sent == 1)
        worker.process.on_end = lambda: None  # what it had not taken stays in the kernel's queue
        worker.die_of(signal.SIGKILL)
        (successor,) = await stage.spawner.ready(1)
        assert await listener_of(successor) == bound
        await taken_by(successor)
    worker.close()


async def test_who_dies_between_two_halves_of_a_stop_is_named(stage: Stage) -> None:
    """What it had begun is lost, as that of one that is cut."""
    first, _ = await stage.start(2)
    stage.supervisor.announce_stop()
    stage.supervisor.mark_stopping()
    name = str(stage.handle(first))
    first.die_of(signal.SIGKILL)
    await stage.event(WorkerExited)

    stopping = asyncio.create_task(stage.supervisor.stop(10.0))
    await turns()
    for worker in stage.spawner.workers[1:]:
        worker.say(Drained([]))
        worker.exit(0)

    assert await soon(stopping) == [name]


async def test_who_dies_while_all_serve_on_is_replaced_as_ever(stage: Stage) -> None:
    """In the pre_drain_wait: that is no loss of the stop."""
    (first,) = await stage.start(1)
    stage.supervisor.announce_stop()
    first.die_of(signal.SIGKILL)
    (second,) = await stage.spawner.ready(1)
    stage.supervisor.mark_stopping()

    stopping = asyncio.create_task(stage.supervisor.stop(10.0))
    await turns()
    second.say(Drained([]))
    second.exit(0)

    assert await soon(stopping) == []


async def test_what_another_program_told_to_drain_still_counts(make_stage: MakeStage) -> None:
    """Its connections are open, whoever is the primary."""
    before, after = await make_stage(), await make_stage()
    (worker,) = await before.start(1)
    await before.dispatch(3)
    before.handle(worker).begin_drain("drain")
    state = _with_descriptors_of_its_own(before.handle(worker).state())
    begin = await after.supervisor.pool.adopt([state])
    after.dispatcher._places = AdmissionControl(lambda: [], 3)
    begin()
    await after.start(1)
    waiting = connections(1)
    after.dispatcher.dispatch(waiting, 1e9)

    assert after.dispatcher.state() == waiting


def _with_descriptors_of_its_own(state: WorkerState) -> WorkerState:
    """As after an exec, but both programs are here."""
    assert state.channel is not None
    backend = msgspec.structs.replace(
        state.backend, sender=os.dup(state.backend.sender), receiver=os.dup(state.backend.receiver)
    )
    channel = msgspec.structs.replace(state.channel, fd=os.dup(state.channel.fd))
    stacks = os.dup(state.stacks)
    return msgspec.structs.replace(
        state, worker_id=99, backend=backend, channel=channel, stacks=stacks
    )

"""All workers. The spawner is a fake, and the test plays the workers it starts."""

import asyncio
import contextlib
import errno
import os
import signal
import socket

import pytest

from aiocluster.errors import BootError, ClusterStopping
from aiocluster.events import (
    StopBegan,
    WorkerDisconnected,
    WorkerExited,
    WorkerForked,
    WorkerListening,
    WorkerMessage,
    WorkerOnline,
)
from aiocluster.ipc.handoff import give, handoff_pair
from aiocluster.ipc.messages import Drain, Drained, DrainRequest, Online, Unready, UserMessage
from aiocluster.ipc.scoreboard import CONNECTIONS_TAKEN, OTHER_FDS
from tests.support.connections import close_all, connections, open_fds
from tests.support.supervision import MakeStage, Stage
from tests.support.waiting import soon, turns, turns_until
from tests.support.workers import FakeWorker


def close_taken(worker: FakeWorker) -> int:
    """Take what the worker was given; return how many."""
    taken = worker.taken()
    for fd, _ in taken:
        os.close(fd)
    worker.row[CONNECTIONS_TAKEN] += len(taken)
    return len(taken)


# ---- the first start


async def test_start_returns_when_all_are_ready(stage: Stage) -> None:
    """Connections are let in only when there are workers, and evenly from the first."""
    starting = asyncio.create_task(stage.supervisor.start(2))
    first, second = await stage.spawner.next(), await stage.spawner.next()
    first.boot()
    await stage.event(WorkerListening)
    await turns(20)
    assert not starting.done()

    second.boot()
    await soon(starting)

    assert stage.door == ["resume"]
    assert sorted(stage.supervisor.workers) == [1, 2]


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
    stage.supervisor.addresses = (("127.0.0.1", 4711),)
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


async def test_when_nothing_comes_up_start_fails_with_the_first_cause(stage: Stage) -> None:
    """The user sees why, with the traceback, once; and nothing is tried again."""
    starting = asyncio.create_task(stage.supervisor.start(2))
    for _ in range(2):
        worker = await stage.spawner.next()
        worker.fail_to_boot(f"ValueError: no {worker.fork.slot}", "Traceback …")

    with pytest.raises(BootError) as caught:
        await soon(starting)

    assert (caught.value.cause, caught.value.traceback) == ("ValueError: no 0", "Traceback …")
    assert len(stage.spawner.workers) == 2


async def test_when_all_die_without_a_word_start_says_how(
    make_stage: MakeStage,
) -> None:
    """A worker that crashes while it imports cannot tell why; how it ended can be told."""
    stage = await make_stage(restart="never")
    starting = asyncio.create_task(stage.supervisor.start(1))
    worker = await stage.spawner.next()
    worker.die_of(signal.SIGSEGV)

    pid = worker.process.pid
    with pytest.raises(
        BootError, match=rf"worker 1 \(pid {pid}\) was killed by Segm.* \(signal 11"
    ):
        await soon(starting)


async def test_when_some_come_up_start_goes_on(stage: Stage) -> None:
    """Half a cluster serves; the rest is tried again."""
    starting = asyncio.create_task(stage.supervisor.start(2))
    good, bad = await stage.spawner.next(), await stage.spawner.next()
    good.boot()
    bad.fail_to_boot("ValueError: no")

    await soon(starting)

    again = await stage.spawner.next()
    assert again.fork.slot == bad.fork.slot


async def test_a_slow_one_does_not_hold_up_the_others_for_ever(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest gets a few seconds, then the cluster serves without it."""
    monkeypatch.setattr("aiocluster.primary.first_start._START_TOGETHER", 0.01)
    starting = asyncio.create_task(stage.supervisor.start(2))
    quick = await stage.spawner.next()
    quick.boot()

    await soon(starting)

    assert "1 workers are still starting; serving without them" in caplog.text


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


async def test_a_fork_that_fails_at_first_is_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may be short of something for a moment."""
    monkeypatch.setattr("aiocluster.primary.slot._FORK_RETRY", 0.001)
    before = open_fds()
    stage.spawner.refuse(3)

    (worker,) = await stage.start(1)

    assert worker.fork.worker_id == 4  # ids are never used again
    worker.close()
    worker.exit(0)
    stage.spawner.refuse(1000)
    await stage.event(WorkerExited)
    await stage.supervisor.stop(0.0)
    assert {fd for fd in open_fds() - before if "scoreboard" not in fd} == set()


async def test_a_slot_is_not_lost_for_want_of_a_descriptor(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of descriptors when a worker is due, it is tried again until there are some."""
    monkeypatch.setattr("aiocluster.primary.slot._FORK_RETRY", 0.001)
    troubles = [OSError(errno.EMFILE, "Too many open files")] * 3

    def short_of_descriptors() -> tuple[socket.socket, socket.socket]:
        if troubles:
            raise troubles.pop()
        return handoff_pair()

    monkeypatch.setattr("aiocluster.primary.hiring.handoff_pair", short_of_descriptors)

    (worker,) = await stage.start(1)

    assert worker.fork.worker_id == 4


# ---- the life of a cluster


async def test_a_dead_worker_is_replaced_in_its_slot(stage: Stage) -> None:
    """The slot keeps its number; the worker has a new id, and its restarts are counted."""
    _, second = await stage.start(2)

    second.die_of(signal.SIGKILL)
    replacement = await stage.spawner.next()

    assert replacement.fork.slot == 1
    assert replacement.fork.worker_id == 3
    await stage.event(WorkerExited)
    handle = (await stage.event(WorkerForked)).worker
    assert handle.restarts == 1


async def test_what_a_dead_worker_had_not_taken_goes_to_others(stage: Stage) -> None:
    """A connection that was sent and not taken is not lost, nor handed out twice."""
    first, second = await stage.start(2)
    await stage.dispatch(10)
    assert close_taken(first) == 5

    second.process.on_end = lambda: None  # what it had not taken stays in the kernel's queue
    second.die_of(signal.SIGKILL)

    assert close_taken(first) == 5
    second.close()


async def test_with_all_workers_dead_connections_wait_for_the_next(stage: Stage) -> None:
    """Nobody is there: the door is shut, and what was accepted waits."""
    (worker,) = await stage.start(1)
    await stage.dispatch(3)
    worker.process.on_end = lambda: None
    worker.die_of(signal.SIGKILL)
    assert stage.door == ["resume", "pause"]
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
    assert await first.hear() == Drain(30.0, moving=True)

    give_back(first, 3)
    await turns_until(lambda: stage.handle(second).outbox.queued == 3)

    assert (close_taken(first), close_taken(second)) == (0, 3)


async def test_what_a_dead_worker_had_given_back_goes_to_others(stage: Stage) -> None:
    """It was sent, so it is not lost."""
    first, second = await stage.start(2)
    stage.handle(first).drain()
    give_back(first, 3)

    first.die_of(signal.SIGKILL)
    await turns_until(lambda: stage.handle(second).outbox.queued == 3)

    assert close_taken(second) == 3


async def test_what_is_given_back_during_a_stop_is_closed(stage: Stage) -> None:
    """Idle connections end in a stop, and nobody is left to go on with them."""
    first, second = await stage.start(2)
    stage.handle(first).drain()
    before = len(open_fds())
    stopping = asyncio.create_task(stage.supervisor.stop(1000.0))
    assert await second.hear() == Drain(1000.0, moving=False, stopping=True)

    give_back(first, 3)
    await turns(20)

    assert len(open_fds()) == before
    assert stage.dispatcher.waiting == 0
    assert [await first.hear() for _ in range(2)][1] == Drain(1000.0, moving=False, stopping=True)
    for worker in (first, second):
        worker.exit(0)
    await soon(stopping)


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

    assert await first.hear() == Drain(30.0, moving=False)


async def test_a_worker_that_asks_to_drain_is_told_to(stage: Stage) -> None:
    """Its own code, or a TERM from outside, wants it to finish."""
    (worker,) = await stage.start(1)
    worker.say(DrainRequest("drain"))

    assert await worker.hear() == Drain(30.0, moving=False)
    worker.exit(0)
    exited = await stage.event(WorkerExited)
    assert (exited.voluntary, exited.reason) == (True, "drain")
    await stage.spawner.next()


async def test_at_max_requests_the_new_one_comes_first(stage: Stage) -> None:
    """The old one is drained only when its successor serves, in the same slot."""
    (old,) = await stage.start(1)
    old.say(DrainRequest("max_requests"))
    new = await stage.spawner.next()
    assert old.said_to_it.empty()
    assert new.fork.slot == old.fork.slot
    new.boot()

    assert await old.hear() == Drain(30.0, moving=True)
    await stage.dispatch(2)
    assert (close_taken(old), close_taken(new)) == (0, 2)
    old.exit(0)
    assert (await stage.event(WorkerExited)).reason == "max_requests"


async def test_at_max_requests_one_that_has_no_successor_just_ends(
    make_stage: MakeStage,
) -> None:
    """With restart="never" a worker that is due drains, and there is nobody to go on."""
    stage = await make_stage(restart="never")
    (worker,) = await stage.start(1)

    worker.say(DrainRequest("max_requests"))

    assert await worker.hear() == Drain(30.0, moving=False)


async def test_one_that_is_due_while_the_cluster_stops_just_ends(stage: Stage) -> None:
    """Its last requests may well be those that make it due; what it says after is heard."""
    (worker,) = await stage.start(1)
    name = str(stage.handle(worker))
    stopping = asyncio.create_task(stage.supervisor.stop(5.0))
    await worker.hear()
    worker.say(DrainRequest("max_requests"), Drained(["GET /slow from 127.0.0.1"]))
    await turns(20)
    worker.exit(1)

    assert await soon(stopping) == [name]
    assert len(stage.spawner.workers) == 1


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


# ---- fork, stop, kill


async def test_a_forked_worker_has_its_env_and_so_has_its_replacement(stage: Stage) -> None:
    """A worker with a role of its own keeps it over every restart."""
    await stage.start(1)
    handle = await soon(stage.supervisor.fork({"ROLE": "cron"}))
    worker = await stage.spawner.next()
    assert worker.fork.worker_id == handle.id
    assert worker.fork.env["ROLE"] == "cron"

    worker.exit(1)

    replacement = await stage.spawner.next()
    assert replacement.fork.env["ROLE"] == "cron"
    assert replacement.fork.slot == worker.fork.slot == 1


async def test_env_cannot_hide_who_a_worker_is(stage: Stage) -> None:
    """What we promise about the environment holds whatever the user adds to it."""
    await stage.start(1)
    await soon(stage.supervisor.fork({"AIOCLUSTER_WORKER_ID": "99"}))

    assert (await stage.spawner.next()).fork.env["AIOCLUSTER_WORKER_ID"] == "2"


async def test_a_slot_that_has_ended_can_be_filled_by_fork(
    make_stage: MakeStage,
) -> None:
    """Slot numbers stay as small as they can."""
    stage = await make_stage(restart="never")
    first, _ = await stage.start(2)
    first.exit(0)
    await stage.event(WorkerExited)
    await turns()

    await soon(stage.supervisor.fork({}))

    assert (await stage.spawner.next()).fork.slot == 0


async def test_a_stop_that_is_announced_is_told_to_all(stage: Stage) -> None:
    """To those who come after, too; they are all still replaced until it begins."""
    one, two = await stage.start(2)
    stage.supervisor.announce_stop()

    assert await stage.event(StopBegan) == StopBegan()
    for worker in (one, two):
        assert await worker.hear() == Unready()
    one.die_of(signal.SIGKILL)
    successor = await stage.spawner.next()
    assert await successor.hear() == Unready()


@pytest.mark.parametrize("how", ["hurry", "kill_all"])
async def test_between_announcement_and_stop_all_may_be_ended(stage: Stage, how: str) -> None:
    """Nobody is replaced any more then."""
    (worker,) = await stage.start(1)
    stage.supervisor.announce_stop()

    getattr(stage.supervisor, how)()

    worker.exit(0)
    await stage.event(WorkerExited)
    await turns(20)
    assert len(stage.spawner.workers) == 1
    with pytest.raises(ClusterStopping):
        await stage.supervisor.fork({})


async def test_stop_drains_all_and_replaces_nobody(stage: Stage) -> None:
    """Each finishes what it has; when all have, stop returns and names nobody."""
    workers = await stage.start(3)
    stopping = asyncio.create_task(stage.supervisor.stop(5.0))
    for worker in workers:
        assert await worker.hear() == Drain(5.0, moving=False, stopping=True)
        worker.exit(0)

    assert await soon(stopping) == []
    assert len(stage.spawner.workers) == 3
    assert stage.supervisor.workers == {}
    reasons = [(await stage.event(WorkerExited)).reason for _ in range(3)]
    assert reasons == ["stop"] * 3


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
    monkeypatch.setattr("aiocluster.primary.handle.KILL_GRACE", 0.0)
    stage.handle(stuck).begin_drain("stop", 0.0)

    assert await soon(stopping) == [name]
    assert await soon(stuck.process.signals.get()) == signal.SIGKILL


async def test_killing_all_ends_a_stop_at_once(stage: Stage) -> None:
    """The second Ctrl-C does not wait."""
    workers = await stage.start(2)
    names = {str(stage.handle(worker)) for worker in workers}
    stopping = asyncio.create_task(stage.supervisor.stop(1000.0))
    await turns()

    stage.supervisor.kill_all()

    assert set(await soon(stopping)) == names


async def test_stop_before_any_start_is_nothing(stage: Stage) -> None:
    """A cluster that failed before its first worker is stopped the same way."""
    assert await soon(stage.supervisor.stop(5.0)) == []


async def test_a_stopping_cluster_forks_nobody(stage: Stage) -> None:
    """What comes too late is refused, not half done."""
    await soon(stage.supervisor.stop(0.0))

    with pytest.raises(ClusterStopping):
        await stage.supervisor.fork({})


async def test_a_stop_during_the_start_ends_those_that_are_starting(stage: Stage) -> None:
    """Workers that are not ready yet are drained like the others."""
    starting = asyncio.create_task(stage.supervisor.start(2))
    workers = [await stage.spawner.next() for _ in range(2)]
    starting.cancel()
    stopping = asyncio.create_task(stage.supervisor.stop(0.0))
    for worker in workers:
        assert await worker.hear() == Drain(0.0, moving=False, stopping=True)
        worker.exit(0)

    assert await soon(stopping) == []
    with contextlib.suppress(asyncio.CancelledError):
        await starting


async def test_a_start_that_is_stopped_before_any_fork_fails_as_a_start_does(
    stage: Stage,
) -> None:
    """Whoever started hears a BootError, whatever the slots were waiting for."""
    stage.spawner.refuse(1000)
    starting = asyncio.create_task(stage.supervisor.start(2))
    await turns()

    await soon(stage.supervisor.stop(0.0))

    with pytest.raises(BootError, match=r"cannot fork|no worker was forked"):
        await soon(starting)


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

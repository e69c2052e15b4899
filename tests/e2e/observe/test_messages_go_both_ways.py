"""Messages between the primary and its workers: in order, whole, bounded, refused by name."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from aiocluster import MessageError, WorkerGone, WorkerMessage, WorkerOnline
from aiocluster.ipc.channel import WINDOW_BYTES
from tests.support.cluster import OBEDIENT_APP, SILENT_APP, ask, first, serving
from tests.support.program import PATIENCE, until

LARGE = 800_004  # what Node's own test of large messages sends

VALUES: list[Any] = [
    None,
    True,
    -(2**63),
    2**64 - 1,
    1.5,
    "ü\n\0",
    b"\xff\0",
    [],
    {},
    [1, [2, {"a": b"b", 3: "four"}]],
    datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
]


async def test_every_kind_of_value_comes_back_as_it_was() -> None:
    """There and back: None, bool, int, float, text, bytes, list, dict, datetime."""
    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):
        worker = first(cluster)
        for value in VALUES:
            await worker.send(["echo", value])
        await heard.next(WorkerMessage, nth=len(VALUES))

    assert heard.messages(worker) == VALUES


async def test_a_large_message_crosses_whole_in_both_directions() -> None:
    """800,004 bytes there and back; more than a socket holds at once."""
    payload = bytes(range(256)) * (LARGE // 256) + bytes(LARGE % 256)
    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):
        await first(cluster).send(["echo", payload])
        assert await heard.message() == payload


async def test_thousands_of_messages_come_in_order_both_ways() -> None:
    """5,000 there and back, none missing, none twice, none overtaking."""
    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):
        worker = first(cluster)
        for number in range(5000):
            await worker.send(["echo", number])
        await heard.message(lambda message: message == 4999)

    assert heard.messages(worker) == list(range(5000))


async def test_messages_from_all_workers_carry_their_sender() -> None:
    """The event's worker is the one that sent."""
    async with serving(OBEDIENT_APP, workers=3) as (cluster, heard):
        for worker in cluster.workers.values():
            await worker.send(["echo", worker.id])
        await heard.next(WorkerMessage, nth=3)

    assert all(event.worker.id == event.message for event in heard.of_kind(WorkerMessage))


async def test_a_message_sent_at_online_is_received() -> None:
    """A worker that is only just online, its app not started, gets its message later."""
    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):

        async def greet(event: WorkerOnline) -> None:
            await event.worker.send(["echo", "welcome"])

        cluster.on(WorkerOnline, greet)
        added = await cluster.fork()
        await heard.message(lambda message: message == "welcome")

    assert heard.messages(added) == ["welcome"]


async def test_a_message_sent_right_after_the_fork_is_received() -> None:
    """Not even online yet: what is sent waits in the channel."""
    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):
        added = await cluster.fork()
        await added.send(["echo", "early"])
        await heard.message(lambda message: message == "early")

    assert heard.messages(added) == ["early"]


async def test_what_came_before_the_first_reader_is_kept() -> None:
    """A worker that begins to read late reads from the first message on."""
    async with serving(SILENT_APP, workers=1) as (cluster, _):
        for number in range(100):
            await first(cluster).send(number)
        assert await ask(cluster, "/read/100") == str(list(range(100)))


async def test_a_worker_that_does_not_read_makes_its_sender_wait() -> None:
    """`send` waits when WINDOW_BYTES are unread, and goes on when they have been read."""
    part = bytes(WINDOW_BYTES // 8)
    sent: list[int] = []
    async with serving("tests.support.apps:make_silent_app", workers=1) as (cluster, _):

        async def send_more_than_fits() -> None:
            for number in range(16):
                await first(cluster).send([number, part])
                sent.append(number)

        sending = asyncio.create_task(send_more_than_fits())
        await until(lambda: len(sent) == 7, "the window does not fill")
        # The worker answers, so what it was going to read of the channel it has had.
        assert await ask(cluster, "/read_numbers/0") == "[]"
        assert not sending.done()
        assert len(sent) == 7
        assert await ask(cluster, "/read_numbers/16") == str(list(range(16)))
        async with asyncio.timeout(PATIENCE):
            await sending

    assert sent == list(range(16))


async def test_a_full_inbox_hides_no_drain() -> None:
    """The cluster stops well while a worker's window is full and a sender waits."""
    async with serving(SILENT_APP, workers=1) as (cluster, _):
        worker = first(cluster)
        senders = [asyncio.create_task(worker.send(bytes(WINDOW_BYTES // 2))) for _ in range(6)]
        await until(lambda: any(sender.done() for sender in senders), "nothing is sent")
        assert await cluster.stop() == []
        results = await asyncio.gather(*senders, return_exceptions=True)

    assert {type(result) for result in results} == {type(None), WorkerGone}


async def test_the_primary_refuses_what_cannot_be_sent_and_names_it() -> None:
    """MessageError at the sender, with the path to the value; the channel lives on."""
    refused = {"users": [{"name": "a"}, {"name": object()}]}
    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):
        with pytest.raises(MessageError, match=r"message\['users'\]\[1\]\['name'\]"):
            await first(cluster).send(refused)
        with pytest.raises(MessageError, match=r"message\['users'\]\[1\]\['name'\]"):
            await cluster.broadcast(refused)
        await first(cluster).send(["echo", "still here"])
        assert await heard.message() == "still here"


async def test_a_worker_refuses_what_cannot_be_sent_and_names_it() -> None:
    """The same at the other end."""
    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):
        await first(cluster).send(["send_what_cannot_be_sent"])
        _, error = await heard.message()

    assert "message['users'][1]['name'] cannot be sent" in error


async def test_broadcast_reaches_every_worker() -> None:
    """It returns how many took it; each has it once."""
    async with serving(OBEDIENT_APP, workers=4) as (cluster, heard):
        assert await cluster.broadcast(["echo", "all"]) == 4
        await heard.next(WorkerMessage, nth=4)
        senders = sorted(event.worker.id for event in heard.of_kind(WorkerMessage))

    assert senders == [1, 2, 3, 4]


async def test_send_to_a_worker_that_exited_raises_worker_gone() -> None:
    """The handle of a dead worker says so, and a broadcast leaves it out."""
    async with serving(OBEDIENT_APP, restart="never") as (cluster, _heard):
        dead = first(cluster)
        await dead.kill(9)
        with pytest.raises(WorkerGone, match="is no longer connected"):
            await dead.send("anybody?")
        assert await cluster.broadcast(["echo", "all"]) == 1


async def test_messages_still_flow_while_a_worker_drains() -> None:
    """Draining ends connections, not the channel: it closes when the worker leaves."""
    async with serving(OBEDIENT_APP, workers=1, restart="never") as (cluster, heard):
        worker = first(cluster)
        holding = asyncio.create_task(ask(cluster, "/hold"))
        await heard.message(lambda message: message == "holding")
        exit_ = worker.drain()
        await worker.send(["echo", "while draining"])
        await heard.message(lambda message: message == "while draining")
        await worker.send(["release"])
        assert await holding == "released"
        assert (await exit_).reason == "drain"
        with pytest.raises(WorkerGone):
            await worker.send("after")

"""Node's rows on messages."""

from typing import Any

import pytest

from aiocluster import MessageError, WorkerMessage, WorkerOnline
from aiocluster.ipc.messages import Credit
from tests.support.cluster import OBEDIENT_APP, first, serving, who_answers

LARGE = 800_004


# node: message
async def test_messages_go_both_ways_and_the_event_carries_the_worker() -> None:
    """What the primary sends comes back as an event of that worker."""
    async with serving(OBEDIENT_APP, workers=2) as (cluster, heard):
        for worker in cluster.workers.values():
            await worker.send(["echo", f"to {worker.id}"])
            await heard.next(WorkerMessage, nth=worker.id)
        assert [heard.messages(worker) for worker in cluster.workers.values()] == [
            ["to 1"],
            ["to 2"],
        ]


# node: worker-init
async def test_what_is_sent_at_online_arrives() -> None:
    """The app is not started yet; the message waits for it."""
    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):

        async def greet(event: WorkerOnline) -> None:
            await event.worker.send(["echo", "at online"])

        cluster.on(WorkerOnline, greet)
        await cluster.fork()
        assert await heard.message() == "at online"


# node: send-handle-large-payload (adapted: connections go another way than messages)
async def test_large_messages_cross_while_connections_are_handed_over() -> None:
    """800,004 bytes each way, beside a connection that is served meanwhile."""
    payload = b"x" * LARGE
    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):
        await first(cluster).send(["echo", payload])
        assert (await who_answers(cluster))["id"] == 1
        assert await heard.message() == payload


# node: invalid-message
async def test_a_bogus_message_of_our_own_kind_does_not_end_anything() -> None:
    """Credit that nobody owed: the worker serves on, messages still cross."""
    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):
        first(cluster).channel.post(Credit(1))
        await first(cluster).send(["echo", "alive"])
        assert await heard.message() == "alive"


# node: advanced-serialization (adapted: msgpack, and what it cannot carry is refused)
def circular() -> list[Any]:
    """A list that contains itself."""
    itself: list[Any] = []
    itself.append(itself)
    return itself


REFUSED: list[tuple[Any, str]] = [
    (circular(), "nests deeper than 500: is it circular"),
    ({"set": {1, 2}}, r"message\['set'\] cannot be sent: \{1, 2\} is a set"),
    ([0, 2**64], r"message\[1\] cannot be sent: the integer 18446744073709551616 does not fit"),
    ({"error": ValueError("x")}, r"message\['error'\] .* is a ValueError"),
    (print, "message cannot be sent: <built-in function print> is a builtin"),
    ("\ud800", "is not valid Unicode"),
    (bytes(17 * 1024 * 1024), "a message of 17825802 bytes is too large: at most 16777216 bytes"),
]


async def test_what_msgpack_cannot_carry_is_refused_at_the_sender() -> None:
    """MessageError with the path; nothing was sent, and the channel is as before."""
    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):
        for payload, error in REFUSED:
            with pytest.raises(MessageError, match=error):
                await first(cluster).send(payload)
        await first(cluster).send(["echo", "alive"])
        assert await heard.message() == "alive"


# node: advanced-serialization
async def test_what_changes_its_kind_on_the_way_is_known() -> None:
    """A tuple arrives as a list; a bytearray as bytes; keys of a dict keep their kind."""
    async with serving(OBEDIENT_APP, workers=1) as (cluster, heard):
        await first(cluster).send(["echo", [(1, 2), bytearray(b"b"), {1: "one", "1": "text"}]])
        assert await heard.message() == [[1, 2], b"b", {1: "one", "1": "text"}]

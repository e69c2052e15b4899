import asyncio
import contextlib
import os
import random
import socket
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import pytest

from aiocluster.errors import ChannelClosed, MessageError, ProtocolError
from aiocluster.ipc.channel import (
    LEAST_BYTES,
    TURN_BYTES,
    TURN_MESSAGES,
    WINDOW_BYTES,
    Channel,
    open_channel,
)
from aiocluster.ipc.framing import encode, encode_user
from aiocluster.ipc.handover import ChannelState
from aiocluster.ipc.messages import (
    Credit,
    Drain,
    DrainRequest,
    FromWorker,
    Message,
    Online,
    Ready,
    ToWorker,
    Unsubscribe,
    UserMessage,
)
from aiocluster.ipc.turns import Turns

PATIENCE = 60.0  # far above what anything here takes: a failure must not hang

Send = asyncio.Task[None]


class Side:
    """One end of a channel and all that it heard; it reads at once, unless told not to."""

    def __init__(self, expected: Any) -> None:
        self.channel = Channel(expected, self._on_message, self._on_closed)
        self.heard: list[Message] = []
        self._ours: list[Message] = []
        self.ends: list[ProtocolError | None] = []
        self.reading = True
        self.unread: list[tuple[Any, int]] = []
        self.peak_unread_bytes = 0
        self._unread_bytes = 0
        self._news = asyncio.Event()

    async def open(self, sock: socket.socket) -> Self:
        await open_channel(sock, self.channel)
        return self

    @property
    def payloads(self) -> list[Any]:
        """What the other side's user sent, as far as it came."""
        return [message.payload for message in self.heard if isinstance(message, UserMessage)]

    def read(self, number: int | None = None) -> None:
        """Read some unread messages of the user, or all."""
        taken, self.unread = self.unread[:number], self.unread[len(self.unread[:number]) :]
        for _, size in taken:
            self._unread_bytes -= size
            self.channel.consumed(size)

    def send(self, payload: Any) -> Send:
        return asyncio.ensure_future(self.channel.send(payload))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for messages, or the end, until `condition()`."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await self._news.wait()
                self._news.clear()

    async def until_heard(self, message: Message) -> None:
        """Wait for one of our messages."""
        await self.until(lambda: message in self._ours)

    async def until_closed(self) -> None:
        await self.until(lambda: bool(self.ends))

    def _on_message(self, message: Message, size: int) -> None:
        self.heard.append(message)
        if isinstance(message, UserMessage):
            self.unread.append((message.payload, size))
            self._unread_bytes += size
            self.peak_unread_bytes = max(self.peak_unread_bytes, self._unread_bytes)
            if self.reading:
                self.read()
        else:
            self._ours.append(message)
        self._news.set()

    def _on_closed(self, error: ProtocolError | None) -> None:
        self.ends.append(error)
        self._news.set()


class Pair:
    """Both ends of a channel."""

    def __init__(self) -> None:
        self.primary = Side(FromWorker)
        self.worker = Side(ToWorker)
        self._trips = 0

    async def round_trip(self) -> None:
        """Return when all that was sent before has arrived, both ways: an event, not a wait."""
        self._trips += 1
        self.worker.channel.post(Unsubscribe(self._trips))
        await self.primary.until_heard(Unsubscribe(self._trips))
        self.primary.channel.post(Drain(float(self._trips), False))
        await self.worker.until_heard(Drain(float(self._trips), False))

    async def waits(self, send: Send) -> bool:
        """Is this sender waiting, and not just slow?"""
        await self.round_trip()
        await self.round_trip()
        return not send.done()

    async def room(self) -> int:
        """Return how many bytes the primary may send before it has to wait, and send them."""
        payload = b"x" * 1000
        sends = [self.primary.send(payload) for _ in range(2 * WINDOW_BYTES // len(payload))]
        await self.round_trip()
        for send in sends:
            send.cancel()
        await asyncio.wait(sends)
        return sum(size for _, size in self.worker.unread)


@asynccontextmanager
async def connected() -> AsyncIterator[Pair]:
    pair = Pair()
    ours, theirs = socket.socketpair()
    await pair.primary.open(ours)
    await pair.worker.open(theirs)
    try:
        yield pair
    finally:
        for side in (pair.primary, pair.worker):
            side.channel.abort()
            await side.until_closed()


@asynccontextmanager
async def connected_to_socket() -> AsyncIterator[tuple[Side, socket.socket]]:
    """The primary's end, and at the other end whatever bytes a test writes."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        side = await Side(FromWorker).open(ours)
        try:
            yield side, theirs
        finally:
            side.channel.abort()
            await side.until_closed()


def filling() -> bytes:
    """Return a payload that takes the whole window."""
    return b"f" * (WINDOW_BYTES - 100)


# ---- messages


async def test_our_messages_go_both_ways_in_order() -> None:
    """What is posted is heard, as it was and in order."""
    async with connected() as pair:
        for number in range(200):
            pair.worker.channel.post(Unsubscribe(number))
            pair.primary.channel.post(Drain(float(number), True))
        await pair.primary.until_heard(Unsubscribe(199))
        await pair.worker.until_heard(Drain(199.0, True))

        assert pair.primary.heard == [Unsubscribe(number) for number in range(200)]
        assert pair.worker.heard == [Drain(float(number), True) for number in range(200)]


async def test_the_users_messages_go_both_ways_in_order() -> None:
    """Whatever their sizes, and whichever side sends."""
    async with connected() as pair:
        sent = [[number, "x" * (number * 97 % 5000)] for number in range(500)]
        for payload in sent:
            await pair.primary.channel.send(payload)
            await pair.worker.channel.send(payload)
        await pair.round_trip()

        assert pair.primary.payloads == sent
        assert pair.worker.payloads == sent


async def test_ours_and_the_users_keep_their_order_too() -> None:
    """A worker's Drained comes after what it sent before it."""
    async with connected() as pair:
        pair.worker.channel.post(Online())
        await pair.worker.channel.send("hello")
        pair.worker.channel.post(Ready())
        await pair.primary.until_heard(Ready())

        assert pair.primary.heard == [Online(), UserMessage("hello"), Ready()]


async def test_only_the_users_messages_have_a_size_to_give_back() -> None:
    """Credit is for what a user reads; it is not itself a message to hear."""
    sizes = []
    ours, theirs = socket.socketpair()
    with theirs:
        ended = asyncio.Event()
        channel = Channel(FromWorker, lambda m, size: sizes.append(size), lambda e: ended.set())
        await open_channel(ours, channel)
        frame = encode_user("hello")
        theirs.sendall(encode(Online()) + encode(Credit(0)) + frame)
        theirs.close()
        await ended.wait()

    assert sizes[0] == 0
    assert sizes[1] > len(frame)
    assert len(sizes) == 2


async def test_what_cannot_be_sent_costs_nothing() -> None:
    """A MessageError is the sender's; the channel and its window are as before."""
    async with connected() as pair:
        before = [pair.primary.send({"bad": {1}}) for _ in range(100)]
        await asyncio.wait(before)
        assert all(isinstance(send.exception(), MessageError) for send in before)

        await pair.primary.channel.send(filling())
        await pair.round_trip()
        assert pair.worker.payloads == [filling()]


# ---- the window


async def test_a_sender_waits_while_nobody_reads() -> None:
    """A slow reader slows its writer."""
    async with connected() as pair:
        pair.worker.reading = False
        await pair.primary.channel.send(filling())
        second = pair.primary.send("second")

        assert await pair.waits(second)
        assert pair.worker.payloads == [filling()]


async def test_a_waiting_sender_goes_on_when_its_message_may_go() -> None:
    """Reading is what lets it go, and nothing is lost or out of order."""
    async with connected() as pair:
        pair.worker.reading = False
        await pair.primary.channel.send(filling())
        second = pair.primary.send("second")
        assert await pair.waits(second)

        pair.worker.read()
        async with asyncio.timeout(PATIENCE):
            await second
        await pair.round_trip()
        assert pair.worker.payloads == [filling(), "second"]


async def test_each_way_has_its_own_window() -> None:
    """A worker that does not read may still speak."""
    async with connected() as pair:
        pair.worker.reading = False
        await pair.primary.channel.send(filling())
        waiting = pair.primary.send("waits")

        for number in range(3):
            await pair.worker.channel.send([number, filling()])
            await pair.round_trip()
        assert await pair.waits(waiting)


async def test_our_messages_pass_while_the_window_is_full() -> None:
    """A full inbox never hides a Drain."""
    async with connected() as pair:
        pair.worker.reading = False
        await pair.primary.channel.send(filling())
        waiting = pair.primary.send("waits")
        assert await pair.waits(waiting)

        pair.primary.channel.post(Drain(5.0, True))
        await pair.worker.until_heard(Drain(5.0, True))
        assert not waiting.done()


async def test_waiting_senders_take_their_turns() -> None:
    """First come, first served; a small message does not overtake a large one."""
    async with connected() as pair:
        pair.worker.reading = False
        await pair.primary.channel.send(filling())
        payloads = [[number, b"x" * size] for number, size in enumerate([9, 400_000, 9, 300_000])]
        waiting = [pair.primary.send(payload) for payload in payloads]
        assert await pair.waits(waiting[0])

        pair.worker.reading = True
        pair.worker.read()
        await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)
        await pair.round_trip()
        assert pair.worker.payloads == [filling(), *payloads]


async def test_a_message_larger_than_the_window_passes_when_it_is_alone() -> None:
    """There is one limit to a message, and it is not the window."""
    async with connected() as pair:
        large = b"x" * (4 * WINDOW_BYTES)
        for _ in range(3):
            async with asyncio.timeout(PATIENCE):
                await pair.primary.channel.send(large)
            await pair.round_trip()

        assert pair.worker.payloads == [large] * 3


async def test_a_message_larger_than_the_window_waits_for_its_turn() -> None:
    """Unread, it holds back all that comes after it, to the last byte."""
    async with connected() as pair:
        pair.worker.reading = False
        large = b"x" * (4 * WINDOW_BYTES)
        await pair.primary.channel.send(b"y" * (WINDOW_BYTES // 2))
        waiting = pair.primary.send(large)
        assert await pair.waits(waiting)

        pair.worker.read()
        async with asyncio.timeout(PATIENCE):
            await waiting
        after = pair.primary.send("after")
        assert await pair.waits(after)

        await pair.worker.until(lambda: large in pair.worker.payloads)
        pair.worker.read()
        async with asyncio.timeout(PATIENCE):
            await after


async def test_a_cancelled_sender_gives_its_place_back() -> None:
    """Its message never goes, and whoever waited behind it does not wait for it."""
    async with connected() as pair:
        pair.worker.reading = False
        await pair.primary.channel.send(b"x" * (WINDOW_BYTES * 7 // 10))
        large = pair.primary.send(b"y" * (WINDOW_BYTES // 2))
        small = pair.primary.send("small")
        assert await pair.waits(small)

        large.cancel()
        async with asyncio.timeout(PATIENCE):
            await small
        await pair.round_trip()
        assert large.cancelled()
        assert pair.worker.payloads[1:] == ["small"]


async def test_a_sender_cancelled_before_room_comes_takes_none_of_it() -> None:
    """The room is the next sender's; cancelled after it came, its message is on its way."""
    async with connected() as pair:
        pair.worker.reading = False
        await pair.primary.channel.send(filling())
        ((_, size),) = await _unread(pair.worker, 1)
        before, after, last = (pair.primary.send([name, filling()]) for name in "abc")
        assert await pair.waits(last)

        before.cancel()
        pair.worker.channel._unpaid -= 2 * size  # as if it had given these
        pair.primary.channel._receive(Credit(size), 0)
        after.cancel()
        pair.primary.channel._receive(Credit(size), 0)
        async with asyncio.timeout(PATIENCE):
            await last
        await pair.round_trip()

        assert before.cancelled()
        assert after.cancelled()
        assert [payload[0] for payload in pair.worker.payloads[1:]] == ["b", "c"]


async def _unread(side: Side, number: int) -> list[tuple[Any, int]]:
    await side.until(lambda: len(side.unread) == number)
    return side.unread


async def test_a_sender_cancelled_as_the_channel_closes_is_cancelled() -> None:
    """Nothing but CancelledError comes out of a cancelled task."""
    async with connected() as pair:
        pair.worker.reading = False
        await pair.primary.channel.send(filling())
        waiting = pair.primary.send("waits")
        assert await pair.waits(waiting)

        waiting.cancel()
        pair.primary.channel.abort()
        await asyncio.wait({waiting})
        assert waiting.cancelled()


async def test_what_is_given_back_is_what_was_taken() -> None:
    """To the byte: a window that shrinks ends in silence, one that grows is no bound."""
    async with connected() as pair:
        await pair.primary.channel.send(bytes(100_000))
        await pair.round_trip()
        pair.worker.reading = False
        await pair.primary.channel.send(bytes(100_000))
        ((_, size),) = await _unread(pair.worker, 1)
        overhead = size - 100_000

        def costing(cost: int) -> bytes:
            return bytes(cost - overhead)

        # Credit comes back in quarters: after these none is owed, or the test proves nothing.
        quarter = WINDOW_BYTES // 4
        pair.worker.reading = True
        pair.worker.read()
        await pair.primary.channel.send(costing(2 * quarter - 2 * size))
        for _ in range(40):
            await pair.primary.channel.send(costing(quarter))
            await pair.round_trip()

        pair.worker.reading = False
        await pair.primary.channel.send(costing(quarter + 1))
        too_large = pair.primary.send(costing(3 * quarter))
        assert await pair.waits(too_large)
        too_large.cancel()
        async with asyncio.timeout(PATIENCE):
            await pair.primary.channel.send(costing(3 * quarter - 1))


@pytest.mark.parametrize("seed", range(3))
async def test_credit_never_leaks(seed: int) -> None:
    """After 10,000 messages of any size, some of them cancelled, the window is as wide as ever."""
    dice = random.Random(seed)
    async with connected() as pair:
        pair.worker.reading = False
        fresh = await pair.room()
        pair.worker.read()
        sends: list[Send] = []
        for number in range(10_000):
            sends.append(pair.primary.send(b"x" * int(dice.paretovariate(0.7) % 100_000)))
            if dice.random() < 0.05:
                dice.choice(sends[-20:]).cancel()
            if number % 50 == 0:
                await pair.round_trip()
                pair.worker.read(dice.randrange(200))
        while not all(send.done() for send in sends):
            await pair.round_trip()
            pair.worker.read()
        await pair.round_trip()
        pair.worker.read()
        await pair.round_trip()
        await pair.round_trip()

        # What is read but not yet given back, a quarter at most, may be missing.
        assert WINDOW_BYTES * 3 // 4 - 2000 <= await pair.room() <= WINDOW_BYTES
        assert WINDOW_BYTES * 3 // 4 < fresh <= WINDOW_BYTES


@pytest.mark.parametrize("largest", [10, 5_000, 2 * WINDOW_BYTES])
async def test_what_is_unread_stays_bounded(largest: int) -> None:
    """However many send, the receiving side never holds more than a window and one message."""
    dice = random.Random(largest)
    async with connected() as pair:
        pair.worker.reading = False
        number = min(20_000, 40 * WINDOW_BYTES // largest)
        sends = {pair.primary.send(bytes(dice.randrange(largest))) for _ in range(number)}
        while not all(send.done() for send in sends):
            await pair.round_trip()
            pair.worker.read(dice.randrange(1, 100))

        assert pair.worker.peak_unread_bytes <= WINDOW_BYTES + largest + 100


async def test_congestion_is_seen_and_passes() -> None:
    """Who may skip something can tell when the other side does not read at all."""
    async with connected_to_socket() as (side, theirs):
        assert not side.channel.congested
        while not side.channel.congested:
            side.channel.post(Drain(1.0, False))

        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            while side.channel.congested:
                await loop.sock_recv(theirs, 2**16)


async def test_before_it_is_open_nothing_is_congested_and_nothing_is_sent() -> None:
    """A worker's handle may exist before its channel does."""
    side = Side(FromWorker)
    side.channel.post(Drain(1.0, False))

    assert not side.channel.congested
    assert not side.channel.closed
    with pytest.raises(ChannelClosed):
        await side.channel.send("hello")


# ---- turns


@pytest.mark.parametrize("size", [1, 10_000])
async def test_a_flood_is_heard_in_turns(size: int) -> None:
    """So many messages, or bytes, in one turn of the loop; what else there is comes between."""
    async with connected_to_socket() as (side, theirs):
        frame = encode_user("x" * size)
        sender = asyncio.create_task(_write(theirs, frame * (1_000_000 // (10_000 + size))))
        before, most = 0, 0
        while len(side.heard) < 1_000_000 // (10_000 + size):
            await asyncio.sleep(0)
            heard, before = len(side.heard) - before, len(side.heard)
            most = max(most, heard)
        await sender

        assert 0 < most <= min(TURN_MESSAGES, TURN_BYTES // len(frame) + 1)


async def test_while_others_have_read_enough_a_channel_reads_little_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With many that are flooded at once, each gets on, and all of it comes in its order."""
    most = 0

    class Noted(Channel):
        def buffer_updated(self, nbytes: int) -> None:
            nonlocal most
            most = max(most, nbytes)
            super().buffer_updated(nbytes)

    class Late(Turns):
        @property
        def have_read_enough(self) -> bool:
            return True

    late = Late()
    monkeypatch.setattr(f"{__name__}.Channel", Noted)
    monkeypatch.setattr("aiocluster.ipc.channel.turns_of_loop", lambda: late)
    sent = [f"message {number}" for number in range(5_000)]
    async with connected_to_socket() as (side, theirs):
        await _write(theirs, b"".join(map(encode_user, sent)))
        await side.until(lambda: len(side.heard) == len(sent))
        assert side.payloads == sent

    assert 0 < most <= LEAST_BYTES


async def _write(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def test_what_was_sent_before_the_end_is_heard_over_many_turns() -> None:
    """The last words of a worker that says much are not cut short by its end."""
    async with connected_to_socket() as (side, theirs):
        await _write(theirs, encode(Unsubscribe(1)) * 5_000)
        theirs.close()
        await side.until_closed()

    assert len(side.heard) == 5_000
    assert side.ends == [None]


async def test_our_own_end_leaves_out_what_is_not_heard_yet() -> None:
    """Whoever ends it wants to hear no more."""
    async with connected_to_socket() as (side, theirs):
        await _write(theirs, encode(Unsubscribe(1)) * 5_000)
        await side.until(lambda: len(side.heard) > 0)
        side.channel.abort()
        heard = len(side.heard)
        await side.until_closed()

        assert len(side.heard) == heard < 5_000


# ---- what breaks the rules


async def test_more_than_the_window_ends_it() -> None:
    """A side that does not wait for its credit is no peer; what it sends would fill the memory."""
    async with connected_to_socket() as (side, theirs):
        side.reading = False
        with contextlib.suppress(ConnectionError):
            await _write(theirs, encode_user(filling()) * 3)
        await side.until_closed()

    assert len(side.heard) == 1
    assert "unread" in str(side.ends[0])


async def test_a_credit_that_nobody_owed_widens_nothing() -> None:
    """The window is a bound, whatever the other side says."""
    async with connected() as pair:
        for _ in range(10):
            pair.worker.channel.post(Credit(2**20))
        await pair.round_trip()
        assert pair.primary.channel.state(0).window == WINDOW_BYTES
        assert await pair.room() <= WINDOW_BYTES


async def test_answers_that_are_not_read_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What asks on and on, and reads nothing, must not fill our memory."""
    monkeypatch.setattr("aiocluster.ipc.channel._MAX_UNSENT_BYTES", 100_000)
    async with connected_to_socket() as (side, _):
        while not side.channel.closed:
            side.channel.post(Drain(1.0, False))
        await side.until_closed()

    assert "does not read" in str(side.ends[0])


# ---- the end


@pytest.mark.parametrize("end", [Channel.close, Channel.abort])
async def test_either_side_may_end_it_and_both_hear_it_once(end: Callable[[Channel], None]) -> None:
    """Closing twice is no harm, and nothing went wrong."""
    async with connected() as pair:
        end(pair.worker.channel)
        end(pair.worker.channel)
        await pair.primary.until_closed()
        await pair.worker.until_closed()
        end(pair.worker.channel)
        end(pair.primary.channel)

        assert pair.primary.channel.closed
        assert pair.worker.channel.closed

    assert pair.primary.ends == [None]
    assert pair.worker.ends == [None]


async def test_a_channel_that_has_ended_keeps_no_buffer() -> None:
    """Somebody may keep the handle of a dead worker, if only the collector."""
    async with connected() as pair:
        await pair.round_trip()
        decoders = [weakref.ref(side.channel._decoder) for side in (pair.primary, pair.worker)]
        pair.worker.channel.close()
        await pair.primary.until_closed()
        await pair.worker.until_closed()

        assert [decoder() for decoder in decoders] == [None, None]


async def test_what_was_sent_before_a_close_still_arrives() -> None:
    """A worker may say its last words and leave."""
    async with connected() as pair:
        for number in range(10):
            await pair.worker.channel.send([number, b"x" * 50_000])
        pair.worker.channel.post(DrainRequest("drain"))
        pair.worker.channel.close()
        await pair.primary.until_closed()

        assert [payload[0] for payload in pair.primary.payloads] == list(range(10))
        assert pair.primary.heard[-1] == DrainRequest("drain")


@pytest.mark.parametrize("end", [Channel.close, Channel.abort])
async def test_after_its_end_nothing_can_be_sent(end: Callable[[Channel], None]) -> None:
    """A user's message is refused; one of ours is dropped, as if it were in flight."""
    async with connected() as pair:
        end(pair.primary.channel)

        assert pair.primary.channel.closed
        pair.primary.channel.post(Drain(1.0, False))
        pair.primary.channel.consumed(WINDOW_BYTES)
        with pytest.raises(ChannelClosed):
            await pair.primary.channel.send("hello")


async def test_when_the_other_side_goes_senders_are_told() -> None:
    """Those that wait, and those that come later."""
    async with connected() as pair:
        pair.worker.reading = False
        await pair.primary.channel.send(filling())
        waiting = [pair.primary.send("waits") for _ in range(3)]
        assert await pair.waits(waiting[0])

        pair.worker.channel.abort()
        await asyncio.wait(waiting)
        await pair.primary.until_closed()

        assert all(isinstance(send.exception(), ChannelClosed) for send in waiting)
        with pytest.raises(ChannelClosed):
            await pair.primary.channel.send("hello")


@pytest.mark.parametrize("end", [Channel.close, Channel.abort])
async def test_our_own_end_releases_those_who_wait(end: Callable[[Channel], None]) -> None:
    """Nobody waits for a window that will never open."""
    async with connected() as pair:
        pair.worker.reading = False
        await pair.primary.channel.send(filling())
        waiting = [pair.primary.send("waits") for _ in range(3)]
        assert await pair.waits(waiting[0])

        end(pair.primary.channel)
        await asyncio.wait(waiting)
        assert all(isinstance(send.exception(), ChannelClosed) for send in waiting)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xc1",
        b"GET / HTTP/1.1\r\n\r\n",
        encode(Drain(1.0, True)),
        b"\xdd\xff\xff\xff\xff",
        b"\x92\x14\x81\x90\x01",
        b"\x92\x14\xa1\xff",
    ],
)
async def test_nonsense_ends_the_channel_with_the_reason(garbage: bytes) -> None:
    """What came before it is heard, what comes after it is not, and the end comes once."""
    async with connected_to_socket() as (side, theirs):
        theirs.sendall(encode(Online()) + garbage + encode(Ready()))
        await side.until_closed()

        assert side.heard == [Online()]
        assert side.channel.closed
        assert theirs.recv(1) == b""

    (error,) = side.ends
    assert isinstance(error, ProtocolError)


@pytest.mark.parametrize("cut", range(1, len(encode_user("half"))))
async def test_half_a_frame_and_the_end_is_just_the_end(cut: int) -> None:
    """A worker that was killed while it wrote did not break the protocol."""
    async with connected_to_socket() as (side, theirs):
        theirs.sendall(encode(Online()) + encode_user("half")[:cut])
        theirs.close()
        await side.until_closed()

        assert side.heard == [Online()]

    assert side.ends == [None]


async def test_a_socket_that_cannot_be_used_is_closed() -> None:
    """`open_channel` owns the socket, also when it fails."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with pytest.raises((ValueError, OSError)):
        await open_channel(sock, Side(FromWorker).channel)

    assert sock.fileno() == -1


async def test_another_end_goes_on_where_one_left_off() -> None:
    """With half a message, what may still be sent, and what the other side is to be told."""
    async with connected_to_socket() as (first, theirs):
        loop = asyncio.get_running_loop()
        frame = encode_user("whole")
        await loop.sock_sendall(theirs, encode(Online()) + frame[:3])
        await first.channel.send("x" * 1000)
        async with asyncio.timeout(PATIENCE):
            while not (first.heard and first.channel.state(0).half):  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert first.channel.unsent == 0
        state = first.channel.state(500)
        assert state.window < WINDOW_BYTES - 1000
        assert (state.half, state.owed) == (frame[:3], 500)

        second = Side(FromWorker)
        second.channel.adopt(state)
        await second.open(socket.socket(fileno=os.dup(state.fd)))
        first.channel.abort()
        await loop.sock_sendall(theirs, frame[3:])
        async with asyncio.timeout(PATIENCE):
            while not second.heard:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert second.payloads == ["whole"]
        second.channel.abort()
        await second.until_closed()


async def test_another_end_reads_on_with_more_than_a_turn_waiting() -> None:
    """An end was full of messages when its program was upgraded."""
    frame = encode_user("message")
    count = 2 * TURN_BYTES // len(frame)
    state = ChannelState(fd=-1, half=frame * count, window=WINDOW_BYTES, owed=0)
    ours, theirs = socket.socketpair()
    side = Side(FromWorker)
    side.channel.adopt(state)
    with theirs:
        theirs.sendall(encode_user("last"))
        await side.open(ours)
        async with asyncio.timeout(PATIENCE):
            while len(side.heard) <= count:  # noqa: ASYNC110
                await asyncio.sleep(0)
    assert side.payloads == ["message"] * count + ["last"]
    await side.until_closed()


async def test_what_is_unsent_is_told() -> None:
    """The kernel has not taken it, so it would be lost with this end."""
    async with connected_to_socket() as (side, _):
        assert side.channel.unsent == 0
        side.channel.post(Unsubscribe(1))
        await side.channel.send("x" * (WINDOW_BYTES - 100))
        assert side.channel.unsent > 0


@pytest.mark.parametrize("how", ["cancelled", "aborted", "both", "closed"])
@pytest.mark.parametrize("turn", range(1, 6))
async def test_an_opening_that_is_given_up_leaves_no_descriptor(how: str, turn: int) -> None:
    """At whichever turn of the loop; a descriptor that is closed twice may be another's."""
    ours, theirs = socket.socketpair()
    side = Side(FromWorker)
    opening = asyncio.create_task(side.open(ours))
    for _ in range(turn):
        await asyncio.sleep(0)
    if how in ("cancelled", "both"):
        opening.cancel()
    if how in ("aborted", "both"):
        side.channel.abort()
    if how == "closed":
        side.channel.close()
    await asyncio.wait({opening})
    side.channel.abort()
    with theirs:
        theirs.settimeout(PATIENCE)
        assert await asyncio.to_thread(theirs.recv, 1) == b""
    del opening, side
    assert ours.fileno() == -1

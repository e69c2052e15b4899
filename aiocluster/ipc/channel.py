"""A stream of messages between the primary and one worker; each side holds one end.

Two kinds of traffic share the channel. The framework's own messages are few and small, and are
always sent. The user's messages are limited by a window: each side may have WINDOW_BYTES under
way that the other side's user has not read yet, and `send` waits while the window is full. So a
slow reader slows its writer, memory stays bounded, and a full inbox never hides a Drain.

Received messages are handled in turns, so that no flood of them blocks a loop: a few of each
channel, then the loop's other work. Meanwhile the channel is not read, and the kernel's buffer
holds the rest.
"""

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, cast

from aiocluster.errors import ChannelClosed, ProtocolError
from aiocluster.ipc.forks import keep_from_children
from aiocluster.ipc.framing import FrameDecoder, encode, encode_user
from aiocluster.ipc.handover import ChannelState
from aiocluster.ipc.messages import Credit, Message, UserMessage
from aiocluster.ipc.turns import Take, Turns, turns_of_loop

# Bytes of messages under way or unread, each way: enough for 10,000 small ones. A message that
# is larger than this may be sent when no other is under way.
WINDOW_BYTES = 1024 * 1024

# A message costs this much more than its bytes, for the objects that are made of it.
_MESSAGE_COST = 64

# Credit is returned in lumps of this size, so that it costs next to nothing a message.
_CREDIT_LUMP = WINDOW_BYTES // 4

# The most that one channel may bring in one turn of the loop, whatever its messages cost.
TURN_BYTES = 64 * 1024
TURN_MESSAGES = 64

# Bytes that may be read when the time for reading is over: each read must bring something.
LEAST_BYTES = 1024

# With more unsent bytes than this, the other side sends requests and does not read the answers:
# the largest message, and a window of others, are less than half of it.
_MAX_UNSENT_BYTES = 40 * 1024 * 1024

_GONE = "the other side of the channel is gone"

# With more unsent bytes than this, the other side is not reading at all: a message that may be
# skipped (a snapshot) is skipped.
_CONGESTED_BYTES = 64 * 1024


class Channel(asyncio.BufferedProtocol):
    """One end of a channel. Create it with `open_channel`.

    `on_message(message, size)` is called with every message. When a UserMessage has been read,
    `consumed(size)` must be called; with `packed` its payload is a Parcel. `on_closed(error)` is
    called once: after `close`, or when the other side has closed its end or has sent something
    invalid (`error` then says what).
    """

    def __init__(
        self,
        expected: Any,
        on_message: Callable[[Message, int], None],
        on_closed: Callable[[ProtocolError | None], None],
        *,
        packed: bool = False,
    ) -> None:
        self._decoder = FrameDecoder(expected, packed=packed)
        self._on_message = on_message
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._error: ProtocolError | None = None
        self._closed = self._is_abandoned = False
        self._is_closed_here = False  # this end was closed: later messages are dropped
        self._is_lost = False  # the other end was closed: received messages are handled
        self._is_over = False
        self._has_asked = False  # a turn is asked for
        self._is_paused = False
        self._turns: Turns | None = None
        self._take: Take
        self._buffer = bytearray(TURN_BYTES)
        self._window = WINDOW_BYTES
        self._owed = 0
        self._unpaid = 0  # bytes of the user's messages received without a Credit in return
        self._waiting: deque[tuple[int, bytes, asyncio.Future[None]]] = deque()

    @property
    def closed(self) -> bool:
        """True once nothing can be sent any more."""
        return self._closed

    @property
    def congested(self) -> bool:
        """True while the other side is not reading."""
        transport = self._transport
        return transport is not None and transport.get_write_buffer_size() > _CONGESTED_BYTES

    @property
    def unsent(self) -> int:
        """The number of sent bytes that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def state(self, unpaid: int) -> ChannelState:
        """Return the state with which another end can go on; no bytes may be `unsent`.

        `unpaid` is the size of the user's messages that were not `consumed` yet.
        """
        assert self._transport is not None
        fd = self._transport.get_extra_info("socket").fileno()
        return ChannelState(
            fd=fd, half=self._decoder.half, window=self._window, owed=self._owed + unpaid
        )

    def adopt(self, state: ChannelState) -> None:
        """Take over the state of another end, before this one is opened."""
        self._decoder.add(state.half)
        self._window, self._owed = state.window, state.owed
        self._unpaid = state.owed

    def post(self, message: Message) -> None:
        """Send one of the framework's messages; on a closed channel the message is dropped."""
        if self._transport is not None and not self._closed:
            self._transport.write(encode(message))
            if self.unsent > _MAX_UNSENT_BYTES:
                self._refuse(ProtocolError("it does not read the answers to its requests"))

    async def send(self, payload: Any) -> None:
        """Send a user's message; wait while the window is full.

        Raises MessageError when the payload cannot be sent, ChannelClosed when the other side
        is gone.
        """
        frame = encode_user(payload)
        cost = len(frame) + _MESSAGE_COST
        if self._closed or self._transport is None:
            raise ChannelClosed(_GONE)
        if self._waiting or not self._fits(cost):
            await self._wait_for_room(cost, frame)
        else:
            self._window -= cost
            self._transport.write(frame)

    def consumed(self, size: int) -> None:
        """Note that the user has read `size` bytes, and allow the other side to send as many."""
        self._owed += size
        if self._owed >= _CREDIT_LUMP:
            self._unpaid -= self._owed
            self.post(Credit(self._owed))
            self._owed = 0

    def close(self) -> None:
        """Close this end once the unsent bytes are written. Idempotent."""
        self._closed = self._is_closed_here = True
        if self._transport is not None and not self._is_abandoned:
            self._transport.close()
        self._release_waiting()

    def abort(self) -> None:
        """Close this end at once and drop the unsent bytes. Idempotent."""
        self._closed = self._is_closed_here = True
        if self._transport is not None and not self._is_abandoned:
            self._transport.abort()
        self._release_waiting()

    def abandon(self) -> None:
        """Close without the socket: its descriptor may be another file's by now. Idempotent."""
        self._closed = self._is_closed_here = self._is_abandoned = True
        self._release_waiting()

    # ---- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._turns = turns_of_loop()
        # Messages are handled in the context that asyncio gives to a transport's callbacks.
        context = copy_context()
        self._take = lambda end: context.run(self._take_turn, end)
        self._ask()  # another end may have left messages

    def get_buffer(self, sizehint: int) -> memoryview:
        assert self._turns is not None
        # If another end has left much data, the loop reads once more before it can be paused.
        room = 0 if self._turns.have_read_enough else TURN_BYTES - self._decoder.waiting
        return memoryview(self._buffer)[: max(room, LEAST_BYTES)]

    def buffer_updated(self, nbytes: int) -> None:
        assert self._turns is not None
        self._turns.note_read()
        self.feed(bytes(memoryview(self._buffer)[:nbytes]))
        is_enough = self._turns.have_read_enough or self._decoder.waiting >= TURN_BYTES
        if is_enough and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def feed(self, data: bytes) -> None:
        """Add received bytes; their messages are handled soon."""
        self._decoder.add(data)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = self._is_lost = True
        # Once asyncio's transport is closed, it cannot even be aborted.
        self._transport = None
        if self._is_closed_here or not self._has_asked:
            self._finish()

    # ---- turns

    def _ask(self) -> None:
        if not self._has_asked and self._turns is not None:
            self._has_asked = True
            self._turns.ask(self._take)

    def _take_turn(self, end: float) -> None:
        self._has_asked = False
        if self._is_over:
            return
        try:
            has_more = self._hear_some(end)
        except ProtocolError as error:
            self._refuse(error)
            has_more = False
        except BaseException:
            self.abort()
            raise
        if has_more and not self._is_closed_here:
            self._ask()
        elif self._is_lost:
            self._finish()
        elif self._is_paused and self._transport is not None and not self._closed:
            self._is_paused = False
            self._transport.resume_reading()

    def _hear_some(self, end: float) -> bool:
        """Handle the messages of one turn; return True if there may be more."""
        for _ in range(TURN_MESSAGES):
            if self._is_closed_here:  # the handler of the previous message closed this end
                return False
            if (taken := self._decoder.take()) is None:
                return False
            self._receive(*taken)
            if time.perf_counter() >= end:
                break
        return True

    def _refuse(self, error: ProtocolError) -> None:
        self._error = self._error or error
        self.abort()

    def _finish(self) -> None:
        self._is_over = True
        # The buffer is large, and this object may be kept for long: by a user, or only by the
        # garbage collector, which counts objects and not their bytes.
        del self._decoder, self._buffer
        self._release_waiting()
        self._on_closed(self._error)

    # ---- the window

    def _receive(self, message: Message, size: int) -> None:
        if isinstance(message, UserMessage):
            cost = size + _MESSAGE_COST
            if self._unpaid > _CREDIT_LUMP and self._unpaid + cost > WINDOW_BYTES:
                raise ProtocolError(f"{self._unpaid} bytes of messages are unread, and more come")
            self._unpaid += cost
            self._on_message(message, cost)
        elif isinstance(message, Credit):
            # A credit that was not owed must not make the window wider.
            self._window = min(self._window + message.size, WINDOW_BYTES)
            self._admit()
        else:
            self._on_message(message, 0)

    def _fits(self, cost: int) -> bool:
        # Owed credit is returned in lumps, so an idle window may be a lump short.
        return cost <= self._window or self._window >= WINDOW_BYTES - _CREDIT_LUMP

    async def _wait_for_room(self, cost: int, frame: bytes) -> None:
        """Return once `frame` is written, after the frames that wait already."""
        written = asyncio.get_running_loop().create_future()
        entry = (cost, frame, written)
        self._waiting.append(entry)
        try:
            await written
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
                self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            cost, frame, written = self._waiting.popleft()
            # A sender that was cancelled just now may still be in the queue.
            if not written.done() and self._transport is not None:
                self._window -= cost
                self._transport.write(frame)
                written.set_result(None)

    def _release_waiting(self) -> None:
        while self._waiting:
            _, _, written = self._waiting.popleft()
            if not written.done():
                written.set_exception(ChannelClosed(_GONE))


async def open_channel(sock: socket.socket, channel: Channel) -> Channel:
    """Start `channel` on `sock`, one end of a connected AF_UNIX stream pair, and own it."""
    sock.setblocking(False)
    keep_from_children(sock)
    loop = asyncio.get_running_loop()
    # From here the transport owns the descriptor. If opening is cancelled half way, uvloop has
    # closed the descriptor and asyncio has not: let the channel open, then abort it.
    opening = asyncio.ensure_future(loop.create_unix_connection(lambda: channel, sock=sock))
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(lambda _: channel.abort())
        raise
    except ValueError:
        # This is no stream socket; the loop refuses it before there is a transport.
        sock.close()
        raise
    if channel.closed:  # while it was opened
        channel.abort()
    return channel

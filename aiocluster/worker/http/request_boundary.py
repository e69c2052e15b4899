"""A proof that a connection is between two requests, so that another process may serve it.

aiohttp's handler shows that it waits for the next request; it does not show whether its parser
holds the beginning of one. So each connection tracks the position of the last byte that arrived:

- the last bytes that arrived are an empty line (CRLF CRLF), in one chunk or several, or
- each byte of the last chunk went into the body of the last message that the parser has emitted;
  if one head ended in this chunk, this means each byte behind that head.

If one of these holds, and all emitted messages are handled to their end, bodies included, then the
parser holds nothing. Suppose that bytes are left over after the last message. They are no part of
a body: its message would have been emitted, and its handling would not be over. So they are the
beginning of a head, and the last of them is the last byte that arrived. This byte was not counted
into a body, so the last bytes are CRLF CRLF. An incomplete head contains no empty line, so the
leftover is a tail of this CRLF CRLF, right behind a body. The C parser skips CR and LF before a
request as if they had not come. The Python parser skips CRLF, but takes an LF behind a body for
the beginning of a head; its buffer is readable, and is checked.

The proof needs a parser that has seen all bytes that arrived. There are two exceptions. While
reading is paused, the parser may keep a rest: then the proof is not used. And the parser stops
when too many messages are queued by its own count, which differs from the handler's: after a body
that came behind its head, the C parser stops one message earlier, and stays stopped until the
next chunk. So a chunk, or a rest parsed after a pause, that nearly fills the queue leaves the
connection in doubt. A chunk behind a request for an upgrade does so too: the parser sees it only
if the upgrade is declined.

Older ranges of aiohttp (see aiohttp_internals.py) differ. Before 3.14.1 the parser takes any
number of messages, and before 3.14.0 it does not pause at all: it has seen all bytes that arrived.
Before 3.14.4 aiohttp parses the data behind a declined upgrade and drops the messages, or queues
them out of order. A dropped message may have a body, and the parser may be in its middle. So if
any data followed an upgrade, the doubt has no end. Before 3.13.0 a body does not show that it was
decompressed; the head of its request does. The unfinished line of the Python parser is checked
too: before 3.14.1 it holds a lone LF.

A connection in doubt is not between requests. This costs the client its connection and nothing
else: its next response says `Connection: close`, as in any drain. The doubt ends with the next
chunk that ends in CRLF CRLF.

In two cases it is certain that the parser holds a part of a head. Either a chunk with more than CR
and LF comes after the end of the last body, and no message with it. Or a chunk has more than CR
and LF behind its last empty line, and its messages have no body. The part stays the beginning of
a head until a message is emitted. This head ends at the next empty line, so the bytes behind that
are known to be its body.
"""

from aiocluster.worker.http.aiohttp_internals import (
    COUNTS_COMPRESSED,
    EMPTY_PAYLOAD,
    KEEPS_TAIL,
    MAX_QUEUED,
    Handler,
    StreamReader,
)

_EMPTY_LINE = b"\r\n\r\n"

# If this many messages are queued, the parser has stopped, or will stop after one more.
_NEARLY_FULL = MAX_QUEUED - 1

_receive = Handler.data_received


class BoundaryTrackingHandler(Handler):
    """A connection that knows whether it is between two requests.

    `in_doubt` is False while the last byte that arrived is at a position named above, and before
    the first byte. `begun_body` is the body of the request that began last. `head_begun_after` is
    the number of requests before the beginning of a head was left over, or -1. `tail` holds the
    last bytes that arrived, while in doubt and if known. `is_compressed` is about `begun_body`,
    and used if aiohttp's bodies do not show it. `is_lost` is True if the doubt has no end.
    """

    __slots__ = (
        "begun_body",
        "head_begun_after",
        "in_doubt",
        "is_compressed",
        "is_lost",
        "tail",
    )

    begun_body: StreamReader
    head_begun_after: int
    in_doubt: bool
    is_compressed: bool
    is_lost: bool
    tail: bytes

    def begin(self) -> None:
        """Reset the state: no byte has arrived yet."""
        self.in_doubt = self.is_compressed = self.is_lost = False
        self.begun_body = EMPTY_PAYLOAD
        self.head_begun_after = -1
        self.tail = b""

    @property
    def is_within_head(self) -> bool:
        """True if a part of a request's head has certainly arrived, and its end has not."""
        return self.head_begun_after == self._request_count

    def is_between_requests(self) -> bool:
        """Return True if the socket holds all state: another server could serve the connection."""
        waiter = self._waiter
        return (
            waiter is not None
            and not waiter.done()
            and not self._messages
            and (self._keepalive or not self._request_count)
            and not (self._close or self._force_close)
            and self._payload_parser is None
            and not (self.in_doubt or self.is_lost)
            and self.begun_body.is_eof()
            and not (self._buffer_paused or self._reading_paused)
            and not (self._upgraded or self._message_tail)
            # The Python parser's buffers; the C parser does not show its own.
            and not getattr(self._parser, "_lines", None)
            and not getattr(self._parser, "_tail", None)
        )

    def data_received(self, data: bytes) -> None:
        # Every request passes here, so this does no more than it must.
        if data[-4:] == _EMPTY_LINE:
            _receive(self, data)
            self.in_doubt = self._upgraded or len(self._messages) >= _NEARLY_FULL
            if self.in_doubt:
                self._begin_doubt()
        elif self.in_doubt and len(data) < 4 and (self.tail + data)[-4:] == _EMPTY_LINE:
            _receive(self, data)
            self.in_doubt = self._upgraded or len(self._messages) >= _NEARLY_FULL
            self._begin_doubt()
        elif data:
            self._receive_body(data)
        else:
            # No new data: aiohttp has the parser continue with its rest, and it may stop again.
            _receive(self, data)
            if self._upgraded or len(self._messages) >= _NEARLY_FULL:
                self.in_doubt = True
                self._begin_doubt()

    def _begin_doubt(self) -> None:
        """Forget the last bytes that arrived."""
        self.tail = b""
        if not KEEPS_TAIL and self._message_tail:
            self.is_lost = True

    def _receive_body(self, data: bytes) -> None:
        """Receive a chunk that ends in a body, or within a head."""
        body = self._messages[-1][1] if self._messages else self.begun_body
        was_over = body.is_eof()
        # A head ends at the first empty line. This is certain only for a head that began with an
        # empty parser, or that has certainly begun.
        head_is_known = was_over and (not self.in_doubt or self.is_within_head)
        before, count = body.total_bytes, self._request_count
        recent = self.tail + data if self.in_doubt else data
        expected = len(data)
        _receive(self, data)
        if (begun := self._request_count - count) and self._messages:
            body, before = self._messages[-1][1], 0
            # The bytes behind the first head. Other heads, and empty lines before the first one,
            # count as body here: then `expected` is too high, and the connection is in doubt.
            expected = len(recent) - (recent.find(_EMPTY_LINE) + len(_EMPTY_LINE))
        if was_over or begun:
            self._note_head(recent if begun else data, begun)
        self.in_doubt = (
            self._upgraded
            or (begun > 0 and not head_is_known)
            or not 0 < expected == body.total_bytes - before
            # The counted bytes came out of the decompressor.
            or (
                body.total_compressed_bytes is not None
                if COUNTS_COMPRESSED
                else self._last_is_compressed()
            )
        )
        if self._upgraded:
            self._begin_doubt()
        self.tail = recent[-3:]

    def _last_is_compressed(self) -> bool:
        """Return True if the last message's body is compressed; for bodies that do not show it."""
        if not self._messages:
            return self.is_compressed
        return getattr(self._messages[-1][0], "compression", None) is not None

    def _note_head(self, recent: bytes, begun: int) -> None:
        """Note the beginning of a head at the end of a chunk, if it certainly is one.

        If `begun` messages came with the chunk, and none has a body, the head begins behind the
        last empty line. If no message came, and the body before was over, it is the whole chunk.
        """
        messages = self._messages
        if len(messages) >= _NEARLY_FULL:  # the parser may have stopped before the head
            return
        if begun:
            bodies = [messages[-number - 1][1] for number in range(min(begun, len(messages)))]
            if len(bodies) < begun or any(body is not EMPTY_PAYLOAD for body in bodies):
                return
            if _EMPTY_LINE not in recent:
                return
            recent = recent[recent.rfind(_EMPTY_LINE) + len(_EMPTY_LINE) :]
        if recent.strip(b"\r\n") and not self._upgraded:
            self.head_begun_after = self._request_count

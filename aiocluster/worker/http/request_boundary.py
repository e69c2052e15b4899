"""Which connections are provably between two requests, so that another process may go on?

aiohttp's handler tells when it waits for the next request; it does not tell whether its parser
holds the beginning of one. So each connection follows where the last byte that arrived lies:

- the last bytes that arrived are an empty line (CRLF CRLF), in whichever chunks, or
- each byte of the last chunk, behind the one head that ended in it if one did, went into the body
  of the last message that the parser has emitted.

If so, and all messages emitted so far are handled to their end, bodies included, then the
parser holds nothing. For suppose that bytes are left over after the last message. They are no
part of a body, for that message would have been emitted, and its handling not be over. So they
are the beginning of a head, and the last of them is the last byte that arrived; it was not
counted into a body, so what arrived last is CRLF CRLF. A head that is not complete has no empty
line in it: the leftover is a tail of that CRLF CRLF, which came right after a body. The C parser
skips CR and LF before a request, as if they had not come. The Python parser skips CRLF and takes
an LF that follows a body for the beginning of a head; it shows what it holds, and is asked.

This needs a parser that has looked at all that came, and there are two cases where it has not.
While reading is paused it may keep a rest: then nothing is believed. And it stops when too
many messages are queued, as it counts them, which is not as the handler does: after a body
that came behind its head the C parser stops one message earlier, and nobody lets it go on
before the next chunk. So whatever nearly fills the queue leaves the connection in doubt, a chunk
or the rest that is parsed after a pause; and so does a chunk behind a request for an upgrade,
which the parser sees only when that is declined.

Older ranges of aiohttp (see aiohttp_internals.py) differ in this. Before 3.14.1 the parser takes
any number of messages, and before 3.14.0 it does not pause at all: it has looked at all that came.
Before 3.14.4 aiohttp parses what follows a declined upgrade and drops the messages, or queues them
out of order; a dropped message may have a body, in whose middle the parser then stands. So where
anything followed an upgrade, the doubt has no end. Before 3.13.0 a body does not say that it was
decompressed; the head of its request does. The Python parser's unfinished line is asked for too:
before 3.14.1 it holds a lone LF.

In doubt, a connection is not between requests. That costs a client its connection and nothing
else: it is told `Connection: close`, as in any drain. The next CRLF CRLF at the end of what came
ends the doubt.

The doubt is none the other way round when a chunk, more than CR and LF, comes after the last
body has ended, and no message with it; or when more than that is left in a chunk behind the
last empty line, and the messages that it brought have no body. That is a part of a head, and
stays one for as long as no message is emitted. It ends at the next empty line, so we know then
which bytes are those of its body.
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

# With as many messages queued the parser has stopped, or is one message from it.
_NEARLY_FULL = MAX_QUEUED - 1

_receive = Handler.data_received


class BoundaryTrackingHandler(Handler):
    """A connection that knows whether it is between two requests.

    `in_doubt` is False while the last byte that arrived lies as said above, and before the
    first one; `begun_body` is the body of the request that was begun last; `head_begun_after`
    is how many requests there had been when the beginning of a head was left over, or -1; `tail`
    are the last bytes that arrived, while in doubt, if they are known. `is_compressed` is set
    for `begun_body` by an aiohttp whose bodies do not say it; `is_lost` is True when the doubt
    has no end.
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
        """Nothing has arrived yet."""
        self.in_doubt = self.is_compressed = self.is_lost = False
        self.begun_body = EMPTY_PAYLOAD
        self.head_begun_after = -1
        self.tail = b""

    @property
    def is_within_head(self) -> bool:
        """True when a part of a request's head is here for sure, and its end is not."""
        return self.head_begun_after == self._request_count

    def is_between_requests(self) -> bool:
        """True when its socket holds all of its state: another server could go on with it."""
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
            # The Python parser's; the C parser does not show any.
            and not getattr(self._parser, "_lines", None)
            and not getattr(self._parser, "_tail", None)
        )

    def data_received(self, data: bytes) -> None:
        # On the way of every request, so it does no more than it must.
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
            # Nothing came: aiohttp has the parser look at what it kept, and it may stop again.
            _receive(self, data)
            if self._upgraded or len(self._messages) >= _NEARLY_FULL:
                self.in_doubt = True
                self._begin_doubt()

    def _begin_doubt(self) -> None:
        """The last bytes that arrived are not known."""
        self.tail = b""
        if not KEEPS_TAIL and self._message_tail:
            self.is_lost = True

    def _receive_body(self, data: bytes) -> None:
        """Take a chunk that ends in a body, or within a head."""
        body = self._messages[-1][1] if self._messages else self.begun_body
        was_over = body.is_eof()
        # Only of a head that began where nothing was left, or is sure to have begun, do we know
        # where it ends: at the first empty line.
        head_is_known = was_over and (not self.in_doubt or self.is_within_head)
        before, count = body.total_bytes, self._request_count
        recent = self.tail + data if self.in_doubt else data
        expected = len(data)
        _receive(self, data)
        if (begun := self._request_count - count) and self._messages:
            body, before = self._messages[-1][1], 0
            # The first head's. Of several, the others count as body, and are too many; so
            # are empty lines before the first.
            expected = len(recent) - (recent.find(_EMPTY_LINE) + len(_EMPTY_LINE))
        if was_over or begun:
            self._note_head(recent if begun else data, begun)
        self.in_doubt = (
            self._upgraded
            or (begun > 0 and not head_is_known)
            or not 0 < expected == body.total_bytes - before
            # What was counted is what came out of the decompressor.
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
        """Was the body of the last message compressed? For bodies that do not say it."""
        if not self._messages:
            return self.is_compressed
        return getattr(self._messages[-1][0], "compression", None) is not None

    def _note_head(self, recent: bytes, begun: int) -> None:
        """Note the beginning of a head at the end of a chunk, where it is sure to be one.

        It is behind the last empty line, when `begun` messages came with the chunk and none of
        them has a body; without any, when the body before was over, it is all that came.
        """
        messages = self._messages
        if len(messages) >= _NEARLY_FULL:  # the parser may have stopped before it
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

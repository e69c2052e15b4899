"""Which connections are provably between two requests, so that another process may go on?

aiohttp's handler tells when it waits for the next request; it does not tell whether its parser
holds the beginning of one. So each connection follows where the last byte that arrived lies:

- the last chunk ended with an empty line (CRLF CRLF), or
- each of its bytes, behind the one head that it began with if it did, went into the body of the
  last message that the parser has emitted.

If so, and all messages emitted so far are handled to their end, bodies included, then the
parser holds nothing. For suppose that bytes are left over after the last message. They are no
part of a body, for that message would have been emitted, and its handling not be over. So they
are the beginning of a head, and the last of them is the last byte that arrived; it was not
counted into a body, so these are the end of a chunk that ended with CRLF CRLF. A head that is not
complete has no empty line in it: the leftover is a tail of that CRLF CRLF, which came right
after a body. The C parser skips CR and LF before a request, as if they had not come. The Python
parser skips CRLF and takes an LF that follows a body for the beginning of a head; it shows
what it holds, and is asked.

This needs a parser that has looked at all that came, and there are two cases where it has not.
While reading is paused it may keep a rest: then nothing is believed. And it stops when too
many messages are queued, as it counts them, which is not as the handler does: after a body
that came behind its head the C parser stops one message earlier, and nobody lets it go on
before the next chunk. So whatever nearly fills the queue leaves the connection in doubt, a chunk
or the rest that is parsed after a pause; and so does a chunk behind a request for an upgrade,
which the parser sees only when that is declined.

In doubt, a connection is not between requests. That costs a client its connection and nothing
else: it is told `Connection: close`, as in any drain. The next chunk that ends with CRLF CRLF
ends the doubt.

The doubt is none the other way round when a chunk, more than CR and LF, comes after the last
body has ended, and no message with it: that is a part of a head, and stays one for as long as
no message is emitted.
"""

from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE, RequestHandler

_EMPTY_LINE = b"\r\n\r\n"

# With as many messages queued the parser has stopped, or is one message from it.
_NEARLY_FULL = MAX_MSG_QUEUE_SIZE - 1

_receive = RequestHandler.data_received


class FollowedHandler(RequestHandler):
    """A connection that knows whether it is between two requests.

    `in_doubt` is False while the last byte that arrived lies as said above, and before the
    first one; `begun_body` is the body of the request that was begun last; `head_begun_after`
    is how many requests there had been when a part of a head came alone, or -1.
    """

    __slots__ = ("begun_body", "head_begun_after", "in_doubt")

    begun_body: StreamReader
    head_begun_after: int
    in_doubt: bool

    def begin(self) -> None:
        """Nothing has arrived yet."""
        self.in_doubt = False
        self.begun_body = EMPTY_PAYLOAD
        self.head_begun_after = -1

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
            and self._keepalive
            and not (self._close or self._force_close)
            and self._payload_parser is None
            and not self.in_doubt
            and self.begun_body.is_eof()
            and not (self._buffer_paused or self._reading_paused)
            and not (self._upgraded or self._message_tail)
            # The Python parser's; the C parser does not show any.
            and not getattr(self._parser, "_lines", None)
        )

    def data_received(self, data: bytes) -> None:
        # On the way of every request, so it does no more than it must.
        if data[-4:] == _EMPTY_LINE:
            _receive(self, data)
            self.in_doubt = self._upgraded or len(self._messages) >= _NEARLY_FULL
        elif data:
            self._receive_body(data)
        else:
            # Nothing came: aiohttp has the parser look at what it kept, and it may stop again.
            _receive(self, data)
            if self._upgraded or len(self._messages) >= _NEARLY_FULL:
                self.in_doubt = True

    def _receive_body(self, data: bytes) -> None:
        """Take a chunk that ends in a body, or within a head."""
        body = self._messages[-1][1] if self._messages else self.begun_body
        was_over = body.is_eof()
        was_empty = not self.in_doubt and was_over
        before, count = body.total_bytes, self._request_count
        expected = len(data)
        _receive(self, data)
        if (begun := self._request_count - count) and self._messages:
            body, before = self._messages[-1][1], 0
            # The first head's. Of several, the others count as body, and are too many; so
            # are empty lines before the first.
            expected -= data.find(_EMPTY_LINE) + len(_EMPTY_LINE)
        elif was_over and not begun and not self._upgraded and data.strip(b"\r\n"):
            self.head_begun_after = count
        self.in_doubt = (
            self._upgraded
            # Only of a chunk that begins with a request do we know where the head ends.
            or (begun > 0 and not was_empty)
            or not 0 < expected == body.total_bytes - before
            # What was counted is what came out of the decompressor.
            or body.total_compressed_bytes is not None
        )

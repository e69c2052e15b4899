"""The affinity key at the beginning of an HTTP/1.x connection: a header, cookie or path segment.

This module does not check requests: the worker does, and answers 400 where it must. So the
search is as lenient as it can be while it always finds the same value. It accepts lines that end
in LF alone, and folded lines, which aiohttp refuses. If a header or cookie is repeated, the first
that is not empty counts: it is certain before the rest of the head has come, and a browser sends
the cookie of the more specific path first.

A value is the bytes as they came, without the white space around them. A cookie's value is also
without its quotes; a semicolon within the quotes is part of the value, as for aiohttp. A path may
be alone or in an absolute URL. Its query is cut off, `%41` is `A`, and an empty segment counts: in
"/a//b", "b" is the third.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote_to_bytes

from aiocluster.errors import ConfigError

# aiohttp, gunicorn and Node allow at least as much for a line or a head (8 to 16 KiB).
MAX_HEAD_BYTES = 8192

ALLOWED_BY = "ip, header:NAME, cookie:NAME or path:N, N from 1 to 99"

# A character of a name, by RFC 9110.
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"

# Empty lines before a request are skipped, as every server does.
_EMPTY_LINES = re.compile(rb"[\r\n]*")

# The longest method registered has 17 letters.
_METHOD_SO_FAR = re.compile(rb"(?:%b{1,32}(?: |\Z)|\Z)" % _TOKEN)
_REQUEST_LINE = re.compile(rb"%b{1,32} +([^\x00-\x20\x7f]+) +HTTP/1\.[0-9]\r?\n" % _TOKEN)

# All lines up to the last line end that no folded line follows.
_WHOLE_LINES = re.compile(rb".*\n(?=[^ \t])", re.DOTALL)
_FOLD = re.compile(rb"\r?\n[ \t]+")

# One cookie of a header, up to its semicolon. Only one way to match it exists, so a failed search
# does not backtrack.
_QUOTED = rb'[ \t]*"(?:[^\\"]|\\.)*"[ \t]*(?:(?=;)|\Z)'
_COOKIE = rb"[^=;]*(?:=(?:%b|(?!%b)[^;]*))?;" % (_QUOTED, _QUOTED)
# The wanted cookie with a value that is not empty; the first group includes quotes, if any.
_WANTED = rb'(?:%b)*?[ \t]*%%b[ \t]*=(?![ \t]*(?:""[ \t]*)?(?:;|\Z))(%b|[^;]*)' % (_COOKIE, _QUOTED)

_TLS_HANDSHAKE, _TLS_MAJOR = 0x16, 0x03


class Fallback(StrEnum):
    """A reason why the client's address is used as a connection's affinity."""

    TOO_LONG = "too_long"
    NOT_HTTP = "not_http"
    TLS = "tls"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class AffinityKey:
    """The part of a request that identifies a client; of the first three at most one is set."""

    segment: int = 0  # of the path, from 1
    header: str = ""
    cookie: str = ""
    line_start: bytes = field(init=False)  # of the header's line, with the line end before
    in_cookies: re.Pattern[bytes] = field(init=False)

    def __post_init__(self) -> None:
        name = "cookie" if self.cookie else self.header
        pattern = _WANTED % re.escape(self.cookie.encode())
        object.__setattr__(self, "line_start", b"\n%b:" % name.lower().encode())
        object.__setattr__(self, "in_cookies", re.compile(pattern))

    @property
    def is_ip(self) -> bool:
        """True if the key is the client's address, and nothing in the request."""
        return not (self.segment or self.header or self.cookie)


def by_from(text: object, what: str = "by") -> AffinityKey:
    """Return the key that "ip", "header:NAME", "cookie:NAME" or "path:N" means.

    Raise ConfigError, which names `what`, for anything else.
    """
    kind, _, name = text.partition(":") if isinstance(text, str) else ("", "", "")
    if text == "ip":
        return AffinityKey()
    if kind == "path" and re.fullmatch("[1-9][0-9]?", name):
        return AffinityKey(segment=int(name))
    if name.isascii() and re.fullmatch(_TOKEN + b"+", name.encode()):
        if kind == "header":
            return AffinityKey(header=name)
        if kind == "cookie":
            return AffinityKey(cookie=name)
    raise ConfigError(f"{what}={text!r} is not allowed; give {ALLOWED_BY}")


class HeadSearch:
    """A search for the key `by` in the first bytes of one connection, while they arrive.

    Bytes that were judged are not read again, however small the pieces are.
    """

    __slots__ = ("_by", "_has_request_line", "_line", "_seen")

    def __init__(self, by: AffinityKey) -> None:
        self._by = by
        self._has_request_line = False
        self._line = 0  # the start of the first line that is not judged yet
        self._seen = 0

    def look(self, data: bytes) -> bytes | Fallback | None:
        """Return the value, or why there is none; None while more bytes are needed.

        `data` is all that has come so far, from the first byte on, and may go on beyond the
        head. Later bytes would not change a value or a reason that was returned.
        """
        is_all = len(data) >= MAX_HEAD_BYTES
        if is_all:
            data = data[:MAX_HEAD_BYTES]
        answer = None if self._has_request_line else self._judge_request_line(data)
        if answer is None and self._has_request_line:
            answer = self._judge_headers(data)
        return Fallback.TOO_LONG if answer is None and is_all else answer

    def _judge_request_line(self, data: bytes) -> bytes | Fallback | None:
        if data[:1] == b"\x16":
            return _tls_or_not(data)
        skipped = _EMPTY_LINES.match(data, self._line)
        self._line = start = skipped.end() if skipped else 0
        end = data.find(b"\n", max(start, self._seen))
        self._seen = len(data)
        if end < 0:
            return None if _METHOD_SO_FAR.match(data, start) else Fallback.NOT_HTTP
        line = _REQUEST_LINE.match(data, start, end + 1)
        if line is None:
            return Fallback.NOT_HTTP
        self._has_request_line = True
        self._line = self._seen = end + 1
        if self._by.segment:
            return _segment(line[1], self._by.segment) or Fallback.ABSENT
        return None

    def _judge_headers(self, data: bytes) -> bytes | Fallback | None:
        first = self._line - 1  # the line end before that line
        if (end := _end_of_head(data, max(first, self._seen - 2))) >= 0:
            return _value(self._by, data[first:end]) or Fallback.ABSENT
        whole = _WHOLE_LINES.match(data, max(first, self._seen - 1))
        self._seen = len(data)
        if whole is None or whole.end() == self._line:
            return None
        self._line = whole.end()
        return _value(self._by, data[first : self._line]) or None


def _tls_or_not(data: bytes) -> Fallback | None:
    if len(data) < 2:
        return None
    is_tls = (data[0], data[1]) == (_TLS_HANDSHAKE, _TLS_MAJOR)
    return Fallback.TLS if is_tls else Fallback.NOT_HTTP


def _segment(target: bytes, number: int) -> bytes:
    """Return a segment of the path in a request's target; empty if there is none.

    The segment is decoded as in a route's variable: if `%61` were not "a", clients of one room
    could get two workers.
    """
    path = target.partition(b"?")[0].partition(b"#")[0]
    if not path.startswith(b"/"):
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
    segments = path.split(b"/", number + 1)
    return unquote_to_bytes(segments[number]) if number < len(segments) else b""


def _end_of_head(data: bytes, start: int) -> int:
    """Return the index after the last header's line end, or -1."""
    crlf = data.find(b"\n\r\n", start)
    lf = data.find(b"\n\n", start) if crlf < 0 else data.find(b"\n\n", start, crlf)
    end = crlf if lf < 0 else lf
    return end + 1 if end >= 0 else -1


def _value(by: AffinityKey, lines: bytes) -> bytes:
    """Return the first value in `lines`, which begin and end with a line end; else b""."""
    lowered, start = lines.lower(), by.line_start
    at = lowered.find(start)
    while at >= 0:
        at += len(start)
        end = _end_of_line(lines, at)
        if value := _unfolded(lines[at:end]):
            if by.cookie:
                value = _cookie(by, value)
            if value:
                return value
        at = lowered.find(start, end)
    return b""


def _end_of_line(lines: bytes, start: int) -> int:
    end = lines.find(b"\n", start)
    while lines[end + 1 : end + 2] in (b" ", b"\t"):
        end = lines.find(b"\n", end + 1)
    return end


def _unfolded(value: bytes) -> bytes:
    if b"\n" in value:
        value = _FOLD.sub(b" ", value)
    return value.strip(b" \t\r")


def _cookie(by: AffinityKey, header: bytes) -> bytes:
    """Return the value of a cookie in one Cookie header; empty if there is none."""
    found = by.in_cookies.match(header)
    if found is None:
        return b""
    value = found[1].strip(b" \t")
    is_quoted = len(value) > 2 and value[:1] == value[-1:] == b'"'
    return value[1:-1] if is_quoted else value

"""Every head is shown whole and in pieces, as a peek does: always from its first byte on."""

import pytest
from aiohttp._cookie_helpers import parse_cookie_header
from hypothesis import example, given
from hypothesis import strategies as st

from aiocluster.errors import ConfigError
from aiocluster.policies.request_head import (
    MAX_HEAD_BYTES,
    AffinityKey,
    Fallback,
    HeadSearch,
    by_from,
)

HEADER = by_from("header:x-session-id")
COOKIE = by_from("cookie:sid")
FIRST = by_from("path:1")

GET = b"GET /a/b HTTP/1.1\r\nHost: x\r\n"


def look(by: AffinityKey, data: bytes) -> bytes | Fallback | None:
    """Show all of it at once."""
    return HeadSearch(by).look(data)


def looks(by: AffinityKey, data: bytes, sizes: list[int]) -> list[bytes | Fallback | None]:
    """Show the first so many bytes, one after the other, and at last all."""
    search = HeadSearch(by)
    return [search.look(data[:size]) for size in [*sorted(sizes), len(data)]]


def cookies(*headers: bytes) -> bytes:
    return GET + b"".join(b"Cookie: %b\r\n" % header for header in headers) + b"\r\n"


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        (b"X-Session-Id: abc\r\n", b"abc"),
        (b"x-session-id:abc\r\n", b"abc"),
        (b"X-SESSION-ID: \t abc \t\r\n", b"abc"),
        (b"X-Session-Id: abc\n", b"abc"),
        (b"Accept: x-session-id: no\r\nX-Session-Id: a:b\r\n", b"a:b"),
        (b"X-X-Session-Id: no\r\nX-Session-Id2: no\r\nX-Session-Id: yes\r\n", b"yes"),
        (b"X-Session-Id: first\r\nX-Session-Id: second\r\n", b"first"),
        (b"X-Session-Id:\r\nX-Session-Id: second\r\n", b"second"),
        (b"X-Session-Id: one\r\n two\r\n\tthree\r\n", b"one two three"),
        (b"X-Session-Id:\r\n folded\r\n", b"folded"),
        (b"Accept: a\r\n x-session-id: no\r\nX-Session-Id: yes\r\n", b"yes"),
        (b"X-Session-Id: \xff\x00\r\n", b"\xff\x00"),
        (b"", Fallback.ABSENT),
        (b"X-Session-Id:\r\n", Fallback.ABSENT),
        (b"X-Session-Id:  \r\n \r\n", Fallback.ABSENT),
        (b"X-Session-Id : no\r\n", Fallback.ABSENT),
        (b"X-Session-Id\r\n", Fallback.ABSENT),
    ],
)
def test_a_header_is_found_as_servers_find_it(lines: bytes, value: bytes | Fallback) -> None:
    """Whatever its case and the space around it; of several, the first that is not empty."""
    assert look(HEADER, GET + lines + b"\r\n") == value


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ([b"sid=1"], b"1"),
        ([b"a=b; sid=1; c=d"], b"1"),
        ([b"a=b;sid=1;c=d"], b"1"),
        ([b" sid = 1 ;"], b"1"),
        ([b"xsid=1; sid=2"], b"2"),
        ([b"sid2=1; sid-x=3; sid=2"], b"2"),
        ([b"SID=1; sid=2"], b"2"),
        ([b"sid=1; sid=2"], b"1"),
        ([b"sid=; sid=2"], b"2"),
        ([b'sid=""; sid=2'], b"2"),
        ([b"a=1", b"sid=2", b"sid=3"], b"2"),
        ([b'sid="1"'], b"1"),
        ([b'sid="a;b"'], b"a;b"),
        ([b'sid="a\\"b;c"'], b'a\\"b;c'),
        ([b'a="; sid=1"; sid=2'], b"2"),
        ([b'a="; sid=1'], b"1"),
        ([b'a=x"; sid=1; b="'], b"1"),
        ([b'sid="open'], b'"open'),
        ([b"sid=a=b=="], b"a=b=="),
        ([b"a=1;\r\n sid=2"], b"2"),
        ([b"sid"], Fallback.ABSENT),
        ([b"sid="], Fallback.ABSENT),
        ([b'sid=""'], Fallback.ABSENT),
        ([b"a=sid=1"], Fallback.ABSENT),
        ([b'a="sid=1; sid=2"'], Fallback.ABSENT),
        ([b";;;", b""], Fallback.ABSENT),
    ],
)
def test_a_cookie_is_found_among_others(headers: list[bytes], value: bytes | Fallback) -> None:
    """By its whole name; a semicolon within quotes ends nothing."""
    assert look(COOKIE, cookies(*headers)) == value


@pytest.mark.parametrize(
    ("target", "first", "third"),
    [
        (b"/a/b/c", b"a", b"c"),
        (b"/a?x=/b/c", b"a", None),
        (b"/a#/b/c", b"a", None),
        (b"/%61/b/c%2fd", b"a", b"c/d"),
        (b"/caf%c3%a9/b/%zz", b"caf\xc3\xa9", b"%zz"),
        (b"/a//c/", b"a", b"c"),
        (b"/a/b/", b"a", None),
        (b"//a/b", None, b"b"),
        (b"/", None, None),
        (b"*", None, None),
        (b"example.com:443", None, None),
        (b"http://host/a/b/c?d", b"a", b"c"),
        (b"http://host", None, None),
        (b"http://host?/a", None, None),
        (b"/caf\xc3\xa9", b"caf\xc3\xa9", None),
    ],
)
def test_a_segment_of_the_path(target: bytes, first: bytes | None, third: bytes | None) -> None:
    """Counted from 1, empty ones too; the query is no part of it; decoded once it is cut out."""
    line = b"GET %b HTTP/1.1\r\n" % target
    assert look(FIRST, line) == (first or Fallback.ABSENT)
    assert look(by_from("path:3"), line) == (third or Fallback.ABSENT)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        b"\x16\x04",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1 x\r\n",
        b"G\xffT / HTTP/1.1\r\n",
        b" GET / HTTP/1.1\r\n",
        b"GET  HTTP/1.1\r\n",
        b"x" * 33,
        b"\r\n\r\n\x16\x03",
    ],
)
def test_what_is_not_http_is_told_at_once(data: bytes) -> None:
    """Nobody waits for the rest of what can be no request of HTTP/1."""
    assert look(HEADER, data) == Fallback.NOT_HTTP


def test_tls_is_told_by_its_second_byte() -> None:
    """A handshake record; of its first byte alone nothing is certain."""
    assert looks(HEADER, b"\x16\x03\x01\x02\x00", [0, 1]) == [None, None, Fallback.TLS]


@pytest.mark.parametrize("data", [b"", b"GET", b"GET /a HTTP/1.1\r", b"\r\n", b"\n\nP"])
def test_the_beginning_of_a_request_line_says_nothing_yet(data: bytes) -> None:
    """Any method may come, after as many empty lines as one likes."""
    assert [look(by, data) for by in (HEADER, COOKIE, FIRST)] == [None, None, None]


def test_empty_lines_before_a_request_are_skipped() -> None:
    """As aiohttp skips them: some clients end a body with one too many."""
    assert look(FIRST, b"\r\n\r\nGET /a HTTP/1.1\r\n") == b"a"


@pytest.mark.parametrize(
    ("by", "head", "needed"),
    [
        (FIRST, b"GET /a/b HTTP/1.1\r\n", 19),
        (HEADER, GET + b"X-Session-Id: abc\r\nA", len(GET) + 20),
        (HEADER, GET + b"X-Session-Id: abc\r\n\r", len(GET) + 20),
        (COOKIE, GET + b"Cookie: sid=abc\r\nA", len(GET) + 18),
        (COOKIE, GET + b"\r\n", len(GET) + 2),
    ],
)
def test_the_answer_comes_as_soon_as_it_is_certain(
    by: AffinityKey, head: bytes, needed: int
) -> None:
    """A header when the next line has begun and does not go on with it."""
    answers = looks(by, head, [needed - 1])
    assert answers[0] is None
    assert answers[1] is not None
    assert len(head) == needed


def test_the_body_is_not_looked_at() -> None:
    """What a client sends behind its head decides nothing."""
    body = b"\r\nX-Session-Id: body\r\nCookie: sid=body\r\n\r\n"
    assert look(HEADER, GET + b"\r\n" + body) == Fallback.ABSENT
    assert look(COOKIE, GET + b"\n" + body) == Fallback.ABSENT


def test_a_head_may_be_so_long_and_not_longer() -> None:
    """It is not what comes behind it that counts."""
    rest = b"\r\nX-Session-Id: abc\r\n\r\n"
    start = GET + b"A: "
    fits = start + b"a" * (MAX_HEAD_BYTES - len(start) - len(rest)) + rest
    longer = start + b"a" * (MAX_HEAD_BYTES - len(start) - len(rest) + 3) + rest

    assert len(fits) == MAX_HEAD_BYTES
    assert look(HEADER, fits + b"body") == b"abc"
    assert look(HEADER, longer) == Fallback.TOO_LONG
    assert look(HEADER, longer[: MAX_HEAD_BYTES - 1]) is None


class Counted(bytes):
    """Bytes that count how many of them are taken out, or searched."""

    touched = 0

    def __getitem__(self, key: object) -> object:  # type: ignore[override]
        part = super().__getitem__(key)  # type: ignore[call-overload]
        Counted.touched += len(part) if isinstance(part, bytes) else 1
        return part

    def find(self, what: bytes, start: int = 0, end: int = MAX_HEAD_BYTES) -> int:  # type: ignore[override]
        Counted.touched += len(self) - start
        return super().find(what, start, end)


@pytest.mark.parametrize("line", [b"a\n", b"A: b\r\n", b" b\r\n", b"c" * 99 + b"\n", b"d"])
def test_a_head_that_drips_is_read_once(line: bytes) -> None:
    """A client that sends byte by byte costs no more for each than for the first."""
    data = (GET + line * MAX_HEAD_BYTES)[: MAX_HEAD_BYTES - 1]
    search = HeadSearch(HEADER)
    Counted.touched = 0

    for size in range(len(data)):
        assert search.look(Counted(data[:size])) is None

    assert Counted.touched < 20 * len(data)


@pytest.mark.parametrize("text", ["ip", "header:X-Session-Id", "cookie:sid", "path:1", "path:99"])
def test_by_is_a_kind_and_a_name(text: str) -> None:
    """Only "ip" has no name."""
    assert by_from(text).is_ip is (text == "ip")


@pytest.mark.parametrize(
    "text",
    [None, 7, b"ip", "", "IP", "ip:", "header", "header:", "header:a b", "cookie:a=b", "cookie:é",
     "path:0", "path:100", "path:-1", "path:a", "path:٣", "query:x", "header:a\n"],
)  # fmt: skip
def test_any_other_by_is_refused(text: object) -> None:
    """The error has the value, what it was given as, and what is allowed."""
    with pytest.raises(ConfigError) as error:
        by_from(text, "sticky: by")
    assert str(error.value).startswith(f"sticky: by={text!r} is not allowed; give ip, ")


def test_cookie_and_header_names_are_no_patterns() -> None:
    """A name may have characters that mean something in a pattern."""
    assert look(by_from("cookie:s.d"), cookies(b"sid=1; s.d=2")) == b"2"
    assert look(by_from("cookie:s*"), cookies(b"s=1; s*=2")) == b"2"


# Pieces from which heads are made that are nearly right.
pieces = st.sampled_from(
    [
        *(bytes([byte]) for byte in b'\r\n :;="\\\tax/?#'),
        b"\r\n", b"\r\n\r\n", b"X-Session-Id: ", b"x-session-id:", b"Cookie: ", b"cookie:",
        b"sid=", b'sid="', b"xsid=1;", b"; ", b"GET /a/b HTTP/1.1\r\n", b"http://",
        b"\x16", b"\x03", b"\xff", b"A: " + b"a" * 3000,
    ]
)  # fmt: skip
nearly = st.builds(
    lambda start, rest: start + b"".join(rest),
    st.sampled_from([b"", GET, b"GET /a HTTP/1.1\n", b"\r\n"]),
    st.lists(pieces, max_size=30),
)
sizes = st.lists(st.integers(0, 120) | st.integers(0, 10_000), max_size=12)
any_by = st.sampled_from([HEADER, COOKIE, FIRST, by_from("path:2")])


@given(any_by, nearly | st.binary(), sizes)
@example(HEADER, GET + b"X-Session-Id: a\r\n b\r\n\r\n", list(range(60)))
@example(COOKIE, GET + b'Cookie: sid=";"\r\nCookie: sid=2\r\n\r\n', list(range(70)))
def test_every_split_finds_what_the_whole_does(
    by: AffinityKey, data: bytes, sizes: list[int]
) -> None:
    """Nothing raises; once there is an answer, it is the answer to all that may follow."""
    whole = look(by, data)
    answers = looks(by, data, sizes)
    known = [answer for answer in answers if answer is not None]

    assert known[:1] == ([] if whole is None else [whole])
    for size in sizes:
        assert look(by, data[:size]) in (None, whole)


names = st.text("abcsid", min_size=1, max_size=3)
values = st.text("ab=12", min_size=1, max_size=5) | st.builds(
    '"{}"'.format, st.text("ab;= 1", min_size=1, max_size=6)
)


@given(st.lists(st.tuples(names, values), max_size=8, unique_by=lambda pair: pair[0]))
def test_it_finds_the_cookie_that_aiohttp_finds(pairs: list[tuple[str, str]]) -> None:
    """What the app reads in `request.cookies` is what its connections are kept together by."""
    header = "; ".join(f"{name}={value}" for name, value in pairs)
    theirs = {name: morsel.value for name, morsel in parse_cookie_header(header)}

    ours = look(COOKIE, cookies(header.encode()))

    assert ours == (theirs["sid"].encode() if theirs.get("sid") else Fallback.ABSENT)


spaces = st.text(" \t", max_size=2)
folds = st.sampled_from(["", "\r\n ", "\r\n\t", "\n  "])


@given(st.lists(st.tuples(st.booleans(), spaces, folds, st.text("abc", max_size=3)), max_size=6))
def test_folded_and_repeated_headers(lines: list[tuple[bool, str, str, str]]) -> None:
    """The first that is not empty, wherever its line goes on."""
    head = GET.decode()
    for is_wanted, space, fold, value in lines:
        name = "x-SESSION-id" if is_wanted else "Other"
        head += f"{name}:{space}{fold}{value}{space}\r\n"
    wanted = [value for is_wanted, _, _, value in lines if is_wanted and value]

    found = look(HEADER, head.encode() + b"\r\n")

    assert found == (wanted[0].encode() if wanted else Fallback.ABSENT)

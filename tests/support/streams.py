"""HTTP as a client may send it: any requests, cut anywhere, in any rhythm."""

import gzip
import itertools

from hypothesis import strategies as st

_MARKS = [b"\r\n", b"\r\n\r\n", b"\r", b"\n", b"0\r\n\r\n", b"GET / HTTP/1.1\r\n"]

# A body may be anything, and above all what looks like something else.
_BODIES = st.one_of(
    st.binary(max_size=40),
    st.lists(
        st.sampled_from([*_MARKS, b"x", b"GET /inner HTTP/1.1\r\nHost: x\r\n\r\n"]), max_size=4
    ).map(b"".join),
    st.integers(100, 9000).map(lambda size: b"\r\n\r\n" + b"z" * size),
)

_PATHS = st.sampled_from([b"/", b"/ignore", b"/slow", b"/none", b"/last"])
_LEADS = st.sampled_from([b"", b"", b"", b"\r\n", b"\r\n\r\n", b"\n", b"\n\r\n", b"\r"])
_CLOSE, _UPGRADE = b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: websocket\r\n"
_MORE = st.sampled_from([b"", b"", b"", b"A: b\r\n", b"Empty:\r\n", _CLOSE, _UPGRADE])


@st.composite
def _plain(draw: st.DrawFn) -> bytes:
    method = draw(st.sampled_from([b"GET", b"HEAD", b"DELETE", b"OPTIONS"]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0"]))
    return b"%s %s HTTP/%s\r\nHost: x\r\n%s\r\n" % (method, draw(_PATHS), version, draw(_MORE))


@st.composite
def _counted(draw: st.DrawFn) -> bytes:
    body, more = draw(_BODIES), draw(_MORE)
    if draw(st.integers(0, 5)) == 0:
        body, more = gzip.compress(body, mtime=0), more + b"Content-Encoding: gzip\r\n"
    length = str(len(body)).encode()
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %s\r\n%s\r\n"
    return head % (draw(_PATHS), length, more) + body


@st.composite
def _chunked(draw: st.DrawFn) -> bytes:
    chunks = draw(st.lists(_BODIES.filter(bool), max_size=3))
    trailers = draw(st.sampled_from([b"", b"", b"Trailer: x\r\n"]))
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n%s\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head % (draw(_PATHS), draw(_MORE)) + body + b"0\r\n" + trailers + b"\r\n"


# As many as fill aiohttp's queue, which changes what its parser does.
_many = st.integers(28, 45).map(lambda count: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * count)

_request = st.one_of(_plain(), _plain(), _counted(), _counted(), _counted(), _chunked(), _many)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Return what a client sends, in the pieces in which it arrives."""
    requests = draw(st.lists(st.tuples(_LEADS, _request), min_size=1, max_size=6))
    stream = b"".join(lead + request for lead, request in requests)
    ends = [*itertools.accumulate(len(lead) + len(request) for lead, request in requests)]
    # Where messages end, near there, and anywhere else.
    near = st.builds(lambda end, off: end + off, st.sampled_from(ends), st.integers(-6, 6))
    cuts = draw(st.sets(st.one_of(st.sampled_from(ends), near, st.integers(0, len(stream)))))
    places = [0, *sorted(cut for cut in cuts if 0 < cut < len(stream)), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(places)]
    return [piece for piece in pieces if piece]

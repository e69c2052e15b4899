"""The examples of haproxy's specification, what it forbids, and headers made at random."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiocluster.errors import ConfigError
from aiocluster.primary.ingress.proxy_protocol import (
    MAX_PROXY_BYTES,
    Header,
    Malformed,
    TrustedProxies,
    proxy_header,
)

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
TCP4, TCP6 = 0x11, 0x21


def v2(command: int, kind: int, rest: bytes, length: int | None = None) -> bytes:
    """Return a header of version 2."""
    size = len(rest) if length is None else length
    return SIGNATURE + bytes([command, kind]) + size.to_bytes(2, "big") + rest


def refused(data: bytes) -> str:
    """Return why `data` is malformed."""
    header = proxy_header(data)
    assert isinstance(header, Malformed)
    return header.reason


ENDS4 = bytes([192, 168, 0, 1, 10, 0, 0, 2]) + b"\xdc\x04\x01\xbb"
ENDS6 = IPv6Address("2001:db8::1").packed + IPv6Address("::1").packed + b"\xdc\x04\x01\xbb"


@pytest.mark.parametrize(
    ("line", "source", "destination"),
    [
        (b"TCP4 192.168.0.1 10.0.0.2 56324 443", ("192.168.0.1", 56324), ("10.0.0.2", 443)),
        (b"TCP4 255.255.255.255 0.0.0.0 65535 0", ("255.255.255.255", 65535), ("0.0.0.0", 0)),
        (b"TCP6 2001:DB8:0::1 ::1 1 2", ("2001:db8::1", 1), ("::1", 2)),
        (b"UNKNOWN", None, None),
        (b"UNKNOWN ffff:f...f:ffff anything 65535 65535", None, None),
    ],
)
def test_version_1_is_a_line(line: bytes, source: object, destination: object) -> None:
    """Of UNKNOWN all the rest is ignored; what follows the line is the client's."""
    header = b"PROXY %b\r\n" % line
    assert proxy_header(header + b"GET /") == Header(len(header), source, destination)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
        b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7 1 2\r\n",
        b"PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP6 fe80::1%1 ::1 1 2\r\n",
        b"PROXY TCP4 localhost 5.6.7.8 1 2\r\n",
        b"PROXY TCP4\r\n",
        b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY \r\n",
    ],
)
def test_version_1_is_read_to_the_letter(line: bytes) -> None:
    """A reader that guesses can be told lies."""
    assert "version 1" in refused(line)


def test_version_1_ends_within_107_bytes() -> None:
    """The longest that the specification allows is taken; one more is too long."""
    longest = b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n"

    assert len(longest) == 107
    assert proxy_header(longest) == Header(107)
    assert proxy_header(longest[:-1]) is None
    assert "within 107 bytes" in refused(b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n")


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"\x16\x03", b"PROXX", b"\r\n\r\n\x01", b"\n"]
)
def test_what_begins_otherwise_is_no_header(data: bytes) -> None:
    """It is told by the first byte that is wrong."""
    assert refused(data) == "no PROXY header"


@pytest.mark.parametrize(
    ("data", "source", "destination"),
    [
        (v2(0x21, TCP4, ENDS4), ("192.168.0.1", 56324), ("10.0.0.2", 443)),
        (v2(0x21, TCP6, ENDS6), ("2001:db8::1", 56324), ("::1", 443)),
        (v2(0x21, TCP4, ENDS4 + b"\x03\x00\x04ab"), ("192.168.0.1", 56324), ("10.0.0.2", 443)),
        (v2(0x21, 0x12, ENDS4), None, None),
        (v2(0x21, 0x31, b"/run/a".ljust(216, b"\x00")), None, None),
        (v2(0x21, 0x00, b""), None, None),
        (v2(0x21, 0x00, b"tlvs"), None, None),
        (v2(0x20, 0x00, b""), None, None),
        (v2(0x20, TCP4, ENDS4), None, None),
        (v2(0x20, 0xFF, b"?"), None, None),
    ],
)  # fmt: skip
def test_version_2_is_binary(data: bytes, source: object, destination: object) -> None:
    """Extensions are skipped. A LOCAL connection, and whatever is not TCP, names no client."""
    assert proxy_header(data + b"GET /") == Header(len(data), source, destination)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (v2(0x11, TCP4, ENDS4), "version and command 0x11"),
        (v2(0x22, TCP4, ENDS4), "version and command 0x22"),
        (v2(0x21, 0x10, ENDS4), "family and transport 0x10"),
        (v2(0x21, 0x41, ENDS4), "family and transport 0x41"),
        (v2(0x21, TCP4, ENDS4[:-1]), "too few"),
        (v2(0x21, TCP6, ENDS4), "too few"),
        (v2(0x21, 0x31, ENDS4), "too few"),
        (v2(0x20, 0x00, b"", MAX_PROXY_BYTES), f"{MAX_PROXY_BYTES} at most"),
    ],
)
def test_version_2_is_bounded_and_consistent(data: bytes, reason: str) -> None:
    """Reserved values, too short and too long ones are told as soon as they are seen."""
    assert reason in refused(data[:16])


def test_a_header_of_the_greatest_length_is_taken() -> None:
    """With as many extensions as fit."""
    data = v2(0x21, TCP4, ENDS4.ljust(MAX_PROXY_BYTES - 16, b"\x00"))

    assert proxy_header(data[:-1]) is None
    header = proxy_header(data)
    assert isinstance(header, Header)
    assert (header.length, header.source) == (MAX_PROXY_BYTES, ("192.168.0.1", 56324))


ports = st.integers(0, 65535)
endpoints = st.tuples(st.ip_addresses(v=4), ports, st.ip_addresses(v=4), ports) | st.tuples(
    st.ip_addresses(v=6), ports, st.ip_addresses(v=6), ports
)
Ends = tuple[IPv4Address | IPv6Address, int, IPv4Address | IPv6Address, int]


def written_v1(ends: Ends) -> bytes:
    source, source_port, destination, destination_port = ends
    addresses = f"TCP{source.version} {source} {destination}"
    return f"PROXY {addresses} {source_port} {destination_port}\r\n".encode()


def written_v2(ends: Ends, extensions: bytes) -> bytes:
    source, source_port, destination, destination_port = ends
    addresses = source.packed + destination.packed
    both = source_port.to_bytes(2, "big") + destination_port.to_bytes(2, "big")
    return v2(0x21, TCP4 if source.version == 4 else TCP6, addresses + both + extensions)


def shown(address: IPv4Address | IPv6Address) -> str:
    mapped = None if address.version == 4 else address.ipv4_mapped
    return str(mapped or address)


@given(endpoints, st.binary(max_size=40), st.binary(max_size=40))
def test_what_is_written_is_read(ends: Ends, extensions: bytes, after: bytes) -> None:
    """Any addresses, in both versions, with anything behind, at every length so far."""
    source, source_port, destination, destination_port = ends
    for data in (written_v1(ends), written_v2(ends, extensions)):
        header = proxy_header(data + after)
        assert isinstance(header, Header)
        assert header.length == len(data)
        assert header.source is not None
        assert header.destination is not None
        assert header.source == (shown(source), source_port)
        assert header.destination == (shown(destination), destination_port)
        assert [proxy_header(data[:size]) for size in range(len(data))] == [None] * len(data)


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP6 ::ffff:1.2.3.4 ::1 5 6\r\n",
        b"PROXY TCP6 ::ffff:102:304 ::1 5 6\r\n",
        SIGNATURE + b"\x21\x21" + (36).to_bytes(2, "big") + bytes(10) + b"\xff\xff\x01\x02\x03\x04"
        + bytes(15) + b"\x01\x00\x05\x00\x06",
    ],
)  # fmt: skip
def test_an_ipv4_client_is_told_as_one(header: bytes) -> None:
    """Some proxies write all addresses as IPv6; a list of who may come in has the other."""
    read = proxy_header(header)
    assert isinstance(read, Header)
    assert (read.source, read.destination) == (("1.2.3.4", 5), ("::1", 6))


pieces = st.sampled_from(
    [b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"1.2.3.4 ", b"::1 ", b"1 ", b"2", b"\r",
     b"\n", b"\r\n", b" ", SIGNATURE, b"\x21", b"\x20", b"\x11", b"\x00\x0c", b"\x00", b"\xff",
     ENDS4, b"f" * 50]
)  # fmt: skip
nearly = st.builds(
    lambda start, rest: start + b"".join(rest),
    st.sampled_from([b"", b"PROXY ", SIGNATURE + b"\x21", SIGNATURE + b"\x21\x11\x00\x0c"]),
    st.lists(pieces | st.binary(max_size=5), max_size=12),
)


@given(nearly | st.binary())
def test_every_split_says_what_the_whole_says(data: bytes) -> None:
    """Nothing raises, no header is longer than what came, and no answer is ever taken back."""
    whole = proxy_header(data)
    for size in range(len(data)):
        header = proxy_header(data[:size])
        assert header in (None, whole)
        assert not isinstance(header, Header) or header.length <= size
    assert not isinstance(whole, Header) or whole.length <= len(data)


@pytest.mark.parametrize(
    ("host", "is_trusted"),
    [
        ("10.1.2.3", True),
        ("11.0.0.1", False),
        ("192.168.0.7", True),
        ("192.168.0.8", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.0.0.1", False),
        ("172.16.5.5", True),
        ("::ffff:172.16.5.5", True),
        ("2001:db8::5", True),
        ("2001:db9::5", False),
        ("fe80::1%eth0", True),
        ("", False),
        ("/run/socket", False),
    ],
)
def test_a_proxy_is_trusted_by_address_or_network(host: str, is_trusted: bool) -> None:
    """An IPv4 address is the same one within IPv6, on either side."""
    trusted = TrustedProxies(
        ["10.0.0.0/8", "192.168.0.7", "::ffff:172.16.0.0/108", "2001:db8::/32", "fe80::/10"]
    )
    assert [trusted.has(host), trusted.has(host)] == [is_trusted, is_trusted]


def test_without_any_nobody_is_trusted() -> None:
    """Nor is there a default: who may lie about addresses is for the user to say."""
    assert not TrustedProxies([]).has("127.0.0.1")


def test_many_different_peers_do_not_fill_memory() -> None:
    """What is remembered is bounded, and forgetting changes no answer."""
    trusted = TrustedProxies(["::1"])

    assert not any(trusted.has(str(IPv6Address(number))) for number in range(2, 5000))
    assert trusted.has("::1")
    assert len(trusted._remembered) <= 1024


@pytest.mark.parametrize(
    "text", ["", "example.com", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0-9", "*"]
)
def test_what_is_neither_is_refused(text: str) -> None:
    """The error has the value; host bits would make one wonder what was meant."""
    with pytest.raises(ConfigError, match="trusted_proxies") as refusal:
        TrustedProxies(["::1", text])
    assert repr(text) in str(refusal.value)

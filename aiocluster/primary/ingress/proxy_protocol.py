"""The PROXY protocol, versions 1 and 2: a proxy names the client of a connection.

This follows haproxy's specification, which forbids guessing: anything but an exact header is
malformed. The extensions (TLVs) of version 2 are skipped, the checksum included: the header came
over the same TCP connection as all the rest. If a header names no TCP client, as in a proxy's own
health checks, the address of the connection itself holds.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from struct import Struct

from aiocluster.errors import ConfigError

# The specification's limit, line end included.
_MAX_V1_BYTES = 107

# The specification allows 64 KiB in version 2. What proxies add (a TLS client's certificate name,
# a cloud's endpoint) is a few hundred bytes.
MAX_PROXY_BYTES = 4096

_V1_START = b"PROXY "
_V2_START = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED_BYTES = 16

_V1 = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) ([0-9]+) ([0-9]+)\r\n")
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")
_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rb"(?:%b\.){3}%b" % (_OCTET, _OCTET))
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")
_MAX_PORT = 65535

_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21

_V2_TCP4, _V2_TCP6 = Struct("!4s4sHH"), Struct("!16s16sHH")

# The length of the addresses, by family and transport. All other values are reserved.
_ADDRESS_BYTES = {0x00: 0, _TCP4: 12, 0x12: 12, _TCP6: 36, 0x22: 36, 0x31: 216, 0x32: 216}

_MAX_REMEMBERED = 1024

Endpoint = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Header:
    """A complete header: its length, and the client's source and destination if it names them."""

    length: int
    source: Endpoint | None = None
    destination: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class Malformed:
    """The verdict that the bytes are not a header, whatever may follow."""

    reason: str


def proxy_header(data: bytes) -> Header | Malformed | None:
    """Parse the header at the start of `data`, the bytes so far; None: more bytes are needed."""
    if data.startswith(_V1_START):
        return _v1(data[:_MAX_V1_BYTES])
    if data.startswith(_V2_START):
        return _v2(data)
    if _V1_START.startswith(data) or _V2_START.startswith(data):
        return None
    return Malformed("no PROXY header")


def _v1(data: bytes) -> Header | Malformed | None:
    end = data.find(b"\n") + 1
    if not end:
        too_long = len(data) >= _MAX_V1_BYTES
        return Malformed(f"no line end within {_MAX_V1_BYTES} bytes") if too_long else None
    if _V1_UNKNOWN.fullmatch(data, 0, end):
        return Header(end)
    line = _V1.fullmatch(data, 0, end)
    if line is None:
        return Malformed("bad line of version 1")
    kind, source, destination, source_port, destination_port = line.groups()
    ends = _endpoint(kind, source, source_port), _endpoint(kind, destination, destination_port)
    if None in ends:
        return Malformed("bad address or port in version 1")
    return Header(end, *ends)


def _endpoint(kind: bytes, host: bytes, port: bytes) -> Endpoint | None:
    if not _PORT.fullmatch(port) or int(port) > _MAX_PORT:
        return None
    if kind == b"TCP6":
        text = _ipv6(host.decode("ascii"))
    else:
        # IPv4Address accepts the same texts, but costs 4 µs.
        text = host.decode("ascii") if _IPV4.fullmatch(host) else ""
    return (text, int(port)) if text else None


@lru_cache(_MAX_REMEMBERED)
def _ipv6(address: str | bytes) -> str:
    """Return an IPv6 address in its usual form, or the IPv4 address that it maps; "" if invalid.

    So an app sees the same text as for IPv4, say for a list of allowed clients. The cache pays as
    each costs 10 µs, and one of the two addresses in a header is always the same.
    """
    try:
        parsed = IPv6Address(address)
        return str(parsed.ipv4_mapped or parsed)
    except ValueError:
        return ""


def _v2(data: bytes) -> Header | Malformed | None:
    if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
        return Malformed(f"version and command {data[12]:#04x} of version 2 are unknown")
    if len(data) < _V2_FIXED_BYTES:
        return None
    length = _V2_FIXED_BYTES + int.from_bytes(data[14:16], "big")
    if length > MAX_PROXY_BYTES:
        return Malformed(f"a header of {length} bytes; {MAX_PROXY_BYTES} at most")
    kind = data[13]
    if data[12] == _PROXY:
        if (needed := _ADDRESS_BYTES.get(kind)) is None:
            return Malformed(f"family and transport {kind:#04x} of version 2 are unknown")
        if length < _V2_FIXED_BYTES + needed:
            return Malformed(f"{length} bytes are too few for the addresses")
    if len(data) < length:
        return None
    return Header(length, *(_v2_endpoints(kind, data) if data[12] == _PROXY else ()))


def _v2_endpoints(kind: int, data: bytes) -> tuple[Endpoint, ...]:
    if kind == _TCP4:
        source, destination, *ports = _V2_TCP4.unpack_from(data, _V2_FIXED_BYTES)
        hosts = [".".join(map(str, host)) for host in (source, destination)]
    elif kind == _TCP6:
        source, destination, *ports = _V2_TCP6.unpack_from(data, _V2_FIXED_BYTES)
        hosts = [_ipv6(source), _ipv6(destination)]
    else:
        return ()
    return (hosts[0], ports[0]), (hosts[1], ports[1])


class TrustedProxies:
    """The proxies that are trusted to name a connection's client."""

    def __init__(self, texts: Iterable[str]) -> None:
        """`texts` are addresses and networks ("10.0.0.0/8"); ConfigError if one is neither."""
        self._networks = [_network_from(text) for text in texts]
        # There are few proxies, and many connections of each.
        self._remembered: dict[str, bool] = {}

    def has(self, host: str) -> bool:
        """Return True if a trusted proxy has this address. IPv4 mapped into IPv6 counts as IPv4."""
        known = self._remembered.get(host)
        if known is None:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            known = self._remembered[host] = self._has(host)
        return known

    def _has(self, host: str) -> bool:
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        return any(address in network for network in self._networks)


def _network_from(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError:
        raise ConfigError(
            f"trusted_proxies: {text!r} is not allowed; "
            'give IP addresses and networks like "10.0.0.0/8", without host bits'
        ) from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        return IPv4Network((mapped, network.prefixlen - 96))
    return network

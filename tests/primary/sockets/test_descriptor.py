"""Bare descriptors, of real connections over loopback."""

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from aiocluster.primary.sockets.descriptor import host_of, packed_address, peek, skip
from tests.support.connections import tcp_pair

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Return a (client, accepted) pair, the accepted one as a listener has it."""
    client, accepted = tcp_pair()
    accepted.setblocking(False)
    with client, accepted:
        yield client, accepted


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_what_was_peeked_at_is_still_there(pair: Pair) -> None:
    """As often as one looks; and the descriptor is still its owner's."""
    client, accepted = pair
    assert peek(accepted.fileno(), 100) is None

    client.sendall(b"hello")

    assert [peek(accepted.fileno(), size) for size in (100, 100, 2)] == [b"hello", b"hello", b"he"]
    assert accepted.recv(100) == b"hello"
    assert peek(accepted.fileno(), 100) is None


def test_at_its_end_there_is_nothing(pair: Pair) -> None:
    """After what had come before."""
    client, accepted = pair
    client.sendall(b"hello")
    client.close()

    assert peek(accepted.fileno(), 100) == b"hello"
    assert skip(accepted.fileno(), 5)
    assert peek(accepted.fileno(), 100) == b""


def test_skipping_reads_so_much_and_no_more(pair: Pair) -> None:
    """What follows is somebody else's."""
    client, accepted = pair
    client.sendall(b"header" + b"request")

    assert skip(accepted.fileno(), 6)

    assert accepted.recv(100) == b"request"


def test_what_is_not_there_cannot_be_skipped(pair: Pair) -> None:
    """Not all of it has come, or nothing more will."""
    client, accepted = pair
    client.sendall(b"head")
    assert not skip(accepted.fileno(), 6)

    client.close()
    assert not skip(accepted.fileno(), 2)


def test_a_reset_connection_has_what_came_before(pair: Pair) -> None:
    """And nothing more, nor an address."""
    client, accepted = pair
    client.sendall(b"hello")
    assert host_of(accepted.fileno()) == "127.0.0.1"

    reset(client)

    assert host_of(accepted.fileno()) == ""
    assert skip(accepted.fileno(), 5)
    assert not skip(accepted.fileno(), 1)
    assert peek(accepted.fileno(), 100) == b""


def test_an_ipv6_address_is_read_whole() -> None:
    """It needs more room than one of IPv4."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        client = socket.create_connection(server.getsockname()[:2])
        accepted, _ = server.accept()
    with client, accepted:
        assert host_of(accepted.fileno()) == "::1"


@pytest.mark.parametrize(
    "peer",
    [
        ("127.0.0.1", 50000),
        ("255.255.255.255", 1),
        ("::1", 50000, 0, 0),
        ("2001:db8::1", 50000, 0, 0),
        ("::ffff:10.0.0.1", 50000, 0, 0),
    ],
)
def test_an_address_is_packed(peer: Any) -> None:
    """In 4 bytes or 16."""
    assert packed_address(peer) == ip_address(peer[0]).packed


def test_the_interface_of_a_link_local_one_is_left_out() -> None:
    """It is the server's, and may change its name."""
    assert packed_address(("fe80::1%eth0", 5, 0, 2)) == ip_address("fe80::1").packed


@pytest.mark.parametrize("peer", ["", b"", None, (), ("not an address", 1), "/run/x.sock", (7, 7)])
def test_without_an_address_there_is_nothing(peer: Any) -> None:
    """As on a Unix socket, where `accept` tells an empty text."""
    assert packed_address(peer) == b""

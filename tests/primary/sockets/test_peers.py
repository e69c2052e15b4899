"""From where a client comes, as bytes."""

from ipaddress import ip_address
from typing import Any

import pytest

from aiocluster.primary.sockets.peers import packed_address


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

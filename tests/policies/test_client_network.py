from ipaddress import IPv6Address, ip_address, ip_network

from hypothesis import assume, given
from hypothesis import strategies as st

from aiocluster.policies.client_network import client_network


def cut(address: str, prefix: int = 64) -> bytes:
    return client_network(ip_address(address).packed, prefix)


def test_an_ipv4_address_is_a_client() -> None:
    """It is not cut, whatever is done with IPv6."""
    assert cut("192.0.2.7", 1) == bytes([192, 0, 2, 7])


def test_an_ipv6_network_is_a_client() -> None:
    """Whatever address a host gives itself in its /64."""
    assert cut("2001:db8:1:2::1") == cut("2001:db8:1:2:ffff:ffff:ffff:ffff")
    assert cut("2001:db8:1:2::1") != cut("2001:db8:1:3::1")


def test_a_mapped_ipv4_address_is_the_ipv4_address() -> None:
    """A client is the same by each listener, and not all of IPv4 is one client."""
    assert cut("::ffff:192.0.2.7") == cut("192.0.2.7")
    assert cut("::ffff:192.0.2.7") != cut("::ffff:192.0.2.8")


def test_the_prefix_may_be_any() -> None:
    """The bit at its end counts, and the one behind it does not."""
    whole = int(ip_address("2001:db8:5555:aaaa:5555:aaaa:5555:aaaa"))
    address = whole.to_bytes(16, "big")
    for prefix in range(1, 129):
        last_inside = (whole ^ 1 << 128 - prefix).to_bytes(16, "big")
        first_outside = (whole ^ (1 << 128 - prefix) >> 1).to_bytes(16, "big")
        network = client_network(address, prefix)
        assert client_network(last_inside, prefix) != network, prefix
        assert client_network(first_outside, prefix) == network, prefix


# No mapped ones among them: those are IPv4.
ipv6 = st.integers(1 << 80, (1 << 128) - 1).map(IPv6Address)


@given(ipv6, ipv6, st.integers(0, 127), st.integers(1, 128))
def test_two_are_one_client_where_their_network_is_one(
    one: IPv6Address, noise: IPv6Address, alike: int, prefix: int
) -> None:
    """As Python's own ipaddress has it, for two that begin alike."""
    other = IPv6Address(int(one) ^ int(noise) >> alike)
    assume(other.ipv4_mapped is None)
    in_one_network = other in ip_network((one, prefix), strict=False)

    same = client_network(one.packed, prefix) == client_network(other.packed, prefix)

    assert same == in_one_network


@given(st.binary(max_size=20), st.integers(1, 128))
def test_to_cut_twice_changes_nothing(address: bytes, prefix: int) -> None:
    """So it does not matter who has cut already; and nothing is too short or too long."""
    once = client_network(address, prefix)
    assert client_network(once, prefix) == once

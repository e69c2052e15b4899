"""The part of an address that says which client it is."""

_IPV6_BYTES = 16

# ::ffff:a.b.c.d, which is how an IPv6 socket sees an IPv4 client.
_MAPPED = bytes(10) + b"\xff\xff"


def client_network(address: bytes, ipv6_prefix: int) -> bytes:
    """Return an IPv4 address as it is, and the first `ipv6_prefix` bits of an IPv6 address.

    A household or a host has a whole IPv6 network and changes its address in it at will.
    `address` is packed. An address that was cut before, and any other value, is returned as it is.
    """
    if len(address) != _IPV6_BYTES:
        return address
    if address.startswith(_MAPPED):
        return address[len(_MAPPED) :]
    whole, bits = divmod(ipv6_prefix, 8)
    if not bits:
        return address[:whole]
    return address[:whole] + bytes([address[whole] >> (8 - bits) << (8 - bits)])

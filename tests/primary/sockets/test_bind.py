"""From an address to bound sockets."""

import contextlib
import socket

import pytest

from aiocluster.config.settings import Address
from aiocluster.errors import ConfigError
from aiocluster.ipc.messages import Endpoint
from aiocluster.primary.sockets.bind import _look_up, bind, check_overlap
from tests.support.connections import open_fds

LOOPBACK = Address("127.0.0.1", 0)


def close_sockets(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def test_a_taken_port_is_an_error_that_names_it() -> None:
    """The user sees which address, and why not; nothing stays open."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        before = open_fds()
        with pytest.raises(ConfigError) as caught:
            bind(Address("127.0.0.1", port))
        assert str(caught.value) == f"cannot bind 127.0.0.1:{port}: Address already in use"
        assert open_fds() <= before


def test_an_address_of_another_machine_is_an_error_that_names_it() -> None:
    """An address that is not ours cannot be bound."""
    with pytest.raises(ConfigError, match=r"cannot bind 192\.0\.2\.1:80: Cannot assign requested"):
        bind(Address("192.0.2.1", 80))


def test_a_host_nobody_knows_is_an_error_that_names_it() -> None:
    """A name that does not resolve is told in the resolver's words."""
    with pytest.raises(ConfigError, match=r"cannot bind no-such-host\.invalid:80: \w+"):
        bind(Address("no-such-host.invalid", 80))


def test_port_0_takes_a_free_port() -> None:
    """Two binds get two ports."""
    first, second = bind(LOOPBACK), bind(LOOPBACK)
    ports = {sock.getsockname()[1] for sock in [*first, *second]}
    close_sockets([*first, *second])

    assert len(ports) == 2
    assert 0 not in ports


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_an_empty_host_is_all_interfaces_of_both_families_on_one_port() -> None:
    """With port 0 the families share the first one's port."""
    sockets = bind(Address("", 0))
    found = [(sock.family, *sock.getsockname()[:2]) for sock in sockets]
    close_sockets(sockets)

    port = found[0][2]
    assert found == [(socket.AF_INET, "0.0.0.0", port), (socket.AF_INET6, "::", port)]


def test_an_empty_host_is_at_least_all_of_ipv4() -> None:
    """A machine without IPv6 still serves."""
    sockets = bind(Address("", 0))
    hosts = [sock.getsockname()[0] for sock in sockets]
    close_sockets(sockets)

    assert hosts[0] == "0.0.0.0"


def test_a_port_can_be_bound_again_at_once() -> None:
    """A restart need not wait for the connections of the one before to be forgotten."""
    (sock,) = bind(LOOPBACK)
    host, port = sock.getsockname()
    sock.listen()
    client = socket.create_connection((host, port))
    sock.setblocking(True)
    accepted, _ = sock.accept()
    accepted.close()  # the server's side closes first: TIME_WAIT is on our port
    client.close()
    sock.close()

    close_sockets(bind(Address(host, port)))


@pytest.mark.parametrize("wanted", [True, False])
def test_accepted_connections_inherit_keepalive(wanted: bool) -> None:
    """Nobody has to set it again on each connection."""
    (sock,) = bind(LOOPBACK, tcp_keepalive=wanted)
    sock.listen()
    client = socket.create_connection(sock.getsockname())
    sock.setblocking(True)
    accepted, _ = sock.accept()
    probed = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    close_sockets([accepted, client, sock])

    assert bool(probed) == wanted


def bound_to_one_port(first: str, second: str) -> tuple[socket.socket, socket.socket]:
    """Bind both; another process may have the port that the first one gets at another address."""
    for _ in range(20):
        (one,) = bind(Address(first, 0))
        try:
            (two,) = bind(Address(second, one.getsockname()[1]))
        except ConfigError:
            one.close()
        else:
            return one, two
    raise AssertionError(f"no port is free at both {first} and {second}")


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "127.0.0.2", False),
    ],
)
def test_addresses_that_overlap_are_told(first: str, second: str, overlap: bool) -> None:
    """The kernel would tell only when everything is started."""
    one, two = bound_to_one_port(first, second)

    with pytest.raises(ConfigError, match="overlap") if overlap else contextlib.nullcontext():
        check_overlap([one, two])

    close_sockets([one, two])


def test_the_same_host_on_two_ports_is_no_overlap() -> None:
    """Two services, say."""
    sockets = [*bind(LOOPBACK), *bind(LOOPBACK)]

    check_overlap(sockets)

    close_sockets(sockets)


def test_more_sockets_than_a_handoff_can_tell_apart_are_refused() -> None:
    """Before any of them is used."""
    (sock,) = bind(LOOPBACK)

    with pytest.raises(ConfigError, match="256 sockets; at most 255"):
        check_overlap([sock] * 256)

    sock.close()


def test_a_link_local_address_keeps_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the scope the kernel refuses to bind it."""
    found = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1%eth0", 80, 0, 7))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    assert _look_up(Address("fe80::1%eth0", 80)) == [Endpoint(socket.AF_INET6, "fe80::1", 80, 7)]

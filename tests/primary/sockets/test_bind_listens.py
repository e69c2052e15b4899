"""From endpoints to sockets that listen; the kernel is real, but for what it refuses."""

import contextlib
import errno
import gc
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from aiocluster.ipc.messages import MAX_BACKLOG, Endpoint
from aiocluster.primary.sockets.bind import BoundEndpoint, listen_at
from tests.support.connections import open_fds

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)
LOOPBACK = Endpoint(V4, "127.0.0.1", 0)
NOT_OURS = Endpoint(V4, "192.0.2.1", 0)

needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


@contextlib.contextmanager
def listening(
    *endpoints: Endpoint, backlog: int = 100, taken: Sequence[socket.socket] = ()
) -> Iterator[list[BoundEndpoint]]:
    found = listen_at(endpoints, backlog, tcp_keepalive=True, taken=taken)
    try:
        yield found
    finally:
        for one in found:
            one.sock.close()


def failure(*endpoints: Endpoint, taken: Sequence[socket.socket] = ()) -> OSError:
    """Fail to listen, with nothing left open; return the error."""
    gc.collect()  # else what earlier tests have left may be closed meanwhile
    before = open_fds()
    with pytest.raises(OSError) as caught:  # noqa: PT011 (its errno is what is asked for)
        listen_at(endpoints, 100, tcp_keepalive=True, taken=taken)
    assert open_fds() == before
    return caught.value


def test_who_connects_waits_in_the_backlog() -> None:
    """Before anybody serves."""
    with listening(LOOPBACK) as ((where, sock),):
        assert where.port == sock.getsockname()[1] > 0
        with socket.create_connection((where.host, where.port)):
            sock.accept()[0].close()


def test_what_it_accepts_is_as_the_settings_say() -> None:
    """SO_KEEPALIVE is inherited."""
    for keepalive in (True, False):
        ((_, sock),) = listen_at([LOOPBACK], 100, tcp_keepalive=keepalive)
        with sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == keepalive


# node: net-listen-backlog
def test_the_backlog_is_that_of_who_asks() -> None:
    """The kernel tells it of a listening socket."""
    with listening(LOOPBACK, backlog=7) as ((_, sock),):
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    # tcpi_sacked of a listening socket is its backlog, 28 bytes into struct tcp_info.
    assert int.from_bytes(info[28:32], "little") == 7


def test_the_highest_backlog_that_may_be_asked_for_is_taken() -> None:
    """The kernel has a lower limit of its own."""
    with listening(LOOPBACK, backlog=MAX_BACKLOG) as found:
        assert len(found) == 1


@needs_ipv6
def test_with_port_0_all_families_have_one_port() -> None:
    """The first one's."""
    with listening(Endpoint(V4, "0.0.0.0", 0), Endpoint(V6, "::", 0)) as found:
        one, other = found
        assert one.endpoint.port == other.endpoint.port > 0
        assert [one.sock.family, other.sock.family] == [V4, V6]


@needs_ipv6
def test_another_port_is_tried_where_the_first_is_free_in_one_family_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Port 0 means any that is free."""
    bound: list[int] = []
    bind = socket.socket.bind

    def refusing_once(self: socket.socket, address: tuple[str, int]) -> None:
        if self.family == V6:
            bound.append(address[1])
            if len(bound) == 1:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        bind(self, address)

    monkeypatch.setattr(socket.socket, "bind", refusing_once)
    with listening(LOOPBACK, Endpoint(V6, "::1", 0)) as (_, other):
        assert other.endpoint.port == bound[-1]
    assert len(bound) == 2


def test_a_taken_port_is_in_use_and_none_of_the_others_is_bound() -> None:
    """All or none."""
    with socket.create_server(("127.0.0.2", 0)) as other:
        taken = Endpoint(V4, "127.0.0.2", other.getsockname()[1])
        assert failure(LOOPBACK, taken).errno == errno.EADDRINUSE


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_what_is_bound_and_does_not_listen_yet_is_in_use_too(host: str) -> None:
    """The kernel would allow it, and then refuse to let the other listen."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((host, 0))
        asked = Endpoint(V4, "127.0.0.1", other.getsockname()[1])
        assert failure(asked, taken=[other]).errno == errno.EADDRINUSE
        with listening(asked):
            pass


def test_an_address_of_another_machine_cannot_be_had() -> None:
    """With the kernel's own error, where it is the only one."""
    assert failure(NOT_OURS).errno == errno.EADDRNOTAVAIL


def test_what_this_machine_does_not_have_is_left_out_where_it_has_another() -> None:
    """As asyncio does: a name may have an address of a family that is switched off."""
    with listening(NOT_OURS, LOOPBACK) as found:
        assert [one.endpoint.host for one in found] == ["127.0.0.1"]


def test_a_family_that_this_machine_lacks_is_left_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel makes no socket of it."""

    class NoIpv6(socket.socket):
        def __init__(self, family: int, kind: int) -> None:
            if family == V6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, kind)

    monkeypatch.setattr(socket, "socket", NoIpv6)
    six = Endpoint(V6, "::1", 0)
    with listening(six, LOOPBACK) as found:
        assert [one.endpoint.family for one in found] == [V4]
    assert failure(six).errno == errno.EAFNOSUPPORT


# node: eaccess, bind-privileged-port, shared-handle-bind-privileged-port
def test_a_port_for_which_the_rights_are_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """EACCES, as the kernel has it; where we have the rights, the kernel is made to say so."""
    port = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) - 1
    if os.geteuid() == 0 or port < 1:

        def denied(self: socket.socket, address: tuple[str, int]) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(socket.socket, "bind", denied)

    assert failure(Endpoint(V4, "127.0.0.1", max(port, 1))).errno == errno.EACCES


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        (Endpoint(V4, "localhost", 0), "'localhost': Invalid argument"),
        (Endpoint(V4, "127.0.0.1\0", 0), "'127.0.0.1\\x00': Invalid argument"),
        (Endpoint(V4, "", 0), "'': Invalid argument"),
        (Endpoint(V4, "127.0.0.1", 65536), "65536 is no port"),
        (Endpoint(V4, "127.0.0.1", -1), "-1 is no port"),
        (Endpoint(V6, "127.0.0.1", 0), "'127.0.0.1': Invalid argument"),
    ],
)
def test_what_is_no_address_is_refused(endpoint: Endpoint, text: str) -> None:
    """A name above all: looking it up would hold up everybody."""
    error = failure(endpoint)
    assert (error.errno, error.strerror) == (errno.EINVAL, text)


def test_a_family_that_is_none_of_the_internets_is_refused() -> None:
    """There is nothing but TCP here."""
    assert failure(Endpoint(int(socket.AF_UNIX), "/tmp/x", 0)).errno == errno.EAFNOSUPPORT


def test_nothing_to_listen_at_is_an_error() -> None:
    """Not a server without sockets."""
    assert failure().errno == errno.EINVAL

"""Closing the door on nobody, with real sockets on loopback."""

import asyncio
import errno
import socket

import pytest

from aiocluster.primary.sockets.backlog import drop_new_syns, half_open, has_half_open
from tests.support.waiting import soon

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1211 1
   1: 0100007F:1F90 0200007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 1212 1
   2: 0100007F:1F91 0200007F:1F90 03 00000000:00000000 01:00000019 00000000     0        0 0 1
"""


def test_one_that_is_half_open_is_found_by_its_port() -> None:
    """Not one that is open, nor a listener, nor one of the client's ports."""
    lines = TABLE.splitlines()

    assert half_open(lines, {0x1F91})
    assert not half_open(lines, {0x1F90})
    assert not half_open(lines, set())


def test_one_of_ipv6_is_found_too() -> None:
    """Its addresses are longer."""
    address = "00000000000000000000000001000000:1F90"

    assert half_open([f"0: {address} {address} 03 0:0 01:19 0 0 0 0"], {0x1F90})


def test_where_nobody_knocks_nobody_is_found() -> None:
    """The kernel's own table, as it is here."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            assert not has_half_open({port})


async def test_who_has_connected_stays_and_nobody_else_comes() -> None:
    """What waits is served in full; who comes late is refused when the listener has closed."""
    loop = asyncio.get_running_loop()
    server = socket.create_server(("127.0.0.1", 0))
    address = server.getsockname()
    with socket.create_connection(address) as early, socket.socket() as late:
        early.sendall(b"begun before")
        if not drop_new_syns(server):
            pytest.skip("this kernel has no filters for sockets")
        late.setblocking(False)
        assert late.connect_ex(address) == errno.EINPROGRESS
        accepted, _ = server.accept()
        early.sendall(b", goes on")
        with accepted:
            assert accepted.recv(12, socket.MSG_WAITALL) == b"begun before"
            accepted.sendall(b"and ends")
        assert early.recv(100) == b"and ends"
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()

        server.close()

        # The kernel tries the first packet again a second later.
        decided = asyncio.Event()
        loop.add_writer(late, decided.set)
        await soon(decided.wait())
        loop.remove_writer(late)
        assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_where_the_kernel_has_no_filter_it_is_told() -> None:
    """Then the door closes as it always did."""
    closed = socket.socket()
    closed.close()

    assert not drop_new_syns(closed)

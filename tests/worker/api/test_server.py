"""A server as its user has it: asyncio's own, with nothing behind it but what the test says."""

import asyncio
import re
import socket
import ssl
from typing import Any

import pytest

from aiocluster.ipc.messages import Bound, Endpoint
from aiocluster.worker.api.server import ClusterServer, Options
from tests.support.waiting import soon, turns

BOUND = [
    Bound(3, Endpoint(socket.AF_INET, "127.0.0.1", 4711)),
    Bound(4, Endpoint(socket.AF_INET6, "::1", 4712, 7)),
]


class FakeTransports:
    """Writes down what a server wants."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.empty = asyncio.Event()
        self.open: list[Any] = []

    def serve(self, server: ClusterServer) -> None:
        self.asked.append("serve")

    def unlisten(self, server: ClusterServer) -> None:
        self.asked.append("unlisten")

    def transports(self, server: ClusterServer) -> list[asyncio.Transport]:
        return self.open

    async def wait_empty(self, server: ClusterServer) -> None:
        await self.empty.wait()


class FakeTransport:
    def __init__(self) -> None:
        self.done: list[str] = []

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")


@pytest.fixture
async def owner() -> FakeTransports:
    return FakeTransports()


@pytest.fixture
async def server(owner: FakeTransports) -> ClusterServer:
    return ClusterServer(asyncio.Protocol, Options(), BOUND, owner)


async def test_it_is_a_server_and_says_where_it_listens(server: ClusterServer) -> None:
    """In asyncio's form and in ours; the former is empty once it is closed."""
    assert isinstance(server, asyncio.AbstractServer)
    assert [sock.getsockname() for sock in server.sockets] == [
        ("127.0.0.1", 4711),
        ("::1", 4712, 0, 7),
    ]
    assert [sock.family for sock in server.sockets] == [socket.AF_INET, socket.AF_INET6]
    assert {(sock.type, sock.proto, sock.fileno()) for sock in server.sockets} == {(1, 6, -1)}
    assert server.get_loop() is asyncio.get_running_loop()
    assert "127.0.0.1" in repr(server)

    server.close()

    assert server.sockets == ()
    assert server.addresses == (("127.0.0.1", 4711), ("::1", 4712))
    assert repr(server) == "<ClusterServer closed>"


async def test_it_serves_from_when_it_is_told_until_it_is_closed(
    server: ClusterServer, owner: FakeTransports
) -> None:
    """Both as often as anybody likes."""
    assert not server.is_serving()
    await server.start_serving()
    await server.start_serving()
    assert server.is_serving()

    server.close()
    server.close()

    assert not server.is_serving()
    assert owner.asked == ["serve", "unlisten"]
    with pytest.raises(RuntimeError, match="is closed"):
        await server.start_serving()


async def test_to_be_closed_means_without_connections(
    server: ClusterServer, owner: FakeTransports
) -> None:
    """One that is not even told to close is not waited for, as asyncio has it."""
    await soon(server.wait_closed())
    server.close()
    waiting = asyncio.create_task(server.wait_closed())
    await turns(20)
    assert not waiting.done()

    owner.empty.set()

    await soon(waiting)


async def test_as_a_context_it_is_closed_at_the_end(
    server: ClusterServer, owner: FakeTransports
) -> None:
    """And waited for."""
    owner.empty.set()
    async with server as same:
        assert same is server
        assert owner.asked == []

    assert owner.asked == ["unlisten"]


@pytest.mark.parametrize("how", ["closed", "cancelled"])
async def test_serving_for_ever_ends_as_asyncios_does(
    server: ClusterServer, owner: FakeTransports, how: str
) -> None:
    """With a CancelledError, once the server is closed and its connections are gone."""
    forever = asyncio.create_task(server.serve_forever())
    await turns()
    assert server.is_serving()
    with pytest.raises(RuntimeError, match="already being awaited"):
        await server.serve_forever()
    if how == "closed":
        server.close()
    else:
        forever.cancel()
    await turns(20)
    assert not forever.done()
    assert not server.is_serving()

    owner.empty.set()

    with pytest.raises(asyncio.CancelledError):
        await soon(forever)
    with pytest.raises(RuntimeError, match="is closed"):
        await server.serve_forever()


async def test_its_clients_may_be_closed_and_aborted(
    server: ClusterServer, owner: FakeTransports
) -> None:
    """As from Python 3.13 on."""
    owner.open = [FakeTransport(), FakeTransport()]

    server.close_clients()
    server.abort_clients()

    assert [one.done for one in owner.open] == [["close", "abort"]] * 2


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"sock": object()}, "sock: the primary binds"),
        ({"reuse_port": True}, "reuse_port: all workers share"),
        ({"reuse_address": False}, "reuse_address=False: the primary always"),
        ({"keep_alive": True}, "the setting tcp_keepalive"),
        ({"ssl_handshake_timeout": 1.0}, "ssl_handshake_timeout is only meaningful with ssl"),
        ({"ssl_shutdown_timeout": 1.0}, "ssl_shutdown_timeout is only meaningful with ssl"),
        ({"backlog": -1}, "backlog must be 0 to 2147483647, not -1"),
        ({"backlog": 2**31}, "backlog must be 0 to 2147483647, not 2147483648"),
    ],
)
def test_what_makes_no_sense_in_a_cluster_is_refused(options: Any, error: str) -> None:
    """By name, with the reason."""
    with pytest.raises(ValueError, match=error):
        Options(**options)


@pytest.mark.parametrize("options", [{"ssl": True}, {"back_log": 5}])
def test_what_asyncio_refuses_is_refused(options: Any) -> None:
    """A wrong type, an unknown name."""
    with pytest.raises(TypeError, match=r"True|back_log"):
        Options(**options)


@pytest.mark.parametrize("backlog", [5.5, "5", None, [5]])
def test_a_backlog_that_is_no_int_is_refused(backlog: Any) -> None:
    """Here, naming it: a message with it would end the worker."""
    with pytest.raises(TypeError, match=re.escape(f"backlog must be an int, not {backlog!r}")):
        Options(backlog=backlog)


def test_what_stands_for_an_int_is_a_backlog() -> None:
    """As asyncio has it; a message takes no int but a real one."""

    class Five:
        def __index__(self) -> int:
            return 5

    five: Any = Five()
    assert type(Options(backlog=five).backlog) is int


def test_tls_is_for_each_connection() -> None:
    """And nothing is said of it where there is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    assert Options(reuse_address=True, reuse_port=False).for_connections == {}
    assert Options(ssl=context, ssl_handshake_timeout=5.0).for_connections == {
        "ssl": context,
        "ssl_handshake_timeout": 5.0,
        "ssl_shutdown_timeout": None,
    }

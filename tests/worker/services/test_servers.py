"""Servers of a worker's own, over real sockets; the test's primary binds and hands over."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aiocluster.errors import ClusterStopping
from aiocluster.ipc.handoff import Client as ToldClient
from aiocluster.ipc.handoff import give, handoff_pair, take
from aiocluster.ipc.messages import Bound, Listen, Listening, Serving, Unlisten
from aiocluster.ipc.scoreboard import CONNECTIONS_CLOSED, CONNECTIONS_TAKEN
from aiocluster.worker.api.server import ClusterServer
from aiocluster.worker.services.servers import ServerRegistry
from tests.support.listening import BindingPrimary, close_returned
from tests.support.tls import contexts
from tests.support.waiting import soon, turns, turns_until

HOST = "127.0.0.1"


class Stage:
    """One worker's servers, and their primary."""

    def __init__(self) -> None:
        self.row = memoryview(bytearray(16 * 8)).cast("Q")
        self.sender, self.receiver = handoff_pair()
        self.primary = BindingPrimary(self.sender)
        self.ends = 0  # that somebody who waits for room would have been told of
        self.servers = ServerRegistry(self.row, self.primary.hear, self._give_back, self._note_end)
        self.primary.answer = self.servers.requests.hear  # type: ignore[assignment]
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.receiver, self._take)

    def _take(self) -> None:
        for fd, listener, client in take(self.receiver) or []:
            self.row[CONNECTIONS_TAKEN] += 1
            self.servers.adopt(fd, listener, client)

    def _give_back(self, fd: int, listener: int, client: ToldClient | None) -> bool:
        return give(self.receiver, [fd], bytes([listener]))

    def _note_end(self) -> None:
        self.ends += 1
        assert self.ends == self.row[CONNECTIONS_CLOSED]

    @property
    def open(self) -> int:
        return self.row[CONNECTIONS_TAKEN] - self.row[CONNECTIONS_CLOSED]

    async def drain(self, seconds: float = 1000.0) -> list[str]:
        self.servers.stop()
        self.servers.hurry(seconds)
        await soon(self.servers.drain())
        return self.servers.cut

    async def close(self) -> None:
        await self.drain(0.0)
        self._loop.remove_reader(self.receiver)
        self.primary.close()
        self.sender.close()
        self.receiver.close()
        await turns()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    await stage.close()


class Echo(asyncio.Protocol):
    """Sends back what comes; knows all there were."""

    def __init__(self, made: "list[Echo]") -> None:
        self.lost: list[Exception | None] = []
        made.append(self)

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


async def echo_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
    writer.close()


class Client:
    """A client of a server that says back what it hears."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def echo(self, text: str = "hello") -> None:
        self.writer.write(f"{text}\n".encode())
        assert await soon(self.reader.readline()) == f"{text}\n".encode()

    async def closed(self) -> bytes:
        """Wait for the other side's end; return what came before."""
        with contextlib.suppress(ConnectionResetError):
            return await soon(self.reader.read())
        return b"reset"

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await soon(self.writer.wait_closed())


async def connect(server: ClusterServer, **options: Any) -> Client:
    host, port = server.addresses[0]
    return Client(*await soon(asyncio.open_connection(host, port, **options)))


async def test_streams_are_served_and_counted(stage: Stage) -> None:
    """As by asyncio.start_server."""
    server = await soon(stage.servers.start_server(echo_lines, HOST, 0, 2**16))
    assert server.is_serving()
    clients = [await connect(server) for _ in range(3)]
    for client in clients:
        await client.echo()
    assert stage.open == 3

    for client in clients:
        await client.close()

    await turns_until(lambda: stage.open == 0)
    assert stage.row[CONNECTIONS_TAKEN] == 3


async def test_any_protocol_is_served(stage: Stage) -> None:
    """Each connection has its own; its end is told to it and counted once."""
    made: list[Echo] = []
    server = await soon(stage.servers.create_server(lambda: Echo(made), HOST, 0))
    client = await connect(server)
    await client.echo()
    assert made[0].transport.get_extra_info("peername") == client.writer.get_extra_info("sockname")

    made[0].transport.abort()

    await client.closed()
    await turns_until(lambda: stage.open == 0)
    assert made[0].lost == [None]
    await client.close()


async def test_the_worker_is_given_nothing_before_it_knows_what_to_do(stage: Stage) -> None:
    """Serving follows when it knows; with start_serving=False when it is told."""
    server = await soon(stage.servers.start_server(echo_lines, HOST, 0, 2**16, start_serving=False))
    (listen,) = stage.primary.heard
    assert isinstance(listen, Listen)
    assert not server.is_serving()

    await server.start_serving()

    assert stage.primary.heard[1:] == [Serving(1)]
    client = await connect(server)
    await client.echo()
    await client.close()


async def test_one_server_may_have_many_addresses(stage: Stage) -> None:
    """Each is a listener of its own, and closed with it."""
    server = await soon(stage.servers.start_server(echo_lines, [HOST, "127.0.0.2"], 0, 2**16))
    assert len(server.addresses) == 2
    for where in server.addresses:
        client = Client(*await soon(asyncio.open_connection(*where)))
        await client.echo()
        await client.close()

    server.close()

    assert stage.primary.heard[-2:] == [Unlisten(1), Unlisten(2)]
    assert stage.primary.listeners == {}
    await soon(server.wait_closed())


async def test_a_port_that_is_taken_is_told_and_had_once_it_is_free(stage: Stage) -> None:
    """EADDRINUSE, in the caller that asked."""
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="in use") as caught:
            await soon(stage.servers.start_server(echo_lines, HOST, port, 2**16))
        assert caught.value.errno == errno.EADDRINUSE

    server = await soon(stage.servers.start_server(echo_lines, HOST, port, 2**16))
    client = await connect(server)
    await client.echo()
    await client.close()


async def test_closing_leaves_what_is_open(stage: Stage) -> None:
    """No new connections; it is closed when the last one has gone."""
    server = await soon(stage.servers.start_server(echo_lines, HOST, 0, 2**16))
    client = await connect(server)
    await client.echo()
    server.close()
    waiting = asyncio.create_task(server.wait_closed())
    await client.echo("still there")
    assert not waiting.done()
    with pytest.raises(ConnectionRefusedError):
        await connect(server)

    await client.close()

    await soon(waiting)
    assert stage.servers._open == {}


async def test_what_comes_for_a_closed_server_goes_back(stage: Stage) -> None:
    """It was on its way: others may serve it still, and here it counts as gone."""
    client = stage.primary.hand_over(77)
    await turns_until(lambda: stage.row[CONNECTIONS_CLOSED] == 1)

    assert close_returned(stage.primary.returned()) == [77]
    assert await soon(asyncio.get_running_loop().sock_recv(client, 1)) == b""
    client.close()


async def test_what_cannot_go_back_is_closed(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Its client need not wait for an answer that never comes."""
    stage.servers._give_back = lambda fd, listener, client: False
    client = stage.primary.hand_over(77)

    assert await soon(asyncio.get_running_loop().sock_recv(client, 1)) == b""
    client.close()
    assert (stage.open, stage.ends) == (0, 1)
    assert "a connection to a server that was just closed" in caplog.text


async def test_a_factory_that_raises_costs_its_own_connection_only(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """It is closed, counted and logged."""
    made: list[Echo] = []

    def factory() -> Echo:
        if not made:
            made.append(None)  # type: ignore[arg-type]
            raise LookupError("no protocol today")
        return Echo(made)

    server = await soon(stage.servers.create_server(factory, HOST, 0))
    first = await connect(server)
    assert await first.closed() in (b"", b"reset")
    assert stage.open == 0
    assert "no protocol today" in caplog.text

    second = await connect(server)
    await second.echo()
    await first.close()
    await second.close()


async def test_clients_may_be_closed_and_aborted(stage: Stage) -> None:
    """All that are open, and no others."""
    server = await soon(stage.servers.start_server(echo_lines, HOST, 0, 2**16))
    other = await soon(stage.servers.start_server(echo_lines, HOST, 0, 2**16))
    one, two, spared = await connect(server), await connect(server), await connect(other)
    for client in (one, two, spared):
        await client.echo()

    server.close_clients()
    assert await one.closed() == b""
    assert await two.closed() == b""
    await turns_until(lambda: stage.open == 1)
    three = await connect(server)
    await three.echo()
    server.abort_clients()
    await three.closed()

    await spared.echo()
    for client in (one, two, three, spared):
        await client.close()


# ---- TLS


async def test_tls_is_spoken_here(stage: Stage, tmp_path: Path) -> None:
    """The primary knows nothing of it."""
    serving, trusting = contexts(tmp_path)
    server = await soon(stage.servers.start_server(echo_lines, HOST, 0, 2**16, ssl=serving))
    client = await connect(server, ssl=trusting, server_hostname="localhost")

    await client.echo()

    assert stage.open == 1
    await client.close()
    await turns_until(lambda: stage.open == 0)


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b""])
async def test_who_speaks_no_tls_is_closed_and_counted(
    stage: Stage, tmp_path: Path, said: bytes
) -> None:
    """Nonsense, and a client that says nothing and goes."""
    made: list[Echo] = []
    serving, _ = contexts(tmp_path)
    server = await soon(stage.servers.create_server(lambda: Echo(made), HOST, 0, ssl=serving))
    client = await connect(server)
    await turns_until(lambda: stage.open == 1)
    client.writer.write(said)
    if not said:
        client.writer.close()

    await client.closed()

    await turns_until(lambda: stage.open == 0)
    assert made[0].lost == []
    await client.close()


async def test_who_says_nothing_at_all_has_a_time_for_tls(stage: Stage, tmp_path: Path) -> None:
    """ssl_handshake_timeout is passed on."""
    serving, _ = contexts(tmp_path)
    server = await soon(
        stage.servers.start_server(
            echo_lines, HOST, 0, 2**16, ssl=serving, ssl_handshake_timeout=0.05
        )
    )
    client = await connect(server)

    await client.closed()

    await turns_until(lambda: stage.open == 0)
    await client.close()


# ---- the drain


async def test_a_drain_without_connections_is_over_at_once(stage: Stage) -> None:
    """Its servers are closed, without a word to the primary, which has told us to go."""
    server = await soon(stage.servers.start_server(echo_lines, HOST, 0, 2**16))
    heard = len(stage.primary.heard)

    assert await stage.drain() == []

    assert not server.is_serving()
    assert len(stage.primary.heard) == heard
    with pytest.raises(ClusterStopping, match="draining"):
        await stage.servers.start_server(echo_lines, HOST, 0, 2**16)


async def test_a_server_that_is_bound_as_the_drain_begins_is_none(stage: Stage) -> None:
    """The answer and the Drain are read in one go, before who asked goes on."""
    stage.primary.is_silent = True
    asking = asyncio.create_task(stage.servers.create_server(asyncio.Protocol, HOST, 0))
    await turns_until(lambda: bool(stage.primary.heard))
    listen = stage.primary.heard[0]
    assert isinstance(listen, Listen)

    stage.servers.requests.hear(Listening(listen.request_id, [Bound(3, listen.endpoints[0])]))
    stage.servers.stop()

    with pytest.raises(ClusterStopping, match="draining"):
        await soon(asking)
    assert stage.primary.heard == [listen]
    assert await stage.drain() == []


async def test_a_drain_waits_for_connections_and_what_they_do(stage: Stage) -> None:
    """A callback may go on when its client has gone."""
    go, done = asyncio.Event(), asyncio.Event()

    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await echo_lines(reader, writer)
        await go.wait()
        done.set()

    server = await soon(stage.servers.start_server(work, HOST, 0, 2**16))
    client = await connect(server)
    await client.echo()
    draining = asyncio.create_task(stage.drain())
    await client.echo("still served")
    assert not draining.done()

    await client.close()
    await turns_until(lambda: stage.open == 0)
    await turns(20)
    assert not draining.done()
    go.set()

    assert await soon(draining) == []
    assert done.is_set()


async def test_at_the_deadline_connections_are_cut_and_named(stage: Stage) -> None:
    """A second, shorter one comes nearer; whoever serves for ever is told by its end."""
    cleaned = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"welcome\n")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cleaned.set()

    server = await soon(stage.servers.start_server(hang, HOST, 0, 2**16))
    forever = asyncio.create_task(server.serve_forever())
    client = await connect(server)
    assert await soon(client.reader.readline()) == b"welcome\n"
    here = "{}:{}".format(*client.writer.get_extra_info("sockname"))
    there = "{}:{}".format(*server.addresses[0])
    draining = asyncio.create_task(stage.drain())
    await turns(20)
    assert not draining.done()
    assert not forever.done()

    stage.servers.hurry(0.0)

    assert await soon(draining) == [f"connection from {here} to {there}"]
    assert cleaned.is_set()
    assert stage.open == 0
    with pytest.raises(asyncio.CancelledError):
        await soon(forever)
    await client.closed()
    await client.close()


async def test_of_many_that_are_cut_some_are_named(stage: Stage) -> None:
    """One line of the log, not a thousand."""
    server = await soon(stage.servers.start_server(echo_lines, HOST, 0, 2**16))
    clients = [await connect(server) for _ in range(25)]
    await turns_until(lambda: stage.open == 25)
    await turns()

    cut = await stage.drain(0.0)

    assert len(cut) == 21
    assert cut[-1] == "and 5 more"
    for client in clients:
        await client.close()


async def test_a_callback_that_outlives_its_client_is_cut(stage: Stage) -> None:
    """And one that refuses holds up nobody."""
    go = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        while not go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await go.wait()

    server = await soon(stage.servers.start_server(refuse, HOST, 0, 2**16))
    client = await connect(server)
    await client.closed()
    await turns_until(lambda: stage.open == 0)

    assert await stage.drain(0.0) == ["a server's callback for a client that has gone"]

    go.set()
    await turns()
    await client.close()


async def test_a_protocol_that_is_replaced_is_counted_all_the_same(stage: Stage) -> None:
    """As where a connection becomes a WebSocket: the first protocol never hears of its end."""
    made: list[Echo] = []

    class Upgraded(Echo):
        def data_received(self, data: bytes) -> None:
            other = Echo(made)
            other.connection_made(self.transport)
            self.transport.set_protocol(other)
            other.data_received(data)

    server = await soon(stage.servers.create_server(lambda: Upgraded(made), HOST, 0))
    client = await connect(server)
    await client.echo()

    await client.close()

    await turns_until(lambda: stage.open == 0)
    assert [one.lost for one in made] == [[], [None]]


async def test_no_descriptor_is_left_by_any_kind_of_end(stage: Stage, tmp_path: Path) -> None:
    """Served, refused by the factory, without TLS, turned away."""

    def fail() -> asyncio.Protocol:
        raise LookupError

    serving, _ = contexts(tmp_path)
    servers = [
        await soon(stage.servers.start_server(echo_lines, HOST, 0, 2**16)),
        await soon(stage.servers.create_server(fail, HOST, 0)),
        await soon(stage.servers.start_server(echo_lines, HOST, 0, 2**16, ssl=serving)),
    ]

    async def end_in_all_ways() -> int:
        done = stage.row[CONNECTIONS_CLOSED]
        for server in servers:
            client = await connect(server)
            client.writer.write(b"hello\n")
            await soon(client.reader.read(1))
            await client.close()
        stage.primary.hand_over(99).close()
        await turns_until(lambda: stage.row[CONNECTIONS_CLOSED] == done + 4)
        close_returned(stage.primary.returned())
        await turns(20)
        return len(os.listdir("/proc/self/fd"))

    before = await end_in_all_ways()  # what the loop opens for itself is open then

    assert [await end_in_all_ways() for _ in range(5)] == [before] * 5


@pytest.mark.parametrize("with_tls", [False, True])
async def test_one_protocol_for_all_connections_is_counted_for_each(
    stage: Stage, tmp_path: Path, with_tls: bool
) -> None:
    """It has no way to know which of them was lost; we have."""
    serving, trusting = contexts(tmp_path) if with_tls else (None, None)
    hello = {"ssl": trusting, "server_hostname": "localhost"} if with_tls else {}
    shared = Echo([])
    server = await soon(stage.servers.create_server(lambda: shared, HOST, 0, ssl=serving))
    clients = []
    for _ in range(3):
        clients.append(await connect(server, **hello))
        await clients[-1].echo()  # the last one that came is who is answered

    await clients[0].close()
    await turns_until(lambda: stage.open == 2)
    await turns(20)
    assert (len(shared.lost), stage.open) == (1, 2)
    assert len(stage.servers.transports(server)) == 2

    server.abort_clients()
    await turns_until(lambda: len(shared.lost) == 3)
    assert stage.open == 0
    for client in clients[1:]:
        await client.closed()
        await client.close()
